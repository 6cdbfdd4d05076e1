"""This tree's kernels against HEAD's on the GPU: the same code is as fast as itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fusetune.core.decision import Gain
from fusetune.core.progress import SilentProgress
from fusetune.gate.against import Revision
from fusetune.gate.live import LiveOptions, live_gate
from fusetune.measure.cuda import CudaMeasurer
from fusetune.ops.device import gpu_identity
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.store.schema import ConfigFile, Entry, Environment, Times

ROOT = Path(__file__).parents[3]


def test_unchanged_kernels_are_no_regression_against_head(tmp_path: Path) -> None:
    command = ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "fusetune/ops/gemm_scale"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this copy has no git history, or its kernels have changed since HEAD")
    entry = Entry(
        problem=make_problem(128, 512, 1024, "float32"),
        config=Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3),
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=Environment(triton="3.7.1", kernel_hash=SPEC.source_hash(BASELINE)),
        run="20261123T101500-3f9a",
        date="2026-11-23",
        gain=Gain(median=0.5, low=0.49, high=0.51, confidence=0.95, min_gain=0.02, blocks=50),
        time_us=Times(baseline=20.0, conservative=12.0, config=10.0),
    )
    file = ConfigFile(schema=2, op="gemm_scale", target=gpu_identity(0), entries=(entry,))
    with Revision("HEAD", tmp_path) as head:
        options = LiveOptions(against=head, journals=tmp_path)
        kept, against = live_gate([(Path("x.yaml"), file)], CudaMeasurer, SilentProgress(), options)
    assert kept.status == "holds", kept.detail
    assert against.status in {"holds", "slower"}, against.detail
