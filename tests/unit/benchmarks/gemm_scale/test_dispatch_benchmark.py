"""What `benchmarks/dispatch.py` and `training_parity.py` decide, without a GPU."""

from __future__ import annotations

import contextlib

import dispatch
import pytest
import training_parity
from lookup_file import large_file, problems

from fusetune.store.indexed import open_config_file


def test_an_arm_that_fails_is_told_and_the_others_stay(monkeypatch):
    monkeypatch.setattr(dispatch, "gradients_of", lambda name: contextlib.nullcontext())
    failed = {}

    def broken():
        raise ValueError("first line\nsecond line")

    arms = dispatch.able({"good": lambda: lambda: 1, "unmade": broken, "uncalled": lambda: broken}, failed)
    assert list(arms) == ["good"]
    assert failed == {"unmade": "ValueError: first line", "uncalled": "ValueError: first line"}
    assert dispatch.table({"failed": failed})[-2:] == [
        "FAILED unmade: ValueError: first line",
        "FAILED uncalled: ValueError: first line",
    ]


def test_every_arm_is_timed_in_every_round():
    calls = {"a": 0, "b": 0}

    def arm(name):
        def call():
            calls[name] += 1

        return call

    times = dispatch.host_part({name: arm(name) for name in calls}, rounds=3, synchronize=lambda: None, batch=5)
    assert calls == {"a": 3 * 6, "b": 3 * 6}
    assert set(times) == {"a", "b"}


def test_a_target_that_is_missed_is_told():
    times = {"fused_gemm_scale": 10.0, "linear_then_scale": 20.0, "kernel_grid": 40.0}
    ratios = dispatch.ratios(times)
    assert ratios == {"fused_gemm_scale": {"linear_then_scale": 0.5, "kernel_grid": 0.25}}
    text = "\n".join(dispatch.table({"host_us": times, "host_ratios": ratios}))
    assert "fused_gemm_scale / linear_then_scale: 0.500 (at most 0.45) MISSED" in text
    assert "fused_gemm_scale / kernel_grid: 0.250 (at most 0.5) ok" in text
    events = {"eval/ModelNew": 10.0, "eval/eager": 14.0, "train/ModelNew": 10.0, "train/eager": 15.0}
    text = "\n".join(dispatch.table({"end_to_end_us": events}))
    assert "eval/eager / eval/ModelNew: 1.40 (at least 1.5) MISSED" in text
    assert "train/eager / train/ModelNew: 1.50 (at least 1.5) ok" in text


def test_the_large_file_is_one_that_is_read_on_demand(tmp_path, monkeypatch):
    path = tmp_path / "gemm_scale.yaml"
    path.write_text(large_file(500))
    monkeypatch.setattr("fusetune.store.indexed.index_of", lambda file: pytest.fail("read whole"))
    file = open_config_file(path)
    assert len(file) == len(set(problems(500))) == 500
    assert file.entry(7).problem == problems(500)[7]


def test_curves_are_compared_by_their_mean_distance():
    assert training_parity.distance([1.0, 3.0], [1.1, 2.9]) == pytest.approx(0.05)
    assert training_parity.distance([2.0], [2.0]) == 0
