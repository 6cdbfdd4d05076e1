"""`pip install fusetune` alone serves the op's modules, whose results are PyTorch's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.declared_site import serving_environment

SCRIPT = """
import importlib.util
import torch
import fusetune

assert importlib.util.find_spec("scipy") is None
torch.manual_seed(0)
linear, norm = torch.nn.Linear(64, 48), torch.nn.BatchNorm1d(48)
scale = torch.nn.Parameter(torch.randn(48))
model = fusetune.FusedLinearScaleBatchNorm.from_modules(linear, scale, norm).eval()
x = torch.randn(32, 64)
expected = norm.eval()(linear(x) * scale)
print(type(model).__name__, torch.allclose(model(x), expected, atol=2e-2, rtol=2e-2))
print(fusetune.explain(M=128, N=512, K=1024, target="h200"))
"""


def test_a_module_of_the_op_serves_with_the_base_alone(tmp_path: Path) -> None:
    """NumPy is Triton's interpreter's, which computes here in place of a GPU."""
    python = serving_environment(tmp_path / "environment", "numpy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FUSETUNE_", "PYTHON"))}
    done = subprocess.run(
        [str(python), "-c", SCRIPT],
        cwd=tmp_path,
        env={**kept, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "FusedLinearScaleBatchNorm True"
    assert "the entry for exactly this problem" in lines[1]
