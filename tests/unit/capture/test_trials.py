"""An autotuner of a program looks at each config for a moment, and times for long those that may be its choice."""

from types import SimpleNamespace
from typing import Any

import pytest
import triton
import triton.language as tl

from fusetune.capture.trials import LOOK_MS, MOST, quick_trials

CONFIGS = [triton.Config({"BLOCK": block}) for block in (16, 32, 64, 128, 256)]
MS = {16: 2.0, 32: 1.04, 64: 1.0, 128: 1.2, 256: float("inf")}
"""Of a launch, by BLOCK: 32 is near 64, and all are tried in this order."""


@triton.jit
def nothing(x_ptr, n, BLOCK: tl.constexpr):
    pass


class Driver:
    """Times a launch as MS has it, and notes for how long it was told to."""

    def __init__(self) -> None:
        self.timed: list[tuple[int, bool]] = []
        self.block = 0

    def timer(self, kernel_call: Any, warmup: int = 25, rep: int = 100, quantiles: Any = None) -> list[float]:
        kernel_call()
        self.timed.append((self.block, rep == LOOK_MS["rep"]))
        return [MS[self.block]] * 3

    def launch(self, x: Any, n: int, **named: Any) -> None:
        self.block = named["BLOCK"]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr("triton.runtime.autotuner.driver", _Active(driver))
    monkeypatch.setattr(nothing, "run", driver.launch)
    return driver


class _Active:
    def __init__(self, driver: Driver) -> None:
        self.active, self._driver = self, driver

    def get_benchmarker(self) -> Any:
        return self._driver.timer


def test_what_is_far_behind_is_looked_at_alone_and_the_choice_is_timed_for_long(driver):
    tuner = triton.autotune(configs=CONFIGS, key=["n"])(nothing)
    with quick_trials():
        tuner[1,](None, 5)
        long = [block for block, short in driver.timed if not short]
        assert [block for block, short in driver.timed if short] == [16, 32, 64, 128, 256]
        assert long == [32, 64]
        assert tuner.best_config.kwargs == {"BLOCK": 64}
        driver.timed.clear()
        tuner[1,](None, 6)  # another key: what was best of the one before says nothing of it
        assert [block for block, short in driver.timed if not short] == long
    assert tuner.do_bench == driver.timer


def test_of_many_that_are_as_near_the_fastest_are_timed_for_long(driver, monkeypatch):
    blocks = [2**power for power in range(4, 16)]
    near = {block: 1 + 0.001 * place for place, block in enumerate(reversed(blocks))}
    monkeypatch.setattr(f"{__name__}.MS", near)
    tuner = triton.autotune(configs=[triton.Config({"BLOCK": block}) for block in blocks], key=["n"])(nothing)
    with quick_trials():
        tuner[1,](None, 5)
    assert [block for block, short in driver.timed if not short] == blocks[-MOST:]
    assert tuner.best_config.kwargs == {"BLOCK": blocks[-1]}


def test_what_was_looked_at_alone_is_not_the_choice_where_all_are_slower_for_long(driver, monkeypatch):
    blocks = [2**power for power in range(4, 16)]
    near = {block: 1 + 0.001 * place for place, block in enumerate(blocks)}
    fell = {16: float("inf"), 32: 1.05, 64: 1.04}

    def timer(kernel_call: Any, warmup: int = 25, rep: int = 100, quantiles: Any = None) -> list[float]:
        took = driver.timer(kernel_call, warmup, rep)[0]
        return [took if rep == LOOK_MS["rep"] else took * fell.get(driver.block, 1.06)] * 3

    monkeypatch.setattr(f"{__name__}.MS", near)
    monkeypatch.setattr("triton.runtime.autotuner.driver", _Active(SimpleNamespace(timer=timer)))
    tuner = triton.autotune(configs=[triton.Config({"BLOCK": block}) for block in blocks], key=["n"])(nothing)
    with quick_trials():
        tuner[1,](None, 5)
    long = [block for block, short in driver.timed if not short]
    assert long == blocks[:MOST]
    assert tuner.best_config.kwargs == {"BLOCK": 64}
    times = {config.kwargs["BLOCK"]: times[0] for config, times in tuner.configs_timings.items()}
    assert all(times[block] > times[64] for block in blocks if block != 64)


def test_a_config_that_no_look_could_launch_is_not_launched_again(driver, monkeypatch):
    monkeypatch.setattr(f"{__name__}.MS", dict.fromkeys(MS, float("inf")))
    tuner = triton.autotune(configs=CONFIGS, key=["n"])(nothing)
    with quick_trials():
        tuner[1,](None, 5)
    assert all(short for _, short in driver.timed)


def test_an_autotuner_that_the_program_has_time_in_its_own_way_does_so(driver):
    timed: list[int] = []

    def own(kernel_call: Any, quantiles: Any) -> list[float]:
        kernel_call()
        timed.append(driver.block)
        return [MS[driver.block]] * 3

    tuner = triton.autotune(configs=CONFIGS, key=["n"], do_bench=own)(nothing)
    with quick_trials():
        tuner[1,](None, 5)
    assert timed == [16, 32, 64, 128, 256]
    assert tuner.best_config.kwargs == {"BLOCK": 64}


def test_a_timer_that_knows_no_lengths_times_each_once(driver, monkeypatch):
    monkeypatch.setattr(Driver, "timer", lambda self, kernel_call, quantiles: (kernel_call(), [MS[self.block]] * 3)[1])
    tuner = triton.autotune(configs=CONFIGS, key=["n"])(nothing)
    with quick_trials():
        tuner[1,](None, 5)
    assert tuner.best_config.kwargs == {"BLOCK": 64}


def test_afterwards_triton_is_as_it_was():
    from triton.runtime.autotuner import Autotuner

    bench = Autotuner._bench
    with quick_trials():
        assert Autotuner._bench is not bench
    assert Autotuner._bench is bench
