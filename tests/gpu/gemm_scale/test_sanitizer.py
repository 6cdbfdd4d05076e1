"""Every variant under NVIDIA's compute-sanitizer: no access out of bounds, no race in shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOUND_ERRORS = 86


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("op", [("gemm_scale",), ("gemm_scale_bn", "train"), ("gemm_scale_bn", "eval")], ids=" ".join)
def test_no_variant_reads_or_writes_where_it_should_not(tool, dtype, op):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS)]
    script = [sys.executable, str(ROOT / "tests" / "support" / "gemm_scale" / "run_every_variant.py"), dtype, *op]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        # Otherwise one allocation of torch holds many tensors, and what leaves one of them stays unseen.
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    }
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "0 hazards displayed" in done.stdout
