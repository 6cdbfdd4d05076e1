"""An autotuner that is not to time, and whose first config cannot be launched here: the next of its list runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from triton.runtime.errors import InterpreterError, OutOfResources
from triton.runtime.interpreter import InterpretedFunction

import fusetune
from tests.support.launch_entries import alone
from tests.support.programs import served as program
from tests.support.served_launches import launched


@pytest.fixture(autouse=True)
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    program.BENCHED.clear()
    program.add.cache.clear()
    alone(tmp_path, monkeypatch)
    yield
    fusetune.load()


def small_gpu(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Raise an error for larger tiles; the tiles that are tried."""
    tried: list[int] = []
    own = InterpretedFunction.run

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        tried.append(named["BLOCK"])
        if named["BLOCK"] > most:
            raise error
        return own(kernel, *args, grid=grid, warmup=warmup, **named)

    monkeypatch.setattr(InterpretedFunction, "run", run)
    return tried


def test_the_first_that_can_be_launched_runs_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = small_gpu(monkeypatch, 128, OutOfResources(262144, 101376, "shared memory"))
    _, served = launched(lambda: [program.added(4096) for _ in range(3)])
    assert tried == [1024, 256, 128, 128, 128]
    assert program.BENCHED == []
    assert program.add.cache == {}
    assert program.add.best_config is program.CONFIGS[2]
    (missed,) = served.kernels[0].missed
    assert missed.launches == 3
    assert missed.did.startswith("the first config of its list that can be launched, BLOCK=128 ")
    assert "; BLOCK=1024 " in missed.did
    assert "cannot be (OutOfResources: " in missed.did


def test_where_none_can_be_the_error_is_the_program_s_and_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    small_gpu(monkeypatch, 64, OutOfResources(262144, 101376, "shared memory"))
    with pytest.raises(OutOfResources):
        launched(lambda: program.added(4096))
    assert program.add.cache == {}


def test_a_kernel_s_own_mistake_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = small_gpu(monkeypatch, 64, InterpreterError("a mistake"))
    with pytest.raises(InterpreterError):
        launched(lambda: program.added(4096))
    assert tried == [1024]
