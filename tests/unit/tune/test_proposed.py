"""What a prediction proposes of a program's own list, where nobody knows what its autotuner would choose."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fusetune.core.config import NamedConfig
from fusetune.core.resources import Resources
from fusetune.store.journal import Candidate
from fusetune.tune.explained import proposed_of

FIRST, SECOND, THIRD, FOURTH = (NamedConfig(BLOCK=64 << step, num_warps=8, num_stages=3) for step in range(4))
BASELINE = NamedConfig(BLOCK=64, num_warps=4, num_stages=2)
FITS, SPILLS = Resources(40, 0, 0), Resources(255, 2048, 0)


def proposed(
    listed: list[NamedConfig],
    *,
    before: NamedConfig = FIRST,
    rules: tuple[NamedConfig, ...] = (),
    stages: bool = True,
    **records: Candidate,
) -> tuple[Any, ...]:
    spec = SimpleNamespace(listed=lambda _: listed, stages_matter=stages)
    request: Any = SimpleNamespace(spec=spec, problem=None, space="rules", reference=before, baseline=BASELINE)
    result: Any = SimpleNamespace(best=())
    proposal: Any = SimpleNamespace(configs=(BASELINE, *rules))
    return proposed_of(request, result, proposal, {one.config: one for one in records.values()})  # type: ignore[misc]


def test_the_first_of_a_list_come_in_their_author_s_order_and_what_spills_comes_last() -> None:
    found = {
        "first": Candidate(0, FIRST, "compiled", resources=SPILLS),
        "baseline": Candidate(1, BASELINE, "compiled", resources=FITS),
        "second": Candidate(2, SECOND, "rejected", reason="shared_memory"),
        "third": Candidate(3, THIRD, "compiled", resources=FITS),
        "fourth": Candidate(4, FOURTH, "compiled", resources=FITS),
    }
    assert proposed([FIRST, SECOND, THIRD, FOURTH], **found) == (BASELINE, THIRD, FOURTH)
    assert proposed([FIRST, THIRD], **found) == (BASELINE, THIRD, FIRST)
    found["first"] = Candidate(0, FIRST, "compiled", resources=FITS)
    assert proposed([FIRST, SECOND, THIRD, FOURTH], **found) == (BASELINE, FIRST, THIRD)


def test_what_runs_today_is_among_them_where_no_list_is_chosen_from() -> None:
    found = {"first": Candidate(0, FIRST, "compiled", resources=SPILLS)}
    assert proposed([], **found) == (BASELINE, FIRST)
    assert proposed([FIRST], **found) == (BASELINE, FIRST)


def test_of_configs_that_are_the_same_code_there_is_one_and_none_where_it_is_what_runs() -> None:
    """Without a loop to pipeline stages make no difference."""
    before, eight = NamedConfig(BLOCK=64, num_warps=4, num_stages=3), NamedConfig(BLOCK=64, num_warps=8, num_stages=3)
    found = {
        str(number): Candidate(number, config, "compiled", resources=FITS)
        for number, config in enumerate((before, BASELINE, eight))
    }
    assert proposed([], before=before, **found) == (BASELINE, before)
    assert proposed([], before=before, stages=False, **found) == ()
    assert proposed([], before=BASELINE, stages=False, **found) == ()
    assert proposed([], before=before, rules=(eight,), stages=False, **found) == (BASELINE, eight)
    assert proposed([before, eight], before=before, stages=False, **found) == (BASELINE, eight)
    failed = {**found, "0": Candidate(0, before, "rejected", reason="shared_memory")}
    assert proposed([], before=before, stages=False, **failed) == (BASELINE,)
