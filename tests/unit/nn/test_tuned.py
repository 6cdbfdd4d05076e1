"""`fusetune.config`: the config of a problem of any op, with as little loaded as there can be."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.core.target import find_target
from fusetune.errors import NoUsableGpuError, UnsupportedProblemError, UsageError
from fusetune.ops import device
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.loading import load_spec, remember
from fusetune.runtime import facts
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, Environment, TargetIdentity, Times
from fusetune.store.yaml_files import write_entry

EXAMPLE = Path(__file__).parents[3] / "examples" / "vector_add.py"
GPU = find_target("rtx4090")
ASK = """
import json, sys
import fusetune
fusetune.load({folder!r}, allow_predicted=True)
found = fusetune.config({op!r}, target="rtx4090", **{problem!r})
heavy = sorted({{"torch", "triton", "numpy", "scipy"}} & sys.modules.keys())
print(json.dumps([found.config.label(), found.rung, found.reason, list(found.skipped), heavy]))
"""


def ask(folder: Path, op: str, problem: dict[str, Any], state: Path) -> list[Any]:
    """Label, rung, reason, what was passed over and what heavy was loaded, in a process of its own."""
    program = ASK.format(folder=str(folder), op=op, problem=problem)
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: list[Any] = json.loads(done.stdout)
    return answer


def put(folder: Path, op: str, place: str, kernel_hash: str, n: int) -> None:
    environment = Environment(triton="3.7.1", kernel_hash=kernel_hash)
    entry = Entry(
        problem=NamedProblem(n=n),
        config=NamedConfig(BLOCK=512, num_warps=8),
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=environment,
        run="20261128T000000-000000",
        date="2026-11-28",
        predicted_us=Times(baseline=2.0, conservative=2.0, config=1.0),
    )
    identity = TargetIdentity(GPU.name, GPU.capability, GPU.sms)
    write_entry(config_path(folder, GPU.name, op), op, identity, entry, place)


def test_a_built_in_op_is_answered_without_torch_or_triton(tmp_path):
    label, rung, reason, _, heavy = ask(tmp_path, "gemm_scale", {"M": 128, "N": 512, "K": 1024}, tmp_path)
    assert (label, rung, heavy) == (BASELINE.label(), "baseline", [])
    assert reason.startswith("BASELINE, because no entry fits")
    shipped = Path(fusetune.__file__).parents[1] / "configs"
    label, rung, reason, _, heavy = ask(shipped, "gemm_scale", {"M": 128, "N": 512, "K": 1024}, tmp_path)
    assert (rung, reason, heavy) == ("exact", "the entry for exactly this problem", [])
    assert label != BASELINE.label()


def test_an_op_of_a_file_is_answered_without_torch_or_triton_while_the_file_is_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "tuned_add.py"
    file.write_text(EXAMPLE.read_text().replace('"vector_add"', '"tuned_add"'))
    spec = load_spec(f"{file}:SPEC")
    assert remember(spec) is None
    put(tmp_path / "configs", "tuned_add", f"{file}:SPEC", spec.source_hash(), 4096)
    answer = ask(tmp_path / "configs", "tuned_add", {"n": 4096}, tmp_path / "state")
    assert answer == ["BLOCK=512 w8 s2", "exact", "the entry for exactly this problem", [], []]
    file.write_text(file.read_text() + "\n# a comment\n")
    answer = ask(tmp_path / "configs", "tuned_add", {"n": 4096}, tmp_path / "state")
    assert answer[:2] == ["BLOCK=512 w8 s2", "exact"], "the file has changed, its kernels have not"
    assert "triton" in answer[4], "which only the op itself can say"
    file.write_text(file.read_text().replace("mask=inside) + tl.load", "mask=inside) - tl.load"))
    label, rung, _, skipped, _ = ask(tmp_path / "configs", "tuned_add", {"n": 4096}, tmp_path / "state")
    assert rung == "baseline"
    assert "the kernel source has changed since" in skipped[0]
    assert label == spec.baseline(NamedProblem(n=4096)).label()


def test_an_op_that_nobody_named_and_a_problem_that_is_none_are_told(monkeypatch):
    with pytest.raises(UsageError, match="op 'nobody_s' is not known"):
        fusetune.config("nobody_s", n=1, target="rtx4090")
    with pytest.raises(UsageError, match="is not known"):
        fusetune.config("../gemm_scale", n=1, target="rtx4090")
    with pytest.raises(UnsupportedProblemError, match="K is missing"):
        fusetune.config("gemm_scale", M=1, N=1, target="rtx4090")


def test_the_driver_is_asked_in_a_process_of_its_own(monkeypatch):
    ask_driver = textwrap.dedent(
        """
        import sys
        assert "torch" not in sys.modules
        sys.stdout.buffer.write(b"9 0 132\\nNVIDIA H200")
        """
    )
    device.identity_by_driver.cache_clear()
    monkeypatch.setattr(device, "_ASK_DRIVER", ask_driver)
    assert device.identity_by_driver() == TargetIdentity("NVIDIA H200", "9.0", 132)
    for broken in ("raise SystemExit(3)", "import time; time.sleep(60)"):
        device.identity_by_driver.cache_clear()
        monkeypatch.setattr(device, "_ASK_DRIVER", broken)
        monkeypatch.setattr(device, "_ASK_LIMIT_S", 3.0)
        assert device.identity_by_driver() is None
    device.identity_by_driver.cache_clear()


def test_without_a_gpu_the_answer_says_what_to_name(monkeypatch):
    monkeypatch.setattr("fusetune.runtime.configs.identity_by_driver", lambda: None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(NoUsableGpuError, match="target='rtx4090'"):
        fusetune.config("gemm_scale", M=1, N=1, K=1)


def test_versions_are_those_that_pytorch_says_whether_it_is_loaded_or_not(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert facts._torch_version() == torch.__version__
    assert facts._cuda_version() == torch.version.cuda
    for text, expected in (
        ("__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n", ("2.11.0+cu130", "13.0")),
        ("cuda = None", (importlib.metadata.version("torch"), None)),
    ):
        monkeypatch.setattr(facts, "_version_of_torch", lambda text=text: text)
        assert (facts._torch_version(), facts._cuda_version()) == expected
