from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_examples import (
    ENVIRONMENT,
    FASTER_LIBRARY,
    H200,
    RTX4090,
    SLOWER_LIBRARY,
    WIDE,
    config_file,
    measured,
    predicted,
    problem,
)

from fusetune.core.config import Config as AnyConfig
from fusetune.store.lookup import Lookup, lookup, target_differences
from fusetune.store.schema import ConfigFile, Entry, Environment, Library
from tests.support.sample import ANOTHER_KERNEL, BASELINE, EVALUATION, OP, Config, Problem, tile

NARROW = tile(rows=16, num_warps=2)
FIRST, SECOND = Path("first.yaml"), Path("second.yaml")


def find(
    *files: ConfigFile, at: Problem | None = None, environment: Environment = ENVIRONMENT, predicted_too: bool = False
) -> Lookup:
    named = list(zip((FIRST, SECOND), files, strict=False))
    return lookup(
        named,
        OP,
        at or problem(),
        RTX4090,
        environment,
        allow_predicted=predicted_too,
        baseline=lambda: BASELINE,
    )


def at_m(M: int, config: Config = WIDE) -> Entry:
    return measured(problem(M), config)


def test_an_entry_for_the_very_problem_is_used() -> None:
    entry = measured()
    assert find(config_file(at_m(100), entry)) == Lookup(WIDE, "exact", FIRST, entry)


def test_the_nearest_m_of_the_same_bucket_is_used_when_the_problem_itself_is_not_there() -> None:
    near = at_m(100, NARROW)
    assert find(config_file(at_m(70), near, at_m(129)), at=problem(120)) == Lookup(NARROW, "nearest", FIRST, near)


@pytest.mark.parametrize(("M", "wanted", "same"), [(65, 128, True), (128, 65, True), (64, 65, False), (1, 2, False)])
def test_a_bucket_ends_at_a_power_of_two_and_starts_above_the_one_before(M: int, wanted: int, same: bool) -> None:
    found = find(config_file(at_m(M)), at=problem(wanted))
    assert found.rung == ("nearest" if same else "baseline")


def test_of_two_equally_near_sizes_the_larger_one_is_used() -> None:
    # 144 / 108 == 192 / 144
    for entries in ((at_m(129), at_m(192), at_m(144)), (at_m(192), at_m(144), at_m(129))):
        found = find(config_file(*entries), at=problem(157))
        assert found.entry is not None
        assert found.entry.problem.sizes()["M"] == 144
    found = find(config_file(at_m(9), at_m(16)), at=problem(12))
    assert found.entry is not None
    assert found.entry.problem.sizes()["M"] == 16


@given(st.lists(st.integers(257, 512), min_size=1, unique=True), st.integers(257, 512))
def test_no_other_size_of_the_bucket_is_nearer_than_the_one_used(sizes: list[int], wanted: int) -> None:
    found = find(config_file(*map(at_m, sizes)), at=problem(wanted))
    assert found.entry is not None
    distance = abs(math.log(found.entry.problem.sizes()["M"] / wanted))
    assert all(distance <= abs(math.log(M / wanted)) + 1e-12 for M in sizes)


@pytest.mark.parametrize(
    "change", [{"N": 513}, {"K": 1}, {"dtype": "float16"}, {"precision": "ieee"}, {"mode": EVALUATION}]
)
def test_nothing_but_m_may_differ(change: dict[str, object]) -> None:
    found = find(config_file(measured(problem(**change))))
    assert found == Lookup(BASELINE, "baseline")


def test_an_entry_of_another_op_is_not_used() -> None:
    assert find(config_file(measured(), op="softmax")) == Lookup(BASELINE, "baseline")


def test_the_earlier_file_wins_on_the_same_rung() -> None:
    found = find(config_file(at_m(128, NARROW)), config_file(at_m(128)))
    assert (found.config, found.file, found.rung) == (NARROW, FIRST, "exact")
    found = find(config_file(at_m(70, NARROW)), config_file(at_m(127)))
    assert (found.config, found.file, found.rung) == (NARROW, FIRST, "nearest")


def test_an_exact_entry_of_a_later_file_beats_a_near_one_of_an_earlier_file() -> None:
    found = find(config_file(at_m(127, NARROW)), config_file(at_m(128)))
    assert (found.config, found.file, found.rung) == (WIDE, SECOND, "exact")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"name": "NVIDIA GeForce RTX 4090 D"},
            "it is for NVIDIA GeForce RTX 4090 D, this GPU is NVIDIA GeForce RTX 4090",
        ),
        ({"capability": "8.6"}, "it is for compute capability 8.6, this GPU has 8.9"),
        ({"sms": 114}, "it is for 114 SMs, this GPU has 128"),
    ],
)
def test_another_gpu_keeps_an_entry_from_being_used_and_says_so(change: dict[str, object], words: str) -> None:
    found = find(config_file(measured(), target=msgspec.structs.replace(RTX4090, **change)))
    assert found.config == BASELINE
    assert found.skipped == (f"first.yaml, entries[0] (M=128 K=1024 N=512 float32 tf32): {words}",)


def test_the_case_of_a_gpu_name_makes_no_other_gpu() -> None:
    assert target_differences(msgspec.structs.replace(RTX4090, name="nvidia geforce rtx 4090"), RTX4090) == ()
    assert len(target_differences(H200, RTX4090)) == 3


def test_a_changed_kernel_keeps_an_entry_from_being_used_and_says_so() -> None:
    found = find(config_file(measured()), environment=msgspec.structs.replace(ENVIRONMENT, kernel_hash="0ddba11"))
    assert found.rung == "baseline"
    assert len(found.skipped) == 1
    assert "(5ca1ab1e then, 0ddba11 now); run `fusetune sweep` again" in found.skipped[0]


def test_predicted_entries_are_used_on_request_only() -> None:
    file = config_file(predicted())
    refused = find(file)
    assert refused.config == BASELINE
    assert "it is predicted, not measured" in refused.skipped[0]
    allowed = find(file, predicted_too=True)
    assert (allowed.config, allowed.rung, allowed.skipped) == (WIDE, "exact", ())


def test_the_next_best_entry_is_used_when_the_best_may_not_be() -> None:
    file = config_file(predicted(problem(128)), at_m(100, NARROW))
    found = find(file)
    assert (found.config, found.rung, len(found.skipped)) == (NARROW, "nearest", 1)


def test_entries_that_would_not_have_come_first_are_not_listed_as_skipped() -> None:
    found = find(config_file(predicted(problem(100)), at_m(128)))
    assert found.skipped == ()


@pytest.mark.parametrize("name", ["driver", "cuda", "torch", "triton", "ptxas"])
def test_another_version_is_used_and_told(name: str) -> None:
    found = find(config_file(measured()), environment=msgspec.structs.replace(ENVIRONMENT, **{name: "0.1"}))
    assert found.rung == "exact"
    assert found.differences == (f"{name} 0.1, file has {getattr(ENVIRONMENT, name)}",)


def test_what_is_not_known_on_both_sides_is_no_difference() -> None:
    bare = Environment(triton="3.7.1", kernel_hash="5ca1ab1e")
    assert find(config_file(measured()), environment=bare).differences == ()
    assert find(config_file(measured(environment=bare))).differences == ()


def test_a_reverted_problem_is_answered_with_the_baseline_that_it_stores() -> None:
    entry = measured(config=BASELINE, verdict="revert", reason="gain_below_minimum")
    assert find(config_file(entry, at_m(127))) == Lookup(BASELINE, "exact", FIRST, entry)


def test_an_empty_set_of_files_ends_in_the_baseline() -> None:
    assert find() == Lookup(BASELINE, "baseline")


def test_an_explanation_tells_rung_file_evidence_differences_and_what_was_passed_over() -> None:
    file = config_file(predicted(problem(128)), at_m(100))
    found = find(file, environment=msgspec.structs.replace(ENVIRONMENT, triton="3.6.0"))
    assert found.explain().splitlines() == [
        "64x16x128 w4 s3: the entry for M=100, the nearest in the same power-of-two bucket",
        "  file: first.yaml",
        "  measured, keep: the gain over BASELINE and over the fastest 4-warp / 2-stage config is confirmed",
        "  gain over BASELINE: +59.8 %, [+59.6, +60.1] %, run 20261123T101500-3f9a",
        "  differs: triton 3.6.0, file has 3.7.1",
        "  not used: first.yaml, entries[0] (M=128 K=1024 N=512 float32 tf32): "
        "it is predicted, not measured, and predicted entries are used on request only",
    ]


def test_an_explanation_of_the_baseline_says_that_no_entry_fits() -> None:
    assert find().explain() == "64x64x32 w4 s2: BASELINE, because no entry fits this problem on this GPU"
    assert str(find()) == find().explain()


def test_an_explanation_of_a_revert_does_not_credit_the_baseline_with_the_gain() -> None:
    entry = measured(config=BASELINE, verdict="revert", reason="gain_below_minimum")
    assert "  gain of the best one tried over BASELINE: +59.8 %" in find(config_file(entry)).explain()


@pytest.mark.parametrize(
    ("library", "told"),
    [
        (SLOWER_LIBRARY, "cuBLAS and a finishing kernel: 7.10 us, 34 % slower"),
        (FASTER_LIBRARY, "cuBLAS with folded weights: 5.00 us, 5.7 % faster: --allow-library lets it win"),
    ],
)
def test_an_explanation_tells_what_a_library_takes_and_how_to_let_it_win(library: Library, told: str) -> None:
    assert find(config_file(measured(library=library))).explain().splitlines()[-1] == f"  {told}"
    assert "cuBLAS" not in find(config_file(measured())).explain()


@pytest.mark.parametrize(("now", "used"), [(ENVIRONMENT.kernel_hash, True), ("f" * 16, False)])
def test_an_entry_is_held_to_the_source_of_its_own_variant_where_variants_have_one_each(now: str, used: bool) -> None:
    """Another variant's kernels, or all of them, may have changed since."""
    entry = measured()
    elsewhere = msgspec.structs.replace(ENVIRONMENT, kernel_hash="e" * 16)
    hashes: dict[AnyConfig, str] = {entry.config: now, ANOTHER_KERNEL: "d" * 16}
    found = lookup(
        [(FIRST, config_file(entry))],
        OP,
        entry.problem,
        RTX4090,
        elsewhere,
        baseline=lambda: BASELINE,
        source_hash=hashes.__getitem__,
    )
    assert found.rung == ("exact" if used else "baseline")
    if not used:
        assert f"{ENVIRONMENT.kernel_hash} then, {now} now" in found.skipped[0]
