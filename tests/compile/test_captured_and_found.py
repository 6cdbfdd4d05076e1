"""What a capture calls a problem is what a launch of the same program is looked up by."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fusetune
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import NamedConfig
from fusetune.ops.arguments import bind
from fusetune.runtime.launch_configs import LaunchConfigs
from tests.support.fake_gpu import on_gpu
from tests.support.launch_entries import alone, write_tuned
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
PROGRAM = """
import torch
import triton
import triton.language as tl


@triton.autotune([triton.Config({"BLOCK": 256}), triton.Config({"BLOCK": 512}, num_warps=8)], key=["n"])
@triton.jit
def add(x_ptr, y_ptr, n, eps, BLOCK: tl.constexpr, KIND: tl.constexpr = "plain"):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) + eps, mask=at < n)


@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def copied(x_ptr, _none_ptr, n, DTYPE: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n).to(DTYPE), mask=at < n)


def main(zeros):
    x, n = zeros(5008), 5000
    add[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, x[1:], n, 1e-5)
    copied[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, None, n, tl.float32, BLOCK=1024)


if __name__ == "__main__":
    main(lambda n: torch.zeros(n, device="cuda"))
"""


def test_each_launch_of_a_program_is_found_by_the_entry_of_its_capture(tmp_path, monkeypatch):
    from triton.runtime.jit import JITFunction

    (tmp_path / "bench.py").write_text(PROGRAM)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", "capture", "--keep", "--json", "--target", "rtx4090", "bench.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    specs = [CapturedSpec(Path(case["kept"])) for case in json.loads(done.stdout)["cases"]]
    located = importlib.util.spec_from_file_location("bench", tmp_path / "bench.py")
    assert located is not None
    assert located.loader is not None
    module = importlib.util.module_from_spec(located)
    monkeypatch.setitem(sys.modules, "bench", module)
    located.loader.exec_module(module)
    launches: list[tuple[Any, dict[str, Any], Any]] = []

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        launches.append((kernel, bind(kernel, args, named)[0], grid))

    monkeypatch.setattr(JITFunction, "run", run)
    module.add.configs = module.add.configs[:1]  # nothing is timed here
    module.main(on_gpu)
    configs = alone(tmp_path, monkeypatch)
    try:
        for kernel, _, _ in launches:
            (spec,) = [one for one in specs if one.kept.case.kernel.name == kernel.__name__]
            problem = spec.captured_problem()
            before = spec.before(problem)
            assert before is not None
            tuned = NamedConfig(**{**dict(spec.baseline(problem)), "num_warps": 8})
            write_tuned(configs, kernel, dict(problem), tuned, before=before)
        for kernel, arguments, grid in launches:
            found = LaunchConfigs().find(kernel, arguments, grid)
            assert (found.rung, found.options["num_warps"]) == ("exact", 8), (kernel.__name__, found.why, found.skipped)
            assert set(found.follows) <= {"EVEN"}
    finally:
        fusetune.load()
    assert [one[0].__name__ for one in launches] == ["add", "copied"]
