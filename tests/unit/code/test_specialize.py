"""Calls written out in place: they change nothing that their caller still reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import triton
import triton.language as tl

from fusetune.code.source import written
from fusetune.code.specialize import specialize


@triton.jit
def store_twice_as_much(value, y_ptr, given, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    _, offset = given[0], given[1]
    if DOUBLES:
        value = 2 * value
    tl.store(y_ptr, value + offset)


@triton.jit
def last(x, offset, y_ptr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    acc = x + 1
    store_twice_as_much(acc, y_ptr, (x, offset), DOUBLES)


@triton.jit
def read_again(x, offset, y_ptr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    acc = x + 1
    store_twice_as_much(acc, y_ptr, (x, offset), DOUBLES)
    tl.store(y_ptr, acc)


@triton.jit
def in_a_loop(x, offset, y_ptr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    acc = x + 1
    for _ in range(2):
        store_twice_as_much(acc, y_ptr, (x, offset), DOUBLES)


@triton.jit
def of_a_tuple(x, offset, y_ptr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    acc = x + 1
    given = (offset, acc)
    store_twice_as_much(acc, y_ptr, given, DOUBLES)


@triton.jit
def of_a_parameter(x, offset, y_ptr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    store_twice_as_much(x, y_ptr, (x, offset), DOUBLES)
    tl.store(y_ptr, x)


def resolved(kernel: Any) -> str:
    """The kernel as text, with its calls written out."""
    made = specialize(kernel, {"DOUBLES": True})
    assert not made.helpers
    return written("kernel", made.parameters, made.body, made.source, docstring="", decorators=())


@pytest.mark.parametrize(
    ("kernel", "stored"),
    [
        (last, [13]),
        (read_again, [13, 4]),
        (in_a_loop, [13, 13]),
        (of_a_tuple, [12]),
        (of_a_parameter, [11, 3]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_call_changes_is_its_own_wherever_the_caller_reads_it_again(kernel: Any, stored: list[int]) -> None:
    namespace: dict[str, Any] = {"tl": SimpleNamespace(store=lambda places, value: places.append(value), constexpr=int)}
    exec(resolved(kernel), namespace)
    y: list[int] = []
    arguments = {"x": 3, "offset": 5, "y_ptr": y}
    function = namespace["kernel"]
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    function(**{name: arguments[name] for name in names})
    assert y == stored


def test_what_the_caller_reads_no_more_is_changed_in_place() -> None:
    assert resolved(last).splitlines()[1:] == [
        "    acc = x + 1",
        "    acc = 2 * acc",
        "    tl.store(y_ptr, acc + offset)",
    ]


@triton.jit
def stored_in_halves(x, y_ptr, WIDTH: tl.constexpr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    HALF: tl.constexpr = WIDTH // 2
    unread = x + HALF
    unread_too = unread * 2
    place = 2 * HALF
    if DOUBLES:
        tl.store(y_ptr, x)
    else:
        tl.store(y_ptr, unread_too + place)
    tl.store(y_ptr, HALF)


@triton.jit
def in_halves_twice(x, y_ptr, WIDTH: tl.constexpr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    stored_in_halves(x, y_ptr, WIDTH, DOUBLES)
    stored_in_halves(x, y_ptr, WIDTH, DOUBLES)
    stored_in_halves(x, y_ptr, WIDTH // 4, DOUBLES)


def test_a_constant_of_a_call_is_declared_once_and_another_value_has_another_name() -> None:
    text = resolved(in_halves_twice)
    declared = [line.strip() for line in text.splitlines() if "tl.constexpr =" in line]
    assert declared == ["HALF: tl.constexpr = WIDTH // 2", "HALF_2: tl.constexpr = WIDTH // 4 // 2"]
    stored = [line.strip() for line in text.splitlines() if "HALF" in line and "store" in line]
    assert stored == ["tl.store(y_ptr, HALF)", "tl.store(y_ptr, HALF)", "tl.store(y_ptr, HALF_2)"]


def test_what_nothing_reads_is_not_computed_and_what_acts_stays() -> None:
    text = resolved(in_halves_twice)
    assert "unread" not in text
    assert "place" not in text
    assert text.count("tl.store") == 6


@triton.jit
def nothing_but_else(x, y_ptr, EVEN: tl.constexpr, DOUBLES: tl.constexpr):  # type: ignore[no-untyped-def]
    if EVEN:
        unread = x + 1  # noqa: F841
    else:
        tl.store(y_ptr, x)


def test_a_branch_that_does_nothing_leaves_the_other_one_as_it_is() -> None:
    lines = resolved(nothing_but_else).splitlines()
    assert "    tl.store(y_ptr, x)" in [line[4:] for line in lines]
