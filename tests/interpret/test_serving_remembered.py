"""What is remembered of launches that take tuned configs: what makes two of them one, for how long, and how much."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import fusetune
from fusetune.capture.grids import rule_of
from fusetune.capture.serving.served import Notes
from fusetune.capture.serving.serving import Serving
from fusetune.core.config import NamedConfig
from fusetune.runtime.launch_configs import Chosen, LaunchConfigs
from tests.support.launch_entries import alone, write_tuned
from tests.support.programs import served as program
from tests.support.served_launches import launched, serving

ADD = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "EVEN": True, "grid_0": 4}
DOUBLE = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "grid_0": 8}
BEFORE_ADD = NamedConfig(BLOCK=1024, num_warps=2, num_stages=3)
TUNED = NamedConfig(BLOCK=64, num_warps=1, num_stages=2)


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    program.BENCHED.clear()
    program.add.cache.clear()
    folder = alone(tmp_path, monkeypatch)
    before = NamedConfig(BLOCK=512, num_warps=4, num_stages=3)
    write_tuned(folder, program.double, DOUBLE, TUNED, before=before)
    yield folder
    fusetune.load()


@triton.jit
def fill_all(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), 1.0)


@contextlib.contextmanager
def rules_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    asked: list[None] = []
    with monkeypatch.context() as patch:
        patch.setattr("fusetune.capture.given.rule_of", lambda *a, **named: asked.append(None) or rule_of(*a, **named))
        yield asked


def test_what_a_grid_has_nothing_to_do_with_may_change_at_every_launch_and_nothing_is_asked_again(monkeypatch):
    x, y = torch.zeros(4096), torch.zeros(4096)

    def run() -> None:
        for step in range(8):
            loss, n = step / 7, 4096
            program.double[(triton.cdiv(n, 512),)](x, y, n, BLOCK=512, num_warps=4)
        assert loss == 1.0

    with rules_asked(monkeypatch) as asked:
        launches, _ = launched(run)
    assert launches == [("double", (64,), 64, 1)] * 8
    assert len(asked) == 1


@triton.jit
def scale(x_ptr, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) * factor, mask=at < n)


def test_floats_of_all_kinds_are_one_launch_unless_something_follows_from_them(configs, monkeypatch):
    problem = {"x_ptr": "float32", "n": 1024, "factor": 0.5, "grid_0": 4}
    write_tuned(configs, scale, problem, TUNED, before=NamedConfig(BLOCK=256))
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 256)]
    tuner = triton.autotune(configs=lists, key=["n"], do_bench=program.bench)(scale)
    x = torch.ones(1024)

    def run(of_floats: Any) -> None:
        for step in range(1, 6):
            factor = 1.0 / step
            scale[of_floats(x, factor)](x, 1024, factor, BLOCK=256)
            tuner[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](x, 1024, factor)

    def by_tile(_x: torch.Tensor, _factor: float) -> Any:
        return lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)

    def by_factor(_x: torch.Tensor, _factor: float) -> Any:
        return lambda meta: (triton.cdiv(1024, meta["BLOCK"]) * int(meta["factor"] <= 1.0),)

    for grid, asked_for in ((by_tile, 1), (by_factor, 5)):
        with rules_asked(monkeypatch) as asked, serving() as made:
            run(grid)
        assert (len(asked), len(made._answers)) == (asked_for, 2)
        assert [one.launches for one in made.notes.served().kernels[0].applied] == [10]


def test_heuristics_may_ask_for_shapes(configs):
    heuristic = triton.heuristics({"EVEN": lambda args: args["x_ptr"].shape[0] == 4096})
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 1024)]
    tuner = triton.autotune(configs=lists, key=["n"], do_bench=program.bench)(heuristic(program.add.fn.fn))
    write_tuned(configs, program.add, ADD, TUNED, before=BEFORE_ADD)
    y = torch.zeros(5000)

    def run(x: torch.Tensor) -> None:
        tuner[lambda meta: (triton.cdiv(4096, meta["BLOCK"]),)](x, y, 4096)

    launches, _ = launched(lambda: [run(torch.zeros(size)) for size in (4096, 5000)])
    assert [one[2:] for one in launches] == [(64, 1), (512, 2)]


def test_a_size_that_is_no_argument_and_that_the_grid_goes_by_is_asked_for_each_time(configs, monkeypatch):
    write_tuned(configs, fill_all, {"x_ptr": "float32", "grid_0": 2}, TUNED, before=NamedConfig(BLOCK=256))

    def fill_up(x: torch.Tensor, sizes: Any) -> None:
        def grid(meta: Any) -> tuple[int, ...]:
            return (triton.cdiv(sizes["n"], meta["BLOCK"]),)

        fill_all[grid](x, BLOCK=256)

    x = torch.zeros(512)
    with rules_asked(monkeypatch) as asked:
        launches, _ = launched(lambda: [fill_up(x, {"n": n}) for n in (320, 512, 320, 384)])
    assert [one[1:3] for one in launches] == [((5,), 64), ((8,), 64), ((5,), 64), ((6,), 64)]
    assert len(asked) == 3


def test_so_many_places_are_known_and_no_more(monkeypatch):
    monkeypatch.setattr("fusetune.capture.given.MOST_PLACED", 4)
    with serving() as made:
        for n in range(4096, 3800, -16):
            program.doubled(n)
        assert len(made._placements._placed) <= 4


def test_an_answer_that_is_found_while_other_configs_are_loaded_is_not_used_again():
    lookups = LaunchConfigs()
    find = lookups.find

    def meanwhile(*args: Any, **named: Any) -> Any:
        found = find(*args, **named)
        made.forget()
        return found

    lookups.find = meanwhile  # type: ignore[method-assign]
    made = Serving(lookups, Notes(str))
    made.install()
    try:
        program.doubled(4096)
        lookups.find = lambda *_, **__: Chosen("miss", "it is gone")  # type: ignore[method-assign]
        program.doubled(4096)
    finally:
        made.remove()
    assert made.notes.served().kernels[0].missed[0].reason == "it is gone"


def test_kernels_and_tuners_that_a_program_makes_at_each_call_are_not_kept_for_good(monkeypatch):
    monkeypatch.setattr("fusetune.capture.serving.answers.MOST_HELD", 4)
    monkeypatch.setattr("fusetune.capture.serving.answers.MOST_REMEMBERED", 4)
    with serving() as made:
        for _ in range(12):
            tuner = triton.autotune(configs=program.CONFIGS, key=["n"])(triton.jit(scale.fn))
            tuner[(1,)](torch.zeros(64), 64, 2.0)
        answers = made._answers
        held = answers, answers._holders, answers._free, answers._kernels
        assert [len(one) for one in held if len(one) > 8] == []
