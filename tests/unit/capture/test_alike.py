"""Which launches are one case."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fusetune.capture.alike import MOST_ALIKE, Identity, identity_of
from fusetune.capture.cases import Case, KernelSeen, TensorSeen
from fusetune.capture.seen import Seen, SeenCases
from fusetune.ops.arguments import specialized


def parameter(name: str, **more: bool) -> SimpleNamespace:
    return SimpleNamespace(name=name, **more)


KERNEL = SimpleNamespace(params=[parameter("x_ptr"), parameter("n"), parameter("pair")])


def tensor(offset: int = 0, storage: int = 0, *, size: int = 100, dtype: str = "float32") -> TensorSeen:
    return TensorSeen(dtype, (size,), (1,), storage, offset, 4000, aligned=offset % 4 == 0)


def identity(tensors: dict[str, TensorSeen] | None = None, **values: Any) -> Identity:
    return identity_of(KERNEL, (4,), tensors or {}, values, {"BLOCK": 64}, {})


def test_where_a_tensor_begins_does_not_count_but_its_alignment_does():
    assert identity({"x_ptr": tensor()}) == identity({"x_ptr": tensor(400)})
    assert identity({"x_ptr": tensor()}) != identity({"x_ptr": tensor(401)})


def test_tensors_of_one_storage_keep_how_they_overlap():
    def pair(first: int, second: int, dtype: str = "float32") -> Identity:
        return identity({"x_ptr": tensor(first), "y_ptr": tensor(second, dtype=dtype)})

    assert pair(0, 100) == pair(100, 400)
    assert pair(0, 100) != pair(0, 96)
    assert pair(0, 96) == pair(4, 100) != pair(96, 0)
    assert pair(0, 100, "int8") != pair(4, 104, "int8")


def test_no_tensor_s_bytes_overlap_where_it_has_none():
    assert identity({"x_ptr": tensor(), "y_ptr": tensor(4, size=0)}) != identity(
        {"x_ptr": tensor(), "y_ptr": tensor(4)}
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (2, 3, True),
        (1, 2, False),
        (16, 32, True),
        (16, 17, False),
        (3, 1 << 40 | 3, False),
        (3, 1 << 63 | 3, False),
        (0.5, 1.0, True),
        (1, 1.0, False),
        (True, False, False),
        (None, 1, False),
        ("a", "b", False),
    ],
)
def test_numbers_are_alike_where_triton_compiles_the_same(one, other, same):
    assert (specialized(one) == specialized(other)) is same


def test_a_parameter_may_ask_for_less():
    assert specialized(1, parameter("n", do_not_specialize=True)) == specialized(
        16, parameter("n", do_not_specialize=True)
    )
    unaligned = parameter("n", do_not_specialize_on_alignment=True)
    assert specialized(16, unaligned) == specialized(3, unaligned) != specialized(1, unaligned)


def found(cases: SeenCases, number: int, kept: str | None = None) -> Seen | None:
    one = identity(n=number)
    seen = cases.find(one, {})
    if seen is None:
        case = Case(KernelSeen("k", "m", "f", 1), (4,), "tuple", {}, {"n": number}, {"BLOCK": 64}, {}, {}, kept=kept)
        seen = cases.add(one, case)
    if seen is not None:
        seen.launches += 1
        seen.differing.note({}, {"n": number})
    return seen


def test_a_few_numbers_are_cases_of_their_own_and_many_are_the_first():
    forgotten: list[str] = []
    cases = SeenCases(forgotten.append)
    numbers = [2 + 4 * index for index in range(MOST_ALIKE)]
    for number in numbers:
        found(cases, number, kept=str(number))
    assert [seen.told().values["n"] for seen in cases] == numbers
    assert not forgotten
    found(cases, 1002)
    found(cases, numbers[3])
    found(cases, 1)
    first, other = (seen.told() for seen in cases)
    assert (first.values, first.launches, first.differing) == ({"n": 2}, MOST_ALIKE + 2, ("n",))
    assert first.findings == (f"launched with {MOST_ALIKE + 1} values of `n`; kept with the first",)
    assert forgotten == [str(number) for number in numbers[1:]]
    assert (other.values, other.launches, other.findings, other.differing) == ({"n": 1}, 1, (), ())
    assert cases.is_another(identity(n=7))
    assert not cases.is_another(identity(n=16))


def test_the_microseconds_of_what_became_one_case_are_those_of_all():
    def event(at_ms: float) -> Any:
        return SimpleNamespace(elapsed_time=lambda end: end.at - at_ms, at=at_ms)

    cases = SeenCases(lambda _: None)
    for index in range(MOST_ALIKE + 1):
        seen = found(cases, 2 + 4 * index)
        assert seen is not None
        seen.events.append((event(1.0), event(1.0 + index)))
    (all_of_them,) = (seen.told() for seen in cases)
    assert all_of_them.us == sum(range(MOST_ALIKE + 1)) * 1000.0
