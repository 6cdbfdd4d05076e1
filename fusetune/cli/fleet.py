"""What a fleet's outcomes look like: a line as each ends, and one for each problem when all have."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fusetune.cli.shown import echo
from fusetune.cli.swept import Failed, Swept, tell_document
from fusetune.core.decision import reason_text
from fusetune.core.text import printable
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK
from fusetune.units import format_gain, format_us

if TYPE_CHECKING:
    from pathlib import Path

    from fusetune.fleet.run import Fleet, Outcome, Task
    from fusetune.fleet.words import Seen
    from fusetune.store.schema import Entry
    from fusetune.store.shapes import Shape
    from fusetune.tune.request import SweepRequest


def sweep_on_fleet(fleet: Fleet, requests: Sequence[SweepRequest], asked: Sequence[Shape], shapes: Path) -> int:
    """Sweep a list of problems on a fleet; one that fails does not end the others. The first failure's exit code."""
    from fusetune.fleet.run import Task

    tasks = [Task(request.problem.describe(), functools.partial(_same, request)) for request in requests]
    outcomes = fleet.run(tasks, lambda outcome: fleet.say(line_of(outcome, tasks)))
    outcomes.sort(key=lambda outcome: (outcome.model, outcome.task))
    failed: list[int] = []
    echo("")
    for outcome in outcomes:
        place = asked[outcome.task].place
        if outcome.error is not None:
            echo(f"Error: {shapes}, {place}: {printable(str(outcome.error))}", err=True)
        if (code := exit_code_of(outcome)) != EXIT_OK:
            failed.append(code)
        echo(printable(f"  {place}: {line_of(outcome, tasks)}"))
    echo(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} problems of {shapes} done.")
    for line in remarks(fleet, outcomes, tasks):
        echo(printable(line))
    files = sorted({str(one.result.file) for one in outcomes if one.result is not None and one.result.file})
    if files:
        echo(f"Wrote {', '.join(files)}; `fusetune report --configs {requests[0].output}` shows them")
    code = failed[0] if failed else EXIT_OK
    tell_document(
        [
            Swept(requests[outcome.task], outcome.result, exit_code_of(outcome))
            for outcome in outcomes
            if outcome.result is not None
        ],
        [
            Failed(asked[outcome.task].place, requests[outcome.task], exit_code_of(outcome), _why(outcome))
            for outcome in outcomes
            if exit_code_of(outcome) != EXIT_OK
        ],
        code,
    )
    return code


def _why(outcome: Outcome) -> str:
    """Why a problem has no verdict that counts."""
    if outcome.result is None:
        return str(outcome.error)
    return reason_text(outcome.result.entry.reason, outcome.result.entry.before)


def exit_code_of(outcome: Outcome) -> int:
    """What a sweep of this problem alone would have ended with."""
    if outcome.result is None:
        return EXIT_INCONCLUSIVE if outcome.error is None else outcome.error.exit_code
    return EXIT_INCONCLUSIVE if outcome.result.entry.verdict == "inconclusive" else EXIT_OK


def line_of(outcome: Outcome, tasks: Sequence[Task]) -> str:
    """A problem and what became of it, in a line."""
    name = tasks[outcome.task].name
    where = f"{outcome.worker or outcome.model}, {outcome.seconds:.1f} s"
    if outcome.result is None:
        return f"{name}  no verdict ({where}): {outcome.error}"
    return f"{name}  {_verdict(outcome.result.entry)} ({where})"


def remarks(fleet: Fleet, outcomes: Sequence[Outcome], tasks: Sequence[Task]) -> Iterator[str]:
    """What a user should know beside: problems that were lost on the way, and GPUs that got no more."""
    for outcome in outcomes:
        for one in outcome.moved:
            yield f"{tasks[outcome.task].name} was taken from {one.worker} ({one.how}): {one.why}"
    for worker, why in fleet.retired.items():
        yield f"{worker} got no more problems: {why}"


def _same(request: SweepRequest, seen: Seen) -> SweepRequest:
    return request


def _verdict(entry: Entry) -> str:
    told = f"{entry.verdict.upper():<12} {entry.config.label():<22}"
    if entry.time_us is None or entry.gain is None:
        return told
    reference = entry.time_us.before if entry.before is not None else entry.time_us.baseline
    if entry.verdict == "keep" and reference is not None:
        return f"{told} {format_us(reference)} -> {format_us(entry.time_us.config)}, {format_gain(entry.gain.median)}"
    return f"{told} best candidate {format_gain(entry.gain.median)}"
