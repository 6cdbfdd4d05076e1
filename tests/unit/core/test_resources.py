"""How many CTAs fit on an SM, and what stops more of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.core.resources import Occupancy, Resources, occupancy
from fusetune.core.target import Target, find_target, known_targets

RTX_4090 = find_target("rtx4090")
H100 = find_target("h100-sxm")

targets = st.sampled_from(known_targets())
registers = st.integers(min_value=1, max_value=255)
shared = st.integers(min_value=0, max_value=240 * 1024)
warps = st.sampled_from([1, 2, 4, 8, 16, 32])
each_target = pytest.mark.parametrize("target", known_targets(), ids=lambda target: target.aliases[0])


def test_the_brief_s_kernel_fills_a_quarter_of_a_4090() -> None:
    """64 x 64 x 32, 4 warps, 3 stages. Nsight Compute measured 24.01 % on the GPU, just below this ceiling."""
    theoretical = occupancy(registers=126, shared_bytes=32768, num_warps=4, target=RTX_4090)
    assert theoretical == Occupancy(ctas_per_sm=3, warps_per_sm=12, fraction=0.25, limiter="shared memory")
    assert 0.2401 / theoretical.fraction > 0.95


@pytest.mark.parametrize(
    ("used_registers", "shared_bytes", "num_warps", "ctas", "limiter"),
    [
        (128, 8192, 8, 2, "registers"),
        (255, 16384, 8, 1, "registers"),
        (32, 40960, 4, 2, "shared memory"),
        (16, 0, 16, 3, "warps"),
        (16, 0, 1, 24, "CTAs"),
    ],
)
def test_each_limit_is_named_where_it_stops_the_next_cta(
    used_registers: int, shared_bytes: int, num_warps: int, ctas: int, limiter: str
) -> None:
    found = occupancy(used_registers, shared_bytes, num_warps, RTX_4090)
    assert (found.ctas_per_sm, found.limiter) == (ctas, limiter)


# Published launches on RTX 4090 cards: theoretical occupancy in percent, with the warps active that Nsight Compute saw.
@pytest.mark.parametrize(
    ("used_registers", "shared_bytes", "num_warps", "percent", "measured_percent"),
    [(128, 98304, 8, 16.667, 16.66), (95, 32768, 4, 25.0, 23.925), (255, 65536, 4, 8.333, 8.33)],
)
def test_launches_measured_by_others_come_out_just_below_the_ceiling(
    used_registers: int, shared_bytes: int, num_warps: int, percent: float, measured_percent: float
) -> None:
    found = occupancy(used_registers, shared_bytes, num_warps, RTX_4090)
    assert 100 * found.fraction == pytest.approx(percent, abs=0.001)
    assert 0.9 * percent < measured_percent <= percent


def test_a_full_sm_is_stopped_by_its_warp_slots_although_the_registers_are_gone_too() -> None:
    """Named "registers", it would send the reader to save registers that buy nothing."""
    full = occupancy(registers=32, shared_bytes=0, num_warps=8, target=H100)
    assert 32 * 32 * full.warps_per_sm == H100.registers_per_sm
    assert full == Occupancy(ctas_per_sm=8, warps_per_sm=64, fraction=1.0, limiter="warps")


def test_registers_are_given_out_in_units_of_8_a_thread() -> None:
    ctas = [occupancy(used, 0, 4, RTX_4090).ctas_per_sm for used in (80, 81, 88, 89)]
    assert ctas == [6, 5, 5, 5]
    assert [occupancy(used, 0, 4, H100).ctas_per_sm for used in (128, 129)] == [4, 3]


def test_warps_are_spread_over_four_register_files() -> None:
    """At 200 registers the four files together would hold 10 warps, but each of them holds only 2."""
    assert occupancy(168, 0, 4, RTX_4090).warps_per_sm == 12
    assert occupancy(200, 0, 2, RTX_4090).warps_per_sm == 8


def test_each_cta_pays_a_kib_of_shared_memory_that_it_does_not_see() -> None:
    exactly_two = 100 * 1024 // 2 - 1024
    assert occupancy(32, exactly_two, 4, RTX_4090).ctas_per_sm == 2
    assert occupancy(32, exactly_two + 1, 4, RTX_4090).ctas_per_sm == 1


@each_target
def test_a_cta_may_have_all_the_shared_memory_it_can_opt_in_to_and_not_a_byte_more(target: Target) -> None:
    assert occupancy(64, target.shared_bytes_per_cta, 4, target).ctas_per_sm == 1
    too_much = occupancy(64, target.shared_bytes_per_cta + 1, 4, target)
    assert too_much == Occupancy(ctas_per_sm=0, warps_per_sm=0, fraction=0.0, limiter="shared memory")


@pytest.mark.parametrize(("used_registers", "num_warps"), [(255, 16), (255, 32), (129, 16), (65, 32)])
def test_a_cta_whose_registers_do_not_fit_is_told_so(used_registers: int, num_warps: int) -> None:
    found = occupancy(used_registers, 0, num_warps, RTX_4090)
    assert found == Occupancy(ctas_per_sm=0, warps_per_sm=0, fraction=0.0, limiter="registers")


def test_the_same_kernel_fits_more_often_where_there_is_more_shared_memory() -> None:
    on_4090 = occupancy(126, 32768, 4, RTX_4090)
    on_h100 = occupancy(126, 32768, 4, H100)
    assert (on_4090.ctas_per_sm, on_h100.ctas_per_sm) == (3, 4)
    assert (on_4090.limiter, on_h100.limiter) == ("shared memory", "registers")


@given(target=targets, used=registers, more=registers, shared_bytes=shared, num_warps=warps)
def test_more_registers_never_raise_occupancy(
    target: Target, used: int, more: int, shared_bytes: int, num_warps: int
) -> None:
    low, high = sorted((used, more))
    assert (
        occupancy(high, shared_bytes, num_warps, target).fraction
        <= occupancy(low, shared_bytes, num_warps, target).fraction
    )


@given(target=targets, used=registers, shared_bytes=shared, more=shared, num_warps=warps)
def test_more_shared_memory_never_raises_occupancy(
    target: Target, used: int, shared_bytes: int, more: int, num_warps: int
) -> None:
    low, high = sorted((shared_bytes, more))
    assert occupancy(used, high, num_warps, target).fraction <= occupancy(used, low, num_warps, target).fraction


@given(target=targets, used=registers, shared_bytes=shared, num_warps=warps)
def test_resident_ctas_never_exceed_what_the_sm_has(
    target: Target, used: int, shared_bytes: int, num_warps: int
) -> None:
    found = occupancy(used, shared_bytes, num_warps, target)
    assert found.warps_per_sm == found.ctas_per_sm * num_warps <= target.max_warps_per_sm
    assert 0 <= found.ctas_per_sm <= target.max_ctas_per_sm
    assert found.warps_per_sm * 32 * used <= target.registers_per_sm
    assert found.ctas_per_sm * (shared_bytes + 1024) <= target.shared_bytes_per_sm
    assert found.fraction == found.warps_per_sm / target.max_warps_per_sm <= 1
    assert found.limiter in {"registers", "warps", "shared memory", "CTAs"}


def test_a_kernel_with_a_stack_spills_whatever_its_registers_are() -> None:
    """256 x 128 x 32 with 4 warps compiles to 40 registers and a stack of 4,904 bytes: few registers are no comfort."""
    assert Resources(registers=40, stack_bytes=4904, shared_bytes=49152).spills
    assert not Resources(registers=255, stack_bytes=0, shared_bytes=49152).spills
