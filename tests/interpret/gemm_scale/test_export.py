"""Exported modules as files, in a clean process: against PyTorch, in training and in evaluation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.core.target import find_target
from tests.support import spared
from tests.support.gemm_scale.exporting import CONFIGS, OPS, exported

PROGRAM = """
import importlib, json, sys
import torch
from spared import spare

spare(setattr)

class Model(torch.nn.Module):
    def __init__(self, n_in, n_out, scale_shape, eps=1e-5, momentum=0.1):
        super().__init__()
        self.gemm = torch.nn.Linear(n_in, n_out)
        self.scale = torch.nn.Parameter(torch.randn(scale_shape))
        self.bn = torch.nn.BatchNorm1d(n_out, eps=eps, momentum=momentum)
    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)

told = {}
for name in sys.argv[1:]:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    worst = {}
    for momentum in (0.1, None):
        plain, fused = Model(96, 80, (80,), momentum=momentum), module.ModelNew(96, 80, (80,), momentum=momentum)
        fused.load_state_dict(plain.state_dict(), strict=True)
        dtype = torch.float16 if name.endswith("_deferred") else torch.float32
        fused = fused.to(dtype)
        with torch.no_grad():
            for step in range(2):
                x = torch.randn(48 - 7 * step, 96)
                worst["train"] = max(worst.get("train", 0), float((fused(x.to(dtype)) - plain(x)).abs().max()))
            for key, value in plain.state_dict().items():
                difference = float((fused.state_dict()[key].double() - value.double()).abs().max())
                worst["state"] = max(worst.get("state", 0), difference)
            plain.eval(), fused.eval()
            rows = 48 if momentum else 1  # To which momentum is nothing.
            x = torch.randn(rows, 96)
            worst["eval"] = max(worst.get("eval", 0), float((fused(x.to(dtype)) - plain(x)).abs().max()))
    told[name] = worst
    if hasattr(module, "arrivals_of"):
        worst["arrivals"] = int(module.arrivals_of(x, 1).abs().sum())
    assert "fusetune" not in sys.modules
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("exported")
    names = []
    for op in OPS:
        for label, config in CONFIGS.items():
            if op == "gemm_scale" and label in {"columns", "joined_columns"}:
                continue
            name = f"{op}_{label}"
            (folder / f"{name}.py").write_text(exported(op, config, find_target("h200")))
            names.append(name)
    shutil.copy(spared.__file__, folder)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("what", ["train", "eval", "state"])
def test_an_exported_model_computes_and_remembers_what_the_plain_one_does(errors, what: str) -> None:
    assert len(errors) == 2 * len(CONFIGS) - 2
    limits = {name: 2e-2 if name.endswith("_deferred") else 2e-5 for name in errors}
    assert {name: worst[what] for name, worst in errors.items() if worst[what] > limits[name]} == {}


def test_joined_summands_leave_every_count_of_arrivals_at_zero(errors) -> None:
    counts = {name: worst["arrivals"] for name, worst in errors.items() if "arrivals" in worst}
    assert counts == dict.fromkeys(
        [
            *("gemm_scale_joined", "gemm_scale_persistent_joined", "gemm_scale_padded_joined"),
            *("gemm_scale_bn_joined", "gemm_scale_bn_joined_columns", "gemm_scale_bn_persistent_joined"),
            "gemm_scale_bn_padded_joined",
        ],
        0,
    )


def test_the_files_need_nothing_of_this_project(tmp_path: Path) -> None:
    for op in OPS:
        text = exported(op, CONFIGS["tiled"], find_target("rtx4090"))
        assert "import fusetune" not in text
        assert "from fusetune" not in text
