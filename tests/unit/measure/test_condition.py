"""The state of a GPU before anything is measured: figures in their units, and None for what is not answered."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from fusetune.measure.condition import LOOK_EVERY_S, LOOKS, GpuCondition, condition_of
from fusetune.measure.nvml import GpuState, Monitor
from tests.support.fake_nvml import FakeNvml
from tests.support.sick_machines import UUID, nvml_of_one_gpu


def condition(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, slept: list[float] | None = None) -> GpuCondition:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return condition_of(Monitor(UUID), (slept if slept is not None else []).append)


def test_figures_are_in_bytes_watts_mhz_and_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    found = condition(monkeypatch, nvml_of_one_gpu(), slept)
    assert found == GpuCondition(
        answers=True,
        name="NVIDIA GeForce RTX 4090",
        utilization=0,
        memory_free_bytes=23 << 30,
        memory_bytes=24 << 30,
        power_limit_w=450.0,
        power_default_w=450.0,
        sm_max_mhz=2520,
        persistence=True,
        state=GpuState(sm_mhz=2520, power_w=120.0, temperature_c=41),
    )
    assert slept == [LOOK_EVERY_S] * (LOOKS - 1)


def test_the_busiest_of_a_few_looks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter((0, 55, 3))

    nvml = nvml_of_one_gpu(nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=next(rates)))
    assert condition(monkeypatch, nvml).utilization == 55


def test_what_the_driver_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = FakeNvml.NVMLError("Not Supported")
    names = ("Name", "UtilizationRates", "MemoryInfo", "EnforcedPowerLimit", "MaxClockInfo", "PersistenceMode")
    found = condition(monkeypatch, nvml_of_one_gpu(**{f"nvmlDeviceGet{name}": refused for name in names}))
    assert found.answers
    unknown = (found.name, found.utilization, found.memory_bytes, found.power_limit_w, found.sm_max_mhz)
    assert unknown == (None,) * 5
    assert found.persistence is None


def test_a_gpu_that_nvml_does_not_know_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = nvml_of_one_gpu(nvmlDeviceGetHandleByUUID=FakeNvml.NVMLError("Not Found"))
    assert condition(monkeypatch, nvml) == GpuCondition(answers=False)


def test_without_nvml_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.measure.nvml.library", lambda: None)
    assert condition_of(Monitor(UUID)) == GpuCondition(answers=False)
