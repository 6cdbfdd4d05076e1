"""What of a launch's arguments a config may depend on makes two kinds of launches, and nothing else does."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import triton.language as tl

from fusetune.capture.kinds import kind_around, kind_of, kind_of_grid

ROW = torch.zeros(64)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ROW, torch.ones(64)),
        (ROW, torch.zeros(128)),
        (tl.constexpr(3), tl.constexpr(3)),
        (tl.float16, tl.float16),
        ((ROW, 3), (torch.ones(8), 3)),
    ],
)
def test_alike(one, other):
    assert kind_of([one], {}) == kind_of([other], {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ROW, ROW.half()),
        (ROW, ROW[1:]),
        (ROW, None),
        (1, True),
        (1, 1.0),
        (16, 17),
        ("a", "b"),
        (tl.float16, tl.bfloat16),
        (tl.constexpr(3), tl.constexpr(4)),
        ((1, (2, 3)), (1, 2, 3)),
        (SimpleNamespace(base=ROW, dtype="i8"), SimpleNamespace(base=ROW, dtype="f16")),
    ],
)
def test_different(one, other):
    assert kind_of([one], {}) != kind_of([other], {})
    assert kind_of((), {"x": one}) != kind_of((), {"x": other})


def test_what_cannot_be_a_key_makes_none_and_shapes_count_where_they_are_asked_for():
    assert kind_of([{}], {}) is None
    assert kind_of([ROW], {}, shapes=True) != kind_of([ROW[:32]], {}, shapes=True)
    assert kind_of([ROW], {}, shapes=True) == kind_of([torch.ones(64)], {}, shapes=True)


class Settings:
    def __init__(self, size: object) -> None:
        self.size = size


def test_around_a_launch_plain_values_and_shapes_count_of_the_names_that_are_asked_for():
    def here(n: int, x: torch.Tensor, other: object, *names: str):
        return kind_around(sys._getframe(), names or ("n", "x", "other", "ROW"))

    assert here(3, ROW, None) == here(3, torch.ones(64), None)
    assert here(3, ROW, None) != here(4, ROW, None)
    assert here(3, ROW, None, "x") == here(4, ROW, None, "x")
    assert here(3, ROW, None) != here(3, ROW[:32], None)
    within = (Settings(Settings(1)), Settings(Settings(2))), (Settings(ROW), Settings(ROW[:32]))
    for one, other in ((Settings(1), Settings(2)), ({"a": 1}, {"a": 2}), ([1, 2], [1, 3]), *within):
        assert here(3, ROW, one) != here(3, ROW, other)
    assert here(3, ROW, Settings(1)) == here(3, ROW, Settings(1))
    assert here(3, ROW, (Settings(1), {})) is None
    assert kind_around(None, ("n",)) == ()


SIZE = 3


def test_a_grid_counts_by_its_code_and_by_what_it_reads_beside_the_arguments(monkeypatch):
    def grid(n: int):
        return lambda meta: (n, SIZE, meta["BLOCK"])

    first = kind_of_grid(grid(3))
    assert first == kind_of_grid(grid(3)) != kind_of_grid(grid(4))
    assert kind_of_grid(lambda meta: (3,)) != kind_of_grid(lambda meta: (3,))
    assert kind_of_grid(partial(max, 1)) != kind_of_grid(partial(max, 2))
    assert kind_of_grid((4,)) == ()
    monkeypatch.setattr(sys.modules[__name__], "SIZE", 4)
    assert kind_of_grid(grid(3)) != first
