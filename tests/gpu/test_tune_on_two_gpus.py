"""`fusetune tune --gpus all` on a program of four kernels: each case to the verdict of one GPU, all in one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusetune.store.journal import RunStart, read_run
from fusetune.store.yaml_files import read_config_file

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(280),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
]

ROOT = Path(__file__).parents[2]
PROGRAM = """import torch
import triton
import triton.language as tl
"""
KERNEL = """

@triton.jit
def {name}(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, {value}, mask=at < n)


{name}[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=32, num_warps=8)
"""
"""Its tile is far too small for its warps."""
VALUES = {"doubled": "2.0 * x", "squared": "x * x", "root": "tl.sqrt(tl.abs(x))", "sine": "tl.sin(x)"}


def tuned(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The kernels of the program as JSON has them."""
    folder.mkdir()
    text = PROGRAM + '\nn = 1 << 24\nx = torch.randn(n, device="cuda")\ny = torch.empty_like(x)\n'
    text += "".join(KERNEL.format(name=name, value=value) for name, value in VALUES.items())
    (folder / "four.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "fusetune", "tune", "four.py", "--no-program-check", "--share", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["kernels"]
    return found


def cards(folder: Path) -> set[str | None]:
    """The GPUs that the journals of a run say they are of."""
    runs = [
        next(one for one in read_run(path) if isinstance(one, RunStart)) for path in (folder / "runs").glob("*.jsonl")
    ]
    return {run.card for run in runs}


def test_each_kernel_has_the_verdict_that_it_has_on_one_gpu_and_both_worked(tmp_path: Path) -> None:
    words = ("--configs", "configs", "--runs", "runs")
    both = tuned(tmp_path / "both", *words, "--gpus", "all")
    one = tuned(tmp_path / "one", *words, "--gpus", "0")
    assert {kernel["kernel"] for kernel in both} == VALUES.keys()
    for found in (both, one):
        assert [case["verdict"] for kernel in found for case in kernel["cases"]] == ["keep"] * len(VALUES)
    files = [read_config_file(path) for path in (tmp_path / "both" / "configs").glob("*/*.yaml")]
    assert len(files) == len(VALUES)
    assert all(file.target.name == torch.cuda.get_device_name(0) for file in files)
    assert len(cards(tmp_path / "both")) == 2
    assert len(cards(tmp_path / "one")) == 1
