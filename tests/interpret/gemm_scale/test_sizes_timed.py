"""What `benchmarks/sizes.py` times, run on the CPU: ours under each name, cuBLAS's place and eager, right each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fusetune.ops.gemm_scale.config import BASELINE, Config

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def test_every_arm_is_right_a_config_that_two_have_is_timed_once_and_what_did_not_compile_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sizes, family = __import__("sizes"), __import__("family_sweeps")
    cell = family.Cell(16, 32, 24, "float16", "gemm_scale")
    configs = {"fusetune": BASELINE, "predicted": Config(BLOCK_M=16, BLOCK_N=16), "prior_off": BASELINE}
    why = {"error": "it did not compile within 1 s", "seconds": 1.0}
    found = sizes.timed(cell, configs, why, "cpu", "", rounds=1)
    assert list(found["us"]) == ["fusetune", "predicted", "library", "eager"]
    assert found["failed"] == {"max-autotune": why["error"]}
    assert all(by["y"] < 1e-3 for by in found["errors"].values())
    assert found["ours_over"].keys() == found["us"].keys() - {"fusetune"}
    assert str(BENCHMARKS) in sys.path
