"""Two runs or two files of configs: what changed between them, and whether it matters by the keep rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.decision import Gain, Outcome, decide, inverted
from fusetune.core.problem import Problem
from fusetune.errors import UsageError
from fusetune.report import wording
from fusetune.report.model import load_run
from fusetune.runtime.believed import read_believed_file
from fusetune.store.paths import find_run, named_run
from fusetune.store.regular import is_regular
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile, Entry, TargetIdentity
from fusetune.units import format_gain, format_interval

Change = Literal["added", "removed", "faster", "slower", "equal", "undecided", "not_comparable"]

CHANGE_TEXT: Final[dict[Change, str]] = {
    "added": "only in the second",
    "removed": "only in the first",
    "faster": "the second is faster by the minimum gain or more",
    "slower": "the second is slower by the minimum gain or more",
    "equal": "no difference that matters",
    "undecided": "the intervals do not decide it",
    "not_comparable": "not comparable",
}


class Side(msgspec.Struct, frozen=True):
    """One of the two: what it is called, and its entries by op, GPU and problem."""

    name: str
    entries: dict[tuple[str, str, Problem], tuple[TargetIdentity, Entry]]


class Difference(msgspec.Struct, frozen=True):
    """One problem in both sides.

    gain: that of the second's config over the first's, through BASELINE or Before, which both were timed against. Two
    times of different sessions are not compared. Its interval is the product of both intervals: where each holds with
    95 %, it does with 90 %.
    """

    op: str
    gpu: str
    problem: Problem
    change: Change
    before: Config | None
    after: Config | None
    verdict_before: str | None
    verdict_after: str | None
    gain: Gain | None
    why: str
    environment: tuple[str, ...]


def load_side(named: str, run_dirs: Sequence[Path]) -> Side:
    """A file of configs, or a run by its journal, its id, the beginning of that, or `latest`.

    Raises UsageError where it is neither, ConfigFileError or JournalError where it cannot be read.
    """
    path = Path(named)
    if path.suffix in {".yaml", ".yml"}:
        file = read_believed_file(path)
        return _side(named, [file])
    if is_regular(path) and path.name.endswith((".jsonl", ".jsonl.gz")):
        report = load_run(path.name.partition(".jsonl")[0], [path.parent])
    elif find_run(named_run(named, run_dirs), run_dirs) is not None:
        report = load_run(named, run_dirs)
    else:
        raise UsageError(f"{brief(named)} is no .yaml file of configs, and no run in {', '.join(map(brief, run_dirs))}")
    (run,) = report.runs
    if run.entry is None:
        raise UsageError(f"the run {run.run} decided on no entry to compare: {wording.result_text(run)}")
    return _side(named, [ConfigFile(schema=SCHEMA_VERSION, op=run.op, target=run.target, entries=(run.entry,))])


def compare(first: Side, second: Side) -> list[Difference]:
    """What changed, problem by problem."""
    found = []
    for key in dict.fromkeys([*first.entries, *second.entries]):
        op, gpu, problem = key
        before, after = first.entries.get(key), second.entries.get(key)
        old, new = before[1] if before else None, after[1] if after else None
        change, gain, why = _judged(old, new)
        found.append(
            Difference(
                op=op,
                gpu=gpu,
                problem=problem,
                change=change,
                before=old.config if old else None,
                after=new.config if new else None,
                verdict_before=old.verdict if old else None,
                verdict_after=new.verdict if new else None,
                gain=gain,
                why=why,
                environment=_environment(old, new),
            )
        )
    return found


def describe(difference: Difference) -> str:
    """One line for people."""
    one, two = difference.before, difference.after
    labels = [config.label() if config else "-" for config in (one, two)]
    configs = labels[0] if one == two else " -> ".join(labels)
    gain = difference.gain
    figures = f", {format_gain(gain.median)} {format_interval(gain.low, gain.high)}" if gain else ""
    verdicts = ""
    if difference.verdict_before and difference.verdict_after and difference.verdict_before != difference.verdict_after:
        verdicts = f", {difference.verdict_before} -> {difference.verdict_after}"
    why = f" ({difference.why})" if difference.why else ""
    return (
        f"{difference.op} {difference.problem.describe()}: {configs}: {CHANGE_TEXT[difference.change]}"
        f"{figures}{verdicts}{why}"
    )


def _side(name: str, files: Sequence[ConfigFile]) -> Side:
    entries = {
        (file.op, file.target.name, entry.problem): (file.target, entry) for file in files for entry in file.entries
    }
    if not entries:
        raise UsageError(f"{name} holds no entries to compare")
    return Side(name, entries)


def _judged(old: Entry | None, new: Entry | None) -> tuple[Change, Gain | None, str]:
    if old is None or new is None:
        return ("added" if old is None else "removed"), None, ""
    if old == new:
        return "equal", None, "the very same entry"
    obstacle = _obstacle(old, new)
    if obstacle:
        return "not_comparable", None, obstacle
    assert old.gain is not None, "measured entries have a gain"
    assert new.gain is not None, "measured entries have a gain"
    gain = _through_baseline(_held(old), _held(new))
    outcomes: tuple[Outcome, Outcome] = (decide(gain), decide(inverted(gain)))
    if outcomes[0] == "keep":
        return "faster", gain, ""
    if outcomes[1] == "keep":
        return "slower", gain, ""
    return ("equal" if outcomes == ("revert", "revert") else "undecided"), gain, ""


def _held(entry: Entry) -> Gain:
    """What the entry's config gains on BASELINE: nothing where it is BASELINE itself, whatever was tried gained."""
    assert entry.gain is not None, "measured entries have a gain"
    if entry.verdict == "keep":
        return entry.gain
    return msgspec.structs.replace(entry.gain, median=0.0, low=0.0, high=0.0)


def _obstacle(old: Entry, new: Entry) -> str:
    """Why two entries cannot be compared through BASELINE; empty where they can."""
    for name, entry in (("first", old), ("second", new)):
        if entry.evidence != "measured":
            return f"the {name} is predicted; nothing was timed"
    if old.before != new.before:
        ran = [entry.before.label() if entry.before else "BASELINE" for entry in (old, new)]
        return f"their gains are over different configs, {' and '.join(ran)}"
    if old.environment.kernel_hash != new.environment.kernel_hash:
        return "the kernels have changed in between, and BASELINE with them; `fusetune gate --against` times both"
    return ""


def _through_baseline(old: Gain, new: Gain) -> Gain:
    """The gain of the second's config over the first's: 1 - t2/t1 = 1 - (1 - g2) / (1 - g1)."""

    def over(of_new: float, of_old: float) -> float:
        return 1 - (1 - of_new) / (1 - of_old) if of_old < 1 else -math.inf

    return Gain(
        median=over(new.median, old.median),
        low=over(new.low, old.high),
        high=over(new.high, old.low),
        confidence=max(0.0, old.confidence + new.confidence - 1),
        min_gain=max(old.min_gain, new.min_gain),
        blocks=min(old.blocks, new.blocks),
    )


def _environment(old: Entry | None, new: Entry | None) -> tuple[str, ...]:
    if old is None or new is None:
        return ()
    names = ("driver", "cuda", "torch", "triton", "ptxas", "clocks", "kernel_hash")
    pairs = ((name, getattr(old.environment, name), getattr(new.environment, name)) for name in names)
    return tuple(f"{name} {one} -> {two}" for name, one, two in pairs if one != two)
