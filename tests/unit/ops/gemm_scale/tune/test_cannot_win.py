"""A sweep stops compiling when nothing that is left can win, by the cost model and by what was measured."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import Checked, Failure
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.report.answer import tried
from fusetune.report.run_summary import summarize_run
from fusetune.report.wording import fallen_words
from fusetune.store.journal import Candidate, read_journal
from fusetune.tune.plan import Plan, make_plan
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import FakeCompiler, ListedSpec, install

H200 = find_target("h200")
PROBLEM = make_problem(128, 512, 1024, "float16")


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = install(monkeypatch)
    fake.last_first = False
    return fake


def request_of(folder: Path, **changes: Any) -> SweepRequest:
    request = SweepRequest(spec=SPEC, problem=PROBLEM, output=folder / "configs", runs=folder / "runs")
    return msgspec.structs.replace(request, **changes)


@functools.cache
def true_us(config: Config) -> float:
    """As predicted, but for an error of some percent that is the config's own."""
    if config.is_library:
        return 9.0
    chance = int.from_bytes(hashlib.sha256(config.label().encode()).digest()[:4], "big") / 2**32
    return 0.97 * estimate(config, PROBLEM, H200).time_us * math.exp(0.12 * (chance - 0.5))


class Stopping(FakeMeasurer):
    """Ends with Ctrl-C after so many checks."""

    def __init__(self, true: Callable[[Config], float], checks: int | None = None) -> None:
        super().__init__(H200, true)
        self.checked: Counter[Config] = Counter()
        self._checks = checks

    def check(self, config: Config) -> Checked | Failure:
        if self._checks is not None and self.checked.total() >= self._checks:
            raise KeyboardInterrupt
        self.checked[config] += 1
        return super().check(config)


def swept(folder: Path, measurer: FakeMeasurer | None = None, **changes: Any) -> SweepResult:
    return sweep(request_of(folder, **changes), measurer or FakeMeasurer(H200, true_us), SilentProgress())


def last_words(result: SweepResult) -> dict[Config, Candidate]:
    return {one.config: one for one in read_journal(result.journal) if isinstance(one, Candidate)}


def planned(folder: Path, **changes: Any) -> Plan:
    return make_plan(request_of(folder, **changes), H200)


class Whole(NamedTuple):
    """A sweep that came to its end, with its plan."""

    plan: Plan
    result: SweepResult
    last: dict[Config, Candidate]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch).last_first = False
        folder = tmp_path_factory.mktemp("whole")
        result = swept(folder)
        yield Whole(planned(folder), result, last_words(result))


def test_a_sweep_leaves_out_what_cannot_win_any_more_and_finds_what_all_would_have_found(whole: Whole) -> None:
    plan, result, last = whole
    dropped = {config for config, one in last.items() if one.reason == "cannot_win"}
    assert {last[config].status for config in dropped} == {"skipped"}
    assert len(dropped) > len(plan.configs) / 2
    run = set(plan.configs) - dropped
    assert {last[config].status for config in run} == {"checked"}
    assert min(map(true_us, run)) <= min(map(true_us, plan.configs)) * 1.01
    assert true_us(result.entry.config) <= min(map(true_us, plan.configs)) * 1.02
    assert BASELINE in run


def test_the_fastest_with_4_warps_and_2_stages_is_among_what_was_tried(whole: Whole) -> None:
    safe = [config for config in whole.plan.configs if config.is_conservative]
    run = [config for config in safe if whole.last[config].status == "checked"]
    assert len(run) < len(safe)
    assert min(map(true_us, run)) <= min(map(true_us, safe)) * 1.01


def test_what_was_left_out_is_counted_and_told_as_what_was_not_tried(whole: Whole) -> None:
    dropped = sum(one.reason == "cannot_win" for one in whole.last.values())
    summary = summarize_run(list(read_journal(whole.result.journal)))
    assert summary.counts["skipped"] == dropped + len(whole.plan.skipped)
    assert f"{summary.counts['skipped']:,} were not tried" in tried(summary)
    assert "could not win any more" in fallen_words("cannot_win", {})


def test_without_the_prior_there_is_nobody_who_decides_what_is_left_out(tmp_path: Path) -> None:
    plan = planned(tmp_path, prior=False)
    assert (plan.pilots, plan.skipped) == ((), {})


def test_a_sweep_that_was_cut_off_goes_on_to_the_same_end(tmp_path: Path, whole: Whole) -> None:
    pilots = len(whole.plan.pilots)
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, Stopping(true_us, pilots - 4))
    measurer = Stopping(true_us)
    ended = swept(tmp_path, measurer)
    assert measurer.checked.total() < 40, "nothing is checked twice"
    written = Counter((one.config, one.status) for one in read_journal(ended.journal) if isinstance(one, Candidate))
    assert max(written.values()) == 1
    last = last_words(ended)
    assert {c: (one.status, one.reason) for c, one in last.items()} == {
        c: (one.status, one.reason) for c, one in whole.last.items()
    }


def test_the_config_that_the_file_holds_is_tried_whatever_the_model_says_of_it(tmp_path: Path, whole: Whole) -> None:
    last = next(config for config in reversed(whole.plan.configs) if whole.last[config].reason == "cannot_win")

    def surprising(config: Config) -> float:
        return 0.5 if config == last else true_us(config)

    held = swept(tmp_path, FakeMeasurer(H200, surprising), spec=ListedSpec(last), space="full")
    assert held.entry.config == last
    again = swept(tmp_path, FakeMeasurer(H200, surprising), fresh=True)
    assert last_words(again)[last].status == "checked"
    assert again.entry.config == last
