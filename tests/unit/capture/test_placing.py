"""A program is asked for its other launches while it lives."""

from __future__ import annotations

from typing import Any

from fusetune.capture.expressions import cdiv
from fusetune.capture.grids import rule_of
from fusetune.capture.kept import Placed
from fusetune.capture.knobs import Knob, knobs_of
from fusetune.capture.placing import MOST, placed_of


def by(placed: tuple[Placed, ...], **constants: Any) -> Placed:
    (found,) = [one for one in placed if one.constants == constants]
    return found


def knob(name: str, value: int, *values: int) -> Knob:
    return Knob(name, value, True, "it may", values)


def test_a_grid_is_asked_one_step_beyond_the_values_to_try():
    def grid(meta: Any) -> tuple[int]:
        return (cdiv(meta["n"], meta["BLOCK"]),)

    bound = {"n": 1000, "BLOCK": 64}
    rule = rule_of(grid, (16,), bound, {"BLOCK": 64})
    placed = placed_of(grid, (16,), bound, rule, [knob("BLOCK", 64, 32, 64, 128)])
    assert {one.constants["BLOCK"]: one.grid for one in placed} == {16: (63,), 32: (32,), 128: (8,), 256: (4,)}


def test_a_grid_that_raises_is_no_launch():
    def grid(meta: Any) -> tuple[int]:
        assert meta["BLOCK"] < 100
        return (cdiv(meta["n"], meta["BLOCK"]),)

    bound = {"n": 1000, "BLOCK": 64}
    rule = rule_of(grid, (16,), bound, {"BLOCK": 64})
    placed = placed_of(grid, (16,), bound, rule, [knob("BLOCK", 64, 32, 64, 128)])
    assert by(placed, BLOCK=128).grid is None
    assert by(placed, BLOCK=32).grid == (32,)


def test_heuristics_are_computed_again_and_the_grid_reads_them():
    def grid(meta: Any) -> tuple[int, int]:
        return (cdiv(meta["n"], meta["BLOCK"]), 1 + meta["EVEN"])

    heuristics = {
        "EVEN": lambda args: args["n"] % args["BLOCK"] == 0,
        "ODD": lambda args: not args["EVEN"],
        "num_warps": lambda args: 4,
    }
    bound = {"n": 96, "BLOCK": 64, "EVEN": False, "ODD": True}
    constants = {name: bound[name] for name in ("BLOCK", "EVEN", "ODD")}
    rule = rule_of(grid, (2, 1), bound, constants)
    placed = placed_of(grid, (2, 1), bound, rule, [knob("BLOCK", 64, 32, 64)], heuristics)
    assert by(placed, BLOCK=32) == Placed({"BLOCK": 32}, (3, 2), {"EVEN": True, "ODD": False})
    assert by(placed, BLOCK=128) == Placed({"BLOCK": 128}, (1, 1), {})


def test_many_constants_are_asked_for_two_at_a_time():
    names = [f"B{number}" for number in range(6)]
    bound = dict.fromkeys(names, 64)
    rule = rule_of((1,), (1,), bound, bound)
    placed = placed_of((1,), (1,), bound, rule, [knob(name, 64, 16, 32, 64, 128) for name in names])
    assert {len(one.constants) for one in placed} == {1, 2}
    assert len(placed) <= MOST


def test_what_a_heuristic_computes_is_no_knob():
    bound = {"BLOCK": 64}
    rule = rule_of((1,), (1,), bound, bound)
    found = knobs_of(None, bound, bound, rule, {}, proposals=[{"BLOCK": 1}, {"BLOCK": 2}], heuristics={"BLOCK"})
    (block,) = [one for one in found if one.name == "BLOCK"]
    assert (block.varies, block.reason) == (False, "a heuristic of the program computes it")
