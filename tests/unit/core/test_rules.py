"""Each branch of the brief's conditional rules."""

from __future__ import annotations

import msgspec
import pytest

from fusetune.core.bound import Bound
from fusetune.core.resources import Resources, occupancy
from fusetune.core.rules import (
    HIGH_PRESSURE,
    LOW_PRESSURE,
    MULTI_INPUT,
    Proposal,
    contradictions,
    left_out,
    propose,
    why_proposed,
)
from fusetune.core.target import find_target
from tests.support.sample import BASELINE, Config, tile

RTX_4090 = find_target("rtx4090")
COMPUTE, MEMORY = Bound(compute=True, why=""), Bound(compute=False, why="")
W8, S3 = Config(num_warps=8), Config(num_stages=3)


def proposal(
    registers: int, *, stack: int = 0, shared: int = 16384, loads: int = 2, compute_bound: bool = True
) -> Proposal:
    resources = Resources(registers=registers, stack_bytes=stack, shared_bytes=shared)
    return propose(
        resources, occupancy(registers, shared, 4, RTX_4090), loads, compute_bound=compute_bound, baseline=BASELINE
    )


def test_low_pressure_tries_eight_warps_and_three_stages_one_at_a_time() -> None:
    found = proposal(95, shared=32768)
    assert found.fired == (LOW_PRESSURE,)
    assert set(found.configs) == {BASELINE, W8, S3}


def test_low_pressure_leaves_eight_warps_to_compute_bound_fusion() -> None:
    assert proposal(80, shared=32768, compute_bound=False).configs == (BASELINE, S3)


@pytest.mark.parametrize("registers", [129, 255])
def test_high_pressure_leaves_baseline_alone(registers: int) -> None:
    found = proposal(registers, shared=32768)
    assert HIGH_PRESSURE in found.fired
    assert found.configs == (BASELINE,)


def test_registers_that_limit_occupancy_are_high_pressure_however_few_they_are() -> None:
    """90 registers and 8 KiB: five CTAs an SM by registers, before any other limit."""
    found = proposal(90, shared=8192)
    assert occupancy(90, 8192, 4, RTX_4090).limiter == "registers"
    assert found.fired == (LOW_PRESSURE, HIGH_PRESSURE)
    assert found.configs == (BASELINE,)


def test_a_spill_is_not_low_pressure_however_few_registers_are_shown() -> None:
    """256x128x32 with 4 warps shows 40 registers and a stack of thousands of bytes."""
    found = proposal(40, stack=4904, shared=49152)
    assert LOW_PRESSURE not in found.fired


@pytest.mark.parametrize(("registers", "low"), [(95, True), (96, False), (128, False)])
def test_the_bounds_are_exclusive(registers: int, low: bool) -> None:
    fired = proposal(registers, shared=32768).fired
    assert (LOW_PRESSURE in fired) is low
    assert HIGH_PRESSURE not in fired


def test_stages_that_make_no_difference_are_not_tried() -> None:
    held = occupancy(80, 16384, 4, RTX_4090)
    made = Resources(registers=80, stack_bytes=0, shared_bytes=16384)
    found = propose(made, held, 0, compute_bound=True, baseline=BASELINE, stages_matter=False)
    assert found.configs == (BASELINE, W8)
    assert left_out(found, COMPUTE, stages_matter=False) == (
        "Stages make no difference: no loop of the kernel is pipelined.",
    )


def test_each_config_says_why_it_is_tried_and_what_is_left_out_says_why_not() -> None:
    low = proposal(80, shared=32768)
    assert why_proposed(BASELINE, low, COMPUTE, BASELINE) == "the conservative choice, always among them"
    assert (
        why_proposed(W8, low, COMPUTE, BASELINE) == "8 warps, since register pressure is low, and it is compute-bound"
    )
    assert "3 stages, since register pressure is low" in why_proposed(S3, low, COMPUTE, BASELINE)
    assert "no rule speaks against it" in why_proposed(W8, proposal(110, shared=32768), COMPUTE, BASELINE)
    assert "by occupancy" in why_proposed(Config(num_warps=2), low, COMPUTE, BASELINE)
    assert left_out(low, COMPUTE, stages_matter=True) == ()
    memory = proposal(80, shared=32768, compute_bound=False)
    assert left_out(memory, MEMORY, stages_matter=True) == ("8 warps are left out: it is memory-bound.",)
    both = proposal(90, shared=8192)
    assert left_out(both, MEMORY, stages_matter=True) == ("register pressure high, the more careful rule, wins.",)


def test_between_the_bounds_no_rule_fires_and_each_parameter_is_tried() -> None:
    found = proposal(110, shared=32768)
    assert found.fired == ()
    assert set(found.configs) == {BASELINE, W8, S3}


@pytest.mark.parametrize("loads", [3, 5])
def test_three_staged_loads_keep_two_stages(loads: int) -> None:
    found = proposal(80, shared=32768, loads=loads)
    assert found.fired == (LOW_PRESSURE, MULTI_INPUT)
    assert all(config.num_stages == 2 for config in found.configs)
    assert proposal(110, shared=32768, loads=loads).configs == (BASELINE,)


@pytest.mark.parametrize("registers", range(32, 256, 16))
@pytest.mark.parametrize("loads", [1, 2, 3])
@pytest.mark.parametrize("compute_bound", [True, False])
def test_at_most_three_configs_baseline_first(registers: int, loads: int, compute_bound: bool) -> None:
    configs = proposal(registers, loads=loads, compute_bound=compute_bound).configs
    assert configs[0] == BASELINE
    assert len(set(configs)) == len(configs) <= 3
    assert all(config.num_warps in (4, 8) and config.num_stages in (2, 3) for config in configs)


LARGE = tile(rows=128, columns=128, num_warps=8, num_stages=3)


def test_another_tile_is_proposed_with_the_rules_warps_and_stages_beside_baseline() -> None:
    held = occupancy(200, 65536, 8, RTX_4090)
    found = propose(Resources(200, 0, 65536), held, 2, compute_bound=True, baseline=BASELINE, tile=LARGE)
    assert found.fired == (HIGH_PRESSURE,)
    assert found.configs == (BASELINE, msgspec.structs.replace(LARGE, num_warps=4, num_stages=2))
    low = propose(
        Resources(90, 0, 65536), occupancy(90, 65536, 8, RTX_4090), 2, compute_bound=True, baseline=BASELINE, tile=LARGE
    )
    assert low.configs[0] == BASELINE
    assert len(low.configs) == 3
    assert LARGE not in low.configs


@pytest.mark.parametrize("config", [BASELINE, S3, W8])
def test_nothing_is_proposed_twice(config: Config) -> None:
    found = propose(
        Resources(80, 0, 32768),
        occupancy(80, 32768, 4, RTX_4090),
        2,
        compute_bound=True,
        baseline=BASELINE,
        tile=config,
    )
    assert len(set(found.configs)) == len(found.configs) <= 3
    assert BASELINE in found.configs


def spoken(resources: Resources, config: Config = S3, made: dict[Config, Resources] | None = None) -> str:
    held = occupancy(resources.registers, resources.shared_bytes, config.num_warps, RTX_4090)
    fired = propose(resources, held, 2, compute_bound=True, baseline=BASELINE, tile=config).fired
    return " ".join(contradictions(config, resources, held, fired, made or {}))


def test_many_registers_without_a_spill_speak_against_high_pressure() -> None:
    assert "254 registers" in spoken(Resources(254, 0, 32768))
    assert "nothing spills" in spoken(Resources(254, 0, 32768))
    assert spoken(Resources(100, 0, 32768)) == ""


def test_few_registers_with_a_huge_stack_speak_against_low_pressure() -> None:
    found = spoken(Resources(40, 4904, 49152))
    assert "40 registers look like low pressure" in found
    assert "4904 bytes of stack" in found


def test_a_proposal_that_spills_where_the_config_does_not_is_told() -> None:
    fewer = msgspec.structs.replace(LARGE, num_warps=4)
    found = spoken(Resources(200, 0, 65536), LARGE, {fewer: Resources(255, 320, 65536)})
    assert f"{fewer.label()} spills 320 bytes" in found


def test_stages_that_free_no_registers_are_told() -> None:
    fewer = msgspec.structs.replace(LARGE, num_stages=2)
    assert "stages live in shared memory" in spoken(Resources(200, 0, 65536), LARGE, {fewer: Resources(204, 0, 32768)})
    assert "stages live" not in spoken(Resources(200, 0, 65536), LARGE, {fewer: Resources(150, 0, 32768)})
