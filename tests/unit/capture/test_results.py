"""Results by their places, and by how much they differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch

from fusetune.capture.results import difference, have_tensors, in_dtypes_of, load, results_of, save


class Output(NamedTuple):
    logits: Any
    more: Any


@dataclass
class Held:
    loss: Any


def test_places_in_what_a_program_gives():
    x = torch.arange(3.0, requires_grad=True)
    found = results_of({"a": [x, (1, None)], "b": Held(2.5), "c": Output("word", object()), "d": {3: x * 2}})
    assert list(found) == ["a.0", "a.1.0", "a.1.1", "b.loss", "c.0", "d.3"]
    assert have_tensors(found)
    assert found["a.0"].data_ptr() != x.data_ptr()
    assert not found["a.0"].requires_grad
    assert not have_tensors(results_of([1, "a", None]))


def test_what_holds_itself_ends():
    held: list[Any] = [torch.ones(1)]
    held.append(held)
    assert len(results_of(held)) == 20


def test_a_file_gives_back_what_was_saved(tmp_path):
    results = results_of([torch.randn(4, 5).to(torch.bfloat16), torch.arange(3), 2.5, "a", None, True])
    save(results, tmp_path / "results.pt")
    assert difference(results, load(tmp_path / "results.pt")).told() == "max error 0"


def test_rounding_is_a_relative_error_with_its_dtype_s_own_measure():
    x = torch.linspace(1, 2, 1000)
    found = difference(results_of(x * (1 + 1e-3)), results_of(x))
    assert (found.error, found.largest) == pytest.approx((1e-3, 2e-3 / 1.528), rel=0.01)
    assert found.allowed == 1e-5
    half = difference(results_of([x.half(), x]), results_of([x.half() * 1.001, x]))
    assert (half.part, half.allowed) == ("0", 1e-3)


def test_the_worst_part_is_told_in_its_own_measure():
    x = torch.linspace(1, 2, 100)
    found = difference(results_of([x.half() * 1.002, x * (1 + 1e-4)]), results_of([x.half(), x]))
    assert found.part == "1", "ten times what float32 rounds, and twice what float16 does"


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        (torch.zeros(3), torch.zeros(4), "float32"),
        (torch.zeros(3), torch.zeros(3).half(), "float16"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "1 whole numbers differ"),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0]), "NaN"),
        (torch.tensor([1.0, math.inf]), torch.tensor([1.0, 2.0]), "infinities"),
        (torch.tensor([1.0]), torch.tensor([0.0]), "was 0 everywhere"),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, "other parts: a"),
        ("word", "other", "'word'"),
        (1, True, "was True"),
        (torch.ones(1), None, "and was None"),
    ],
)
def test_what_no_tolerance_allows(mine: Any, theirs: Any, told: str):
    found = difference(results_of(mine), results_of(theirs))
    assert found.wrong is not None
    assert told in found.wrong


def test_what_is_equal_is_so():
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1.0])
    for value in (odd, torch.tensor([True, False]), torch.tensor([1 + 2j]), 1.5, math.nan, "a", torch.ones(0)):
        found = difference(results_of(value), results_of(value))
        assert (found.error, found.wrong) == (0.0, None), value


def test_a_reference_in_another_dtype_is_rounded():
    x = torch.linspace(1, 2, 100)
    results = results_of(x.half())
    assert difference(results, in_dtypes_of(results, results_of(x))).error == 0.0
