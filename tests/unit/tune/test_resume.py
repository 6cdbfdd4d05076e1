"""A sweep that was cut off goes on where it stopped, and a finished one spares the next its checks and screening."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.decision import KeepRule
from fusetune.core.progress import SilentProgress
from fusetune.errors import MeasurementError, NoisyMachineError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts
from fusetune.store.journal import Block, Candidate, Comparison, Record, RunEnd, RunStart, Sample, read_journal
from fusetune.store.yaml_files import read_config_file
from fusetune.tune import ledger
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import FakeCompiler
from tests.support.killable import (
    BROKEN,
    CONFIGS,
    FAILURES,
    FAST,
    NOISE,
    OTHER,
    RTX4090,
    SAFE,
    SPILLING,
    TOO_LARGE,
    TRUE_US,
    WARPS8,
    Taken,
    install_compiler,
    request_of,
)
from tests.support.sample import BASELINE, Config, make_problem

RUNNABLE = {BASELINE, FAST, SAFE, WARPS8, OTHER}
CHECKED = RUNNABLE | {BROKEN}


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install_compiler(monkeypatch)


class Counting(FakeMeasurer):
    """Counts what it is asked; after `answers` answers comes Ctrl-C.

    Blocks are counted by how many processes were prepared, so that those of the final and of the revalidation differ;
    discarded ones are left out, since they are taken again.
    """

    def __init__(self, *, answers: int | None = None, facts: dict[str, Any] | None = None, **options: Any) -> None:
        chosen = {"noise": NOISE, "failures": FAILURES, "discard_every": 11, "drift": 0.05, **options}
        true_us = chosen.pop("true_us", TRUE_US)
        super().__init__(RTX4090, true_us.__getitem__, **chosen)
        self._answers_left, self._in_block, self._changed_facts = answers, False, facts or {}
        self.checks: Counter[Config] = Counter()
        self.samples: Counter[Config] = Counter()
        self.blocks: Counter[tuple[int, Config, Config]] = Counter()
        self.answers = 0

    def facts(self) -> GpuFacts:
        facts = super().facts()
        changed = dict(self._changed_facts)
        uuid = changed.pop("uuid", None)
        environment = msgspec.structs.replace(facts.environment, **changed)
        return msgspec.structs.replace(facts, environment=environment, uuid=uuid)

    def check(self, config: Config) -> Checked | Failure:
        self._answer()
        self.checks[config] += 1
        return super().check(config)

    def sample(self, config: Config) -> float | Failure:
        if not self._in_block:
            self._answer()
            self.samples[config] += 1
        return super().sample(config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        self._answer()
        self._in_block = True
        times = super().block(baseline, config, config_first=config_first)
        self._in_block = False
        if isinstance(times, BlockTimes) and not times.discarded:
            self.blocks[len(self.prepared), baseline, config] += 1
        return times

    def _answer(self) -> None:
        if self._answers_left is not None:
            if self._answers_left == 0:
                raise KeyboardInterrupt
            self._answers_left -= 1
        self.answers += 1


class Heard(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def run(request: SweepRequest, measurer: FakeMeasurer | None = None) -> SweepResult:
    return sweep(request, measurer or Counting(), SilentProgress())


def interrupted(request: SweepRequest, answers: int, **options: Any) -> Counting:
    """A sweep cut off after so many answers."""
    measurer = Counting(answers=answers, **options)
    with pytest.raises(KeyboardInterrupt):
        run(request, measurer)
    return measurer


def records_of(result: SweepResult) -> list[Record]:
    return list(read_journal(result.journal))


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "runs").glob("*.jsonl"))


def renamed(journal: Path, run_id: str) -> Path:
    """A copy of a journal, as if the run had begun at another time."""
    copy = journal.with_name(f"{run_id}.jsonl")
    copy.write_bytes(journal.read_bytes().replace(journal.stem.encode(), run_id.encode()))
    return copy


def same_answer(result: SweepResult, other: SweepResult) -> bool:
    one, two = result.entry, other.entry
    return (one.config, one.verdict, one.reason) == (two.config, two.verdict, two.reason)


def compared(records: list[Record]) -> list[tuple[str, Config, Config]]:
    """What was said of which pair, in order."""
    configs = {record.id: record.config for record in records if isinstance(record, Candidate)}
    return [(r.phase, configs[r.baseline_id], configs[r.id]) for r in records if isinstance(r, Comparison)]


class Uninterrupted:
    """The sweep that all others are held against."""

    def __init__(self, folder: Path) -> None:
        self.measurer = Counting()
        self.result = run(request_of(folder), self.measurer)
        self.records = records_of(self.result)
        self.lines = self.result.journal.read_bytes().splitlines(keepends=True)
        self.taken = Taken(self.records)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uninterrupted]:
    with pytest.MonkeyPatch.context() as patched:
        install_compiler(patched)
        yield Uninterrupted(tmp_path_factory.mktemp("whole"))


def assert_whole(folder: Path, result: SweepResult, whole: Uninterrupted) -> None:
    """The one journal in the folder holds everything that the uninterrupted run's does, once."""
    assert journals(folder) == [result.journal]
    assert same_answer(result, whole.result)
    assert result.file is not None
    assert read_config_file(result.file).entries == (result.entry,)
    records = records_of(result)
    taken = Taken(records)
    assert taken.checks == whole.taken.checks
    assert taken.candidates_samples == whole.taken.candidates_samples
    assert taken.blocks == whole.taken.blocks
    assert not any(getattr(record, "reused", False) for record in records)
    last_words = {record.config: record.status for record in records if isinstance(record, Candidate)}
    assert last_words == {r.config: r.status for r in whole.records if isinstance(r, Candidate)}
    assert compared(records) == compared(whole.records)
    assert sum(r.discarded_blocks for r in records if isinstance(r, Comparison)) == taken.discarded > 0
    assert [record for record in records if isinstance(record, RunEnd)] == records[-1:]


def test_the_uninterrupted_sweep_measures_all_that_it_should(whole: Uninterrupted) -> None:
    """What the other tests here hold against it is not empty."""
    assert whole.result.entry.config == FAST
    assert whole.result.entry.verdict == "keep"
    assert whole.taken.checks == dict.fromkeys(CHECKED, 1)
    assert set(whole.taken.candidates_samples.values()) == {1, 2, 4, 8}
    assert {config for _, config in whole.taken.samples} == RUNNABLE
    assert set(whole.taken.blocks.values()) == {25}
    assert {phase for phase, _, _ in whole.taken.blocks} == {"control", "confirm", "revalidate"}
    assert whole.measurer.answers == len(whole.taken)


@pytest.mark.parametrize("moment", range(25))
def test_an_interrupted_sweep_goes_on_in_the_same_run_and_measures_nothing_twice(
    tmp_path: Path, whole: Uninterrupted, moment: int
) -> None:
    answers = moment * (whole.measurer.answers - 1) // 24
    first = interrupted(request_of(tmp_path), answers)
    (journal,) = journals(tmp_path)
    assert len(Taken(read_journal(journal))) == answers

    second = Counting(seed=1)
    result = run(request_of(tmp_path), second)
    assert (result.run, result.journal) == (journal.stem, journal)
    assert_whole(tmp_path, result, whole)
    assert first.checks + second.checks == whole.measurer.checks
    for config in RUNNABLE - {BASELINE}:
        assert first.samples[config] + second.samples[config] == whole.measurer.samples[config]
    # At most two samples of BASELINE more: one closes the sequence that was cut off, one opens the rest.
    assert (first.samples + second.samples)[BASELINE] - whole.measurer.samples[BASELINE] in {0, 1, 2}


def test_a_sweep_that_is_interrupted_again_and_again_still_measures_nothing_twice(
    tmp_path: Path, whole: Uninterrupted
) -> None:
    for _ in range(40):
        measurer = Counting(answers=17)
        try:
            result = run(request_of(tmp_path), measurer)
        except KeyboardInterrupt:
            continue
        break
    assert len(whole.taken) / 17 < 40
    assert_whole(tmp_path, result, whole)


def test_an_interrupted_sweep_says_that_it_goes_on_and_with_which_run(tmp_path: Path) -> None:
    interrupted(request_of(tmp_path), 100)
    heard = Heard()
    result = sweep(request_of(tmp_path), Counting(), heard)
    assert f"Going on with the run {result.run}, which was cut off" in heard.said


def test_a_run_that_goes_on_draws_its_inputs_from_the_same_seeds(tmp_path: Path) -> None:
    first = interrupted(request_of(tmp_path, seed=5), 250)
    second = Counting()
    run(request_of(tmp_path, seed=5), second)
    assert first.prepared[:1] == [5]
    assert second.prepared == [5, 6]


# --- a kill cuts the journal at any byte

PLACES: dict[str, Callable[[Record], bool]] = {
    "run": lambda record: isinstance(record, RunStart),
    "rejected": lambda record: isinstance(record, Candidate) and record.config in TOO_LARGE,
    "spilling": lambda record: isinstance(record, Candidate) and record.config == SPILLING,
    "compiled": lambda record: isinstance(record, Candidate) and record.status == "compiled",
    "checked": lambda record: isinstance(record, Candidate) and record.status == "checked",
    "failed": lambda record: isinstance(record, Candidate) and record.status == "failed",
    **{
        f"sample {number}": lambda record, number=number: isinstance(record, Sample) and record.round == number
        for number in (1, 2, 3, 4)
    },
    **{
        f"block {phase}": lambda record, phase=phase: isinstance(record, Block) and record.phase == phase
        for phase in ("control", "confirm", "revalidate")
    },
    "comparison": lambda record: isinstance(record, Comparison),
}
CUTS: dict[str, Callable[[bytes], bytes]] = {
    "after it": lambda line: line,
    "in its middle": lambda line: line[: len(line) // 2],
    "before its newline": lambda line: line[:-1],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("place", [place for place in PLACES if place != "run"])
def test_a_journal_that_was_cut_anywhere_is_continued(
    tmp_path: Path, whole: Uninterrupted, place: str, cut: str
) -> None:
    lines = [number for number, record in enumerate(whole.records) if PLACES[place](record)]
    chosen = lines[len(lines) // 2]
    journal = tmp_path / "runs" / whole.result.journal.name
    journal.parent.mkdir()
    kept = b"".join(whole.lines[:chosen])
    journal.write_bytes(kept + CUTS[cut](whole.lines[chosen]))

    result = run(request_of(tmp_path), Counting(seed=1))
    assert_whole(tmp_path, result, whole)
    assert journal.read_bytes().startswith(kept)


@pytest.mark.parametrize("cut", ["in its middle", "before its newline"])
def test_a_journal_whose_first_line_was_cut_is_no_run_and_a_new_one_begins(
    tmp_path: Path, whole: Uninterrupted, cut: str
) -> None:
    journal = tmp_path / "runs" / "20200101T000000-aaaa.jsonl"
    journal.parent.mkdir()
    journal.write_bytes(CUTS[cut](whole.lines[0]))
    result = run(request_of(tmp_path))
    assert result.run != journal.stem
    assert same_answer(result, whole.result)
    assert Taken(records_of(result)).blocks == whole.taken.blocks


def test_a_journal_in_which_only_the_end_is_missing_is_ended_without_a_measurement(
    tmp_path: Path, whole: Uninterrupted
) -> None:
    journal = tmp_path / "runs" / whole.result.journal.name
    journal.parent.mkdir()
    journal.write_bytes(b"".join(whole.lines[:-1]))
    measurer = Counting(answers=0)
    assert same_answer(run(request_of(tmp_path), measurer), whole.result)
    assert measurer.answers == 0


def test_a_run_is_not_gone_on_with_that_ends_just_before_its_lock_is_ours(
    tmp_path: Path, whole: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two equal GPUs share a folder of journals: the other sweep may end between our look at one and its lock."""
    journal = tmp_path / "runs" / whole.result.journal.name
    journal.parent.mkdir()
    journal.write_bytes(b"".join(whole.lines[:-1]))
    really = ledger.lock_journal

    def lock(path: Path) -> Any:
        if path == journal:
            journal.write_bytes(b"".join(whole.lines))
        return really(path)

    monkeypatch.setattr(ledger, "lock_journal", lock)
    result = run(request_of(tmp_path))
    assert result.run != journal.stem
    assert journal.read_bytes() == b"".join(whole.lines)


# --- which run is gone on with


def test_a_run_that_a_live_process_works_on_is_left_to_it_and_goes_on_after_its_death(
    tmp_path: Path, whole: Uninterrupted
) -> None:
    interrupted(request_of(tmp_path), 150)
    (journal,) = journals(tmp_path)
    before = journal.read_bytes()
    hold = (
        "import sys, pathlib, fusetune.tune.ledger as ledger\n"
        "lock = ledger.lock_journal(pathlib.Path(sys.argv[1]))\n"
        "print('held' if lock else 'not held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        own = run(request_of(tmp_path))
        assert own.run != journal.stem
        assert journal.read_bytes() == before
        assert Taken(records_of(own)).checks == whole.taken.checks
        holder.kill()
    assert run(request_of(tmp_path)).run == journal.stem


OTHER_QUESTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kernel": ({}, {"kernel_hash": "1" * 16}),
    "driver": ({}, {"facts": {"driver": "580.1"}}),
    "triton": ({}, {"facts": {"triton": "9.9.9"}}),
    "seed": ({"seed": 7}, {}),
    "cache": ({"cache": "warm"}, {}),
    "clocks": ({"lock_mhz": 1980}, {}),
    "problem": ({"problem": make_problem(128, 512, 2048, "float32")}, {}),
    "precision": ({"problem": make_problem(128, 512, 1024, "float32", "ieee")}, {}),
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "cut off"])
@pytest.mark.parametrize("question", OTHER_QUESTIONS)
def test_a_run_of_another_question_gives_nothing(tmp_path: Path, question: str, finished: bool) -> None:
    earlier = run(request_of(tmp_path)).run if finished else None
    if not finished:
        interrupted(request_of(tmp_path), 150)
        earlier = journals(tmp_path)[0].stem
    asked, gpu = OTHER_QUESTIONS[question]
    measurer = Counting(**gpu)
    result = run(request_of(tmp_path, **asked), measurer)
    assert result.run != earlier
    assert measurer.checks == dict.fromkeys(CHECKED, 1)
    assert not any(getattr(record, "reused", False) for record in records_of(result))


@pytest.mark.parametrize(
    "changes", [{"rule": KeepRule(min_gain=0.03)}, {"space": "seed"}, {"fresh": True}, {"prior": False}]
)
def test_a_cut_off_run_is_not_gone_on_with_by_another_command(tmp_path: Path, changes: dict[str, Any]) -> None:
    interrupted(request_of(tmp_path), 150, true_us=AnyTime())
    (journal,) = journals(tmp_path)
    before = journal.read_bytes()
    measurer = Counting(true_us=AnyTime())
    assert run(request_of(tmp_path, **changes), measurer).run != journal.stem
    assert journal.read_bytes() == before
    assert BASELINE in measurer.checks
    assert run(request_of(tmp_path), Counting()).run == journal.stem


def test_a_cut_off_run_is_gone_on_with_on_its_own_card_and_on_no_other_of_the_model(tmp_path: Path) -> None:
    interrupted(request_of(tmp_path), 150, facts={"uuid": "GPU-1"})
    (journal,) = journals(tmp_path)
    assert run(request_of(tmp_path), Counting(facts={"uuid": "GPU-2"})).run != journal.stem
    assert run(request_of(tmp_path), Counting(facts={"uuid": "GPU-1"})).run == journal.stem
    assert "GPU-1" not in journal.read_text(), "a UUID is its owner's"


def test_nothing_is_taken_over_from_runs_before_the_moment_that_is_named(tmp_path: Path, whole: Uninterrupted) -> None:
    interrupted(request_of(tmp_path), 150)
    (one,) = journals(tmp_path)
    older = renamed(one, "20200101T000000-ffff")
    one.unlink()
    measurer = Counting()
    assert run(request_of(tmp_path, since="20200101T000001-"), measurer).run != older.stem
    assert measurer.checks == whole.taken.checks
    assert run(request_of(tmp_path, since="20200101T000000-")).run == older.stem


class AnyTime(dict[Config, float]):
    """TRUE_US, and 30 us for what it does not hold."""

    def __init__(self) -> None:
        super().__init__(TRUE_US)

    def __missing__(self, config: Config) -> float:
        return 30.0


def test_the_newest_of_the_cut_off_runs_is_gone_on_with(tmp_path: Path) -> None:
    interrupted(request_of(tmp_path), 150)
    (one,) = journals(tmp_path)
    older, newer = (renamed(one, f"2020010{day}T000000-{end}") for day, end in ((1, "ffff"), (2, "0000")))
    one.unlink()
    assert run(request_of(tmp_path)).run == newer.stem
    assert run(request_of(tmp_path)).run == older.stem


def test_files_that_are_no_journals_of_a_sweep_are_passed_over(tmp_path: Path, whole: Uninterrupted) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "20200101T000000-0001.jsonl").write_bytes(b"not JSON\n" * 3)
    (runs / "20200101T000000-0002.jsonl").write_bytes(b"")
    (runs / "20200101T000000-0003.jsonl").write_bytes(b"\xff\xfe\n")
    (runs / "20200101T000000-0004.jsonl").write_bytes(b'{"kind":"run","journal":99}\n')
    (runs / "20200101T000000-0005.jsonl").write_bytes(b"".join(whole.lines[3:]))
    measurer = Counting()
    assert same_answer(run(request_of(tmp_path), measurer), whole.result)
    assert measurer.checks == whole.measurer.checks


def test_the_candidates_of_a_space_that_grew_meanwhile_do_not_take_the_numbers_of_others(
    tmp_path: Path, whole: Uninterrupted
) -> None:
    interrupted(request_of(tmp_path, FAST, WARPS8, OTHER, BROKEN), 40)
    (journal,) = journals(tmp_path)
    result = run(request_of(tmp_path, SAFE, *(config for config in CONFIGS if config != SAFE)))
    assert result.run == journal.stem
    assert_whole(tmp_path, result, whole)


# --- a finished run


def test_the_same_command_after_a_finished_run_takes_over_all_but_the_blocks(
    tmp_path: Path, whole: Uninterrupted
) -> None:
    one = run(request_of(tmp_path))
    measurer, heard = Counting(seed=1), Heard()
    two = sweep(request_of(tmp_path), measurer, heard)
    assert two.run != one.run
    assert same_answer(two, one)
    assert measurer.checks == {}
    assert measurer.samples == {}
    assert any(line.startswith("Taking over checks and screening") for line in heard.said)
    earlier, now = Taken(records_of(one)), Taken(records_of(two))
    assert (now.checks, now.samples) == ({}, {})
    assert now.blocks == earlier.blocks == whole.taken.blocks
    assert sum(measurer.blocks.values()) == sum(now.blocks.values())
    blocks = [{b.us for b in records_of(result) if isinstance(b, Block)} for result in (one, two)]
    assert blocks[0].isdisjoint(blocks[1])
    assert two.best == one.best


def test_what_is_taken_over_is_written_down_again_and_marked(tmp_path: Path) -> None:
    one, two = (run(request_of(tmp_path)) for _ in range(2))

    def screened(result: SweepResult) -> list[Record]:
        told = [r for r in records_of(result) if isinstance(r, Sample | Candidate) and not planned(r)]
        return [msgspec.structs.replace(record, id=0, reused=True) for record in told]

    def planned(record: Sample | Candidate) -> bool:
        return isinstance(record, Candidate) and record.config in TOO_LARGE

    assert len(screened(one)) > 70
    assert sorted(map(repr, screened(two))) == sorted(map(repr, screened(one)))
    for record in records_of(two):
        assert not isinstance(record, Sample | Candidate) or record.reused or planned(record)


def test_what_the_plan_rejects_is_in_every_journal(tmp_path: Path) -> None:
    for result in [run(request_of(tmp_path)) for _ in range(2)]:
        told = {record.config: record.status for record in records_of(result) if isinstance(record, Candidate)}
        assert {config: told.get(config) for config in TOO_LARGE} == dict.fromkeys(TOO_LARGE, "rejected")


def test_what_was_taken_over_does_not_pile_up_from_run_to_run(tmp_path: Path) -> None:
    results = [run(request_of(tmp_path)) for _ in range(5)]
    counts = [sum(isinstance(record, Sample) for record in records_of(result)) for result in results]
    assert set(counts) == {counts[0]}


def test_what_a_killed_run_had_not_yet_taken_over_is_still_not_measured_again(tmp_path: Path) -> None:
    run(request_of(tmp_path))
    second = run(request_of(tmp_path))
    lines = second.journal.read_bytes().splitlines(keepends=True)
    whole = Taken(read_journal(second.journal))
    samples = sum(isinstance(record, Sample) for record in records_of(second))
    for cut in (1, 3, 8, 13, 16, 20, 30, 60, 90):
        second.journal.write_bytes(b"".join(lines[:cut]))
        measurer = Counting()
        result = run(request_of(tmp_path), measurer)
        assert result.run == second.run
        assert (measurer.checks, measurer.samples) == ({}, {})
        assert Taken(records_of(result)).blocks == whole.blocks
        assert sum(isinstance(record, Sample) for record in records_of(result)) == samples
        assert same_answer(result, second)


def test_a_fresh_sweep_takes_nothing_over(tmp_path: Path, whole: Uninterrupted) -> None:
    run(request_of(tmp_path))
    measurer = Counting()
    result = run(request_of(tmp_path, fresh=True), measurer)
    assert measurer.checks == whole.measurer.checks
    assert measurer.samples == whole.measurer.samples
    assert Taken(records_of(result)).checks == whole.taken.checks


def test_a_larger_space_measures_only_its_new_candidates(tmp_path: Path, compiler: FakeCompiler) -> None:
    small = run(request_of(tmp_path, SAFE, WARPS8, BROKEN))
    assert small.entry.config == SAFE
    compiler.compiled.clear()
    measurer = Counting()
    large = run(request_of(tmp_path), measurer)
    assert large.entry.config == FAST
    assert measurer.checks == dict.fromkeys({FAST, OTHER}, 1)
    assert measurer.samples.keys() == {FAST, OTHER, BASELINE}
    taken = Taken(records_of(large))
    assert taken.candidates_samples == {(n, c): 2 ** (n - 1) for n in (1, 2, 3, 4) for c in (FAST, OTHER)}


def test_a_smaller_space_measures_nothing_new_but_blocks(tmp_path: Path) -> None:
    run(request_of(tmp_path))
    measurer = Counting()
    small = run(request_of(tmp_path, SAFE, WARPS8), measurer)
    assert small.entry.config == SAFE
    assert (measurer.checks, measurer.samples) == ({}, {})
    records = records_of(small)
    configs = {record.id: record.config for record in records if isinstance(record, Candidate)}
    assert {configs[record.id] for record in records if isinstance(record, Sample)} == {BASELINE, SAFE, WARPS8}


def test_another_rule_takes_over_checks_and_screening(tmp_path: Path) -> None:
    run(request_of(tmp_path))
    measurer = Counting()
    result = run(request_of(tmp_path, rule=KeepRule(min_gain=0.7)), measurer)
    assert result.entry.verdict == "revert"
    assert (measurer.checks, measurer.samples) == ({}, {})


def test_a_run_that_ended_noisy_is_neither_gone_on_with_nor_taken_over(tmp_path: Path) -> None:
    with pytest.raises(NoisyMachineError):
        run(request_of(tmp_path), Counting(noise=0.1))
    (noisy,) = journals(tmp_path)
    measurer = Counting()
    result = run(request_of(tmp_path), measurer)
    assert result.run != noisy.stem
    assert measurer.checks == dict.fromkeys(CHECKED, 1)
    assert measurer.samples.keys() == RUNNABLE
    assert result.entry.config == FAST


def test_what_a_newer_run_found_counts_more_than_what_an_older_one_did(tmp_path: Path) -> None:
    crash = {FAST: Failure("crash", "once"), **FAILURES}
    for name, changes, gpu in (
        ("20200101T000000-0000", {}, {"failures": crash}),
        ("20200102T000000-0000", {"fresh": True}, {}),
    ):
        result = run(request_of(tmp_path, **changes), Counting(**gpu))
        renamed(result.journal, name)
        result.journal.unlink()
    measurer = Counting()
    assert run(request_of(tmp_path), measurer).entry.config == FAST
    assert measurer.checks == {}


# --- failures that must not last


class Throttled(Counting):
    """All blocks of one config are discarded."""

    def __init__(self, throttled: Config, **options: Any) -> None:
        super().__init__(**options)
        self._throttled = throttled

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        times = super().block(baseline, config, config_first=config_first)
        if isinstance(times, BlockTimes) and config == self._throttled:
            return msgspec.structs.replace(times, discarded="thermal throttling")
        return times


SHORT = KeepRule(looks=(25, 50))


def test_a_candidate_that_was_throttled_once_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    one = run(request_of(tmp_path, rule=SHORT), Throttled(FAST))
    assert one.entry.config == SAFE
    assert run(request_of(tmp_path, rule=SHORT)).entry.config == FAST


def test_a_control_that_was_throttled_once_does_not_fail_for_ever(tmp_path: Path) -> None:
    with pytest.raises(NoisyMachineError, match=r"all 75 blocks were discarded.*run the command again"):
        run(request_of(tmp_path, rule=SHORT), Throttled(BASELINE))
    assert not (tmp_path / "configs").exists()
    assert run(request_of(tmp_path, rule=SHORT)).entry.config == FAST


class BreaksOnce(Counting):
    """BASELINE against itself crashes at the given block."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        self._number -= 1
        if self._number < 0 and baseline == config:
            return Failure("crash", "the worker died", fatal=True)
        return super().block(baseline, config, config_first=config_first)


@pytest.mark.parametrize("number", [0, 9])
def test_a_control_that_crashed_once_does_not_fail_for_ever(tmp_path: Path, number: int) -> None:
    with pytest.raises(MeasurementError, match="run the command again"):
        run(request_of(tmp_path), BreaksOnce(number))
    assert run(request_of(tmp_path)).entry.config == FAST


def test_a_second_check_of_baseline_that_failed_once_does_not_fail_for_ever(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="run the command again"):
        run(request_of(tmp_path), Counting(failures={BASELINE: Failure("nan", "planted"), **FAILURES}))
    assert run(request_of(tmp_path)).entry.config == FAST
