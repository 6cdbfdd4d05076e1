"""Which grids need not be asked again, and that each of the others is, every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import triton
from triton import cdiv

from fusetune.runtime import pure_grids
from fusetune.runtime.pure_grids import asked

META = {"x_ptr": torch.zeros(6), "n": 1000, "eps": 0.5, "BLOCK": 64, "EVEN": True}
TOLD = {"n", "BLOCK", "EVEN"}
TILES = 7


def ceil_div(n: int, block: int) -> int:
    return (n + block - 1) // block


def with_variable(rows: Any) -> Callable[..., Any]:
    return lambda meta: (rows, triton.cdiv(meta["n"], meta["BLOCK"]))


def kept(grid: Any) -> dict[Any, Any]:
    shapes: dict[Any, Any] = {}
    assert asked(grid, META, TOLD, shapes) == (grid(META) if callable(grid) else grid)
    return shapes


@pytest.mark.parametrize(
    "grid",
    [
        lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),),
        lambda meta: (cdiv(meta["n"], meta["BLOCK"]), min(2, meta["n"])),
        lambda meta: (math.ceil(meta["n"] / meta["BLOCK"]),),
        lambda meta: (8 if meta["EVEN"] else 4,),
        with_variable(3),
    ],
)
def test_what_only_counts_is_kept_by_its_code_and_its_variables(grid):
    (found,) = kept(grid).items()
    assert found == ((id(grid.__code__), *[one.cell_contents for one in grid.__closure__ or ()]), grid(META))


@pytest.mark.parametrize(
    "grid",
    [
        (4,),
        partial(lambda rows, meta: (rows,), 4),
        lambda meta: (meta["x_ptr"].numel(),),
        lambda meta: (int(meta["eps"] * 4),),
        lambda meta: (ceil_div(meta["n"], meta["BLOCK"]),),
        lambda meta: (TILES,),
        lambda meta: [triton.cdiv(meta["n"], meta["BLOCK"])],
        lambda meta: (2 if "EVEN" in meta else 1,),
        lambda meta: (max(meta),),
        lambda meta, more=4: (more,),
        lambda meta: (meta.get("BLOCK"),),
        lambda meta: (sum(one for one in (1, 2)),),
        with_variable(3.0),
        with_variable(torch.zeros(2).numel),
    ],
)
def test_whatever_else_it_asks_for_is_asked_each_time(grid):
    assert not kept(grid)


def test_a_name_that_means_something_else_here_is_not_trusted(monkeypatch):
    monkeypatch.setattr(triton, "cdiv", ceil_div)
    scope: dict[str, Any] = {"triton": triton, "min": max}
    exec("def grid(meta): return (min(1, 2),)", scope)
    assert not kept(scope["grid"])


def test_so_many_are_kept_and_no_more():
    shapes: dict[Any, Any] = {}
    for rows in range(2 * pure_grids.MOST_GRIDS):
        assert asked(with_variable(rows), META, TOLD, shapes) == (rows, 16)
    assert len(shapes) == pure_grids.MOST_GRIDS
