"""early_stop.py on sweeps whose truth is known."""

from __future__ import annotations

from typing import NamedTuple

import early_stop
import pytest

from fusetune.core.decision import KeepRule
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import find_target
from fusetune.store.journal import Candidate, RunStart, Sample
from tests.support.sample import BASELINE, OP, SPEC, Config, candidates, make_problem, reject_reason

H200 = find_target("h200")
PROBLEM = make_problem(128, 512, 1024, "float16")


class Planted(NamedTuple):
    """A candidate that no prediction speaks for, and the fastest."""

    sweep: early_stop.Sweep
    config: Config


def made_up(*, planted_us: float | None = None) -> Planted:
    """A sweep in which every config takes what the model says; one that is predicted late takes `planted_us`."""
    space = [config for config in candidates(SPEC.space, "standard") if reject_reason(config, PROBLEM, H200) is None]
    configs = list(dict.fromkeys((BASELINE, *space[::2])))
    times = {config: SPEC.estimate(config, PROBLEM, H200).time_us for config in configs}
    late = sorted((c for c in configs if not c.is_conservative), key=lambda config: times[config])[250]
    if planted_us is not None:
        times[late] = planted_us
    identity = TargetIdentity(name=H200.name, capability=H200.capability, sms=H200.sms)
    environment = Environment(triton="3.7.1", kernel_hash="0" * 16)
    about = (OP, PROBLEM, identity, "measured", environment, "standard", 0, KeepRule())
    start = RunStart(1, "run", "2026-11-30T00:00:00Z", "0.1.0", *about)
    records = [start]
    for number, (config, time_us) in enumerate(times.items()):
        records += [Candidate(number, config, "checked"), Sample(number, 1, time_us)]
    sweep = early_stop.read_sweep(records)
    assert sweep is not None
    return Planted(sweep, late)


def test_with_a_model_that_is_right_little_is_compiled_and_nothing_lost() -> None:
    row = early_stop.played(made_up().sweep, worse=0.0)
    assert row["full"]
    assert row["compiled"] < row["planned"] / 2
    assert (row["loss"], row["loss_conservative"]) == (pytest.approx(0, abs=0.01), pytest.approx(0, abs=0.01))


def test_a_winner_that_nothing_speaks_for_is_lost_and_the_row_says_by_how_much() -> None:
    fair, planted = made_up(), made_up(planted_us=0.5)
    best = min(fair.sweep.true_us.values())
    assert early_stop.played(planted.sweep, worse=0.0)["loss"] == pytest.approx(best / 0.5 - 1, rel=0.02)


def test_what_the_sweep_had_skipped_is_no_part_of_the_plan() -> None:
    sweep = made_up().sweep
    most = frozenset(sorted(sweep.predicted, key=lambda config: sweep.predicted[config])[200:])
    less = early_stop.played(sweep._replace(skipped=most), worse=0.0)
    assert less["planned"] <= 201 < early_stop.played(sweep, worse=0.0)["planned"]
