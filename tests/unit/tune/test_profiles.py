"""Which metrics of a profile are of which case of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fusetune.capture.cases import Case, KernelSeen
from fusetune.core.diagnosis import DRAM, GRID, SM
from fusetune.errors import UsageError
from fusetune.store.ncu_files import UNNAMED
from fusetune.tune.profiles import Profile, applied, is_called

BOTH = {SM: 40.0, DRAM: 20.0}


def case(name: str = "norm", grid: tuple[int, ...] = (8, 2), us: float | None = None) -> Case:
    return Case(
        kernel=KernelSeen(name, "m", "m.py", 1),
        grid=grid,
        grid_kind="tuple",
        tensors={},
        values={},
        constants={},
        options={},
        before={},
        us=us,
    )


def profile(metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> Profile:
    return Profile(Path("metrics.json"), metrics)


def test_a_kernel_is_found_by_its_name_and_others_of_the_profile_are_not_asked() -> None:
    cases = [case("norm"), case("add")]
    found = applied(profile({"add": (BOTH,), "cutlass_mul": ({SM: 1.0},)}), cases, cases)
    assert found.keys() == {1}
    assert found[1].launches == (BOTH,)
    assert found[1].told is None


@pytest.mark.parametrize("name", ["norm", "norm_0d1d2de", "norm_012"])
def test_a_method_s_kernel_and_one_of_an_early_triton_are_called_by_their_own_name(name: str) -> None:
    assert is_called(case("Layer.<locals>.norm"), name)
    assert not is_called(case("layer_norm"), name)
    assert not is_called(case("norm_backward"), name)
    assert not is_called(case("norm"), "norm_backward")


def test_launches_go_to_the_case_of_their_grid() -> None:
    cases = [case(grid=(8, 2)), case(grid=(4,)), case(grid=(2,))]
    small, large, other = {**BOTH, GRID: 4.0}, {**BOTH, GRID: 16.0}, {**BOTH, GRID: 99.0}
    found = applied(profile({"norm": (small, large, other, large)}), cases, cases)
    assert {place: one.launches for place, one in found.items()} == {0: (large, large), 1: (small,)}


def test_without_a_grid_of_any_case_they_are_the_heaviest_one_s_and_that_is_said() -> None:
    cases = [case(us=1.0), case(us=5.0)]
    (place,) = (found := applied(profile({"norm": (BOTH,)}), cases, cases))
    assert place == 1
    assert found[1].told is not None
    assert "heaviest" in found[1].told


def test_metrics_without_a_name_are_those_of_the_only_kernel_or_of_the_heaviest() -> None:
    alone = applied(profile({UNNAMED: (BOTH,)}), [case()], [])
    assert alone[0].told == "The profile names no kernel: it is taken for that of norm, the only one"
    heavy = applied(profile({UNNAMED: (BOTH,)}), [case(us=1.0), case("add", us=2.0)], [])
    assert heavy[1].told is not None
    assert "add, the heaviest by its time" in heavy[1].told


def test_a_profile_of_other_kernels_names_both_and_what_to_do() -> None:
    with pytest.raises(
        UsageError, match=r"metrics\.json is of softmax, and the program launches norm: give the profile"
    ):
        applied(profile({"softmax": (BOTH,)}), [case()], [case()])
    with pytest.raises(UsageError, match="add, which the program launches, but only norm is tuned: name the kernel"):
        applied(profile({"add": (BOTH,)}), [case()], [case(), case("add")])


def test_metrics_that_say_nothing_of_a_limit_are_asked_for_by_name() -> None:
    with pytest.raises(UsageError, match=f"no {DRAM} of norm.*profile again, as with `ncu"):
        applied(profile({"norm": ({SM: 40.0},)}), [case()], [case()])
