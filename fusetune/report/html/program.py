"""One page a program: its kernels by their share of the time, each with its verdict, its findings, and the diff."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fusetune.core.text import shown
from fusetune.report import answer, wording
from fusetune.report.html.figures import Figure
from fusetune.report.html.gains import comparison
from fusetune.report.html.pages import page, raw
from fusetune.report.model import ProblemRow
from fusetune.units import format_factor, format_us

_ORDER: Final = ("keep", "unverified", "inconclusive", "revert", "skipped", "failed")
_STYLES: Final = {"+": "add", "-": "cut", "@": "at"}
_MOST_DIFF_LINES: Final = 4000
_EQUAL: Final = 0.005
"""A program whose time differs by less is as fast, to the two digits that are shown."""


class CaseTold(msgspec.Struct, frozen=True):
    """One case of a kernel: what tells it from the others, its end, and why.

    `row` is what was decided of it, None where nothing was; `run` names its journal. `us` are the microseconds of all
    its launches in the program. `told` are lines on what a prediction or a profile says.
    """

    sizes: str
    before: str
    end: str
    launches: int
    us: float | None
    why: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    row: ProblemRow | None = None
    run: str | None = None

    @property
    def headline(self) -> str:
        """Its answer in a line."""
        if self.row is not None:
            return answer.headline(self.row)
        return self.why[0] if self.why else self.end


class KernelTold(msgspec.Struct, frozen=True):
    """A kernel of a program; `share` is that of the time, from 0 to 1, None where nothing was timed."""

    name: str
    place: str
    launches: int
    us: float | None
    share: float | None
    cases: tuple[CaseTold, ...] = ()

    @property
    def verdict(self) -> str:
        """The ends of its cases in a word or two: `keep`, `2 keep, 1 revert`, `not tuned`."""
        counts = Counter(case.end for case in self.cases)
        if len(counts) < 2:
            return next(iter(counts), "not tuned")
        return ", ".join(f"{counts[end]} {end}" for end in _ORDER if counts[end])

    @property
    def style(self) -> str:
        """Its verdict as a class of style, where it has one."""
        return self.verdict if self.verdict in _ORDER else ""


class ProgramTold(msgspec.Struct, frozen=True):
    """What became of a program, for its page.

    `ratio` is the program's time with what was kept over its time before, `before_ms` and `after_ms`; None where it
    was not asked. `said` are sentences of and on the program, `notes` what else was seen. `diff` is None where nothing
    of the source is to change; `diff_told` says what that diff is, or why there is none. `not_written` are places and
    reasons. `failed` says how the program ended, where it failed by itself. `runs_again`: `fusetune run` takes it.
    `configs` is the folder of its YAML.
    """

    program: str
    gpu: str | None
    seconds: float
    share_of: str
    kernels: tuple[KernelTold, ...]
    before_ms: float | None = None
    after_ms: float | None = None
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    diff: str | None = None
    diff_told: str = ""
    not_written: tuple[str, ...] = ()
    failed: str | None = None
    runs_again: bool = True
    configs: str = "configs"

    @property
    def is_timed(self) -> bool:
        """Whether its launches were timed, which order the kernels then."""
        return any(kernel.share is not None for kernel in self.kernels)

    @property
    def steps(self) -> list[answer.Step]:
        """Commands that go on from here."""
        if self.failed is not None or not self.kernels:
            return []
        if not self.is_timed:
            return [answer.Step(f"fusetune tune {self.program}", "on a GPU: measures, and decides")]
        return [
            answer.Step(f"fusetune tune --apply {self.program}", "writes it to the program's files"),
            *([answer.Step(f"fusetune run {self.program}", "runs it with what was kept")] if self.runs_again else []),
            answer.Step(f"fusetune gate --static {self.configs}", "in CI, without a GPU"),
        ]

    @property
    def headline(self) -> str:
        """The answer: how much faster the program's kernels are, or what became of them."""
        counts = Counter(case.end for kernel in self.kernels for case in kernel.cases)
        ends = ", ".join(f"{counts[end]} {end}" for end in _ORDER if counts[end])
        cases = wording.plural(sum(counts.values()), "case")
        if self.failed is not None:
            return f"The program failed by itself; {cases}: {ends}" if ends else "The program failed by itself"
        if not self.kernels:
            return "The program launched no Triton kernel that could be captured"
        if counts and set(counts) == {"unverified"}:
            return f"Predicted only: {cases}; nothing was timed"
        if self.before_ms and self.after_ms and counts["keep"]:  # Else it was taken back, and runs as it did.
            return f"{_beside(self.after_ms, self.before_ms)}; {cases}: {ends}"
        return f"{cases}: {ends}" if ends else "Nothing was tuned"


def _beside(after_ms: float, before_ms: float) -> str:
    """What the program gained with what was kept; less than the digits show is no gain, and a loss is called one."""
    times, ratio = f"{format_us(after_ms * 1e3)}, was {format_us(before_ms * 1e3)}", before_ms / after_ms
    if abs(ratio - 1) < _EQUAL:
        return f"As fast as before ({times})"
    return f"{format_factor(ratio)} faster ({times})" if ratio > 1 else f"{format_factor(1 / ratio)} slower ({times})"


def render_program(told: ProgramTold, links: Mapping[str, str]) -> str:
    """The page of a program; `links` are the pages of its runs, by their ids. All text is escaped."""
    diff = None if told.diff is None else shown(told.diff.splitlines())
    told = shown(told)
    rows = [case.row for kernel in told.kernels for case in kernel.cases if case.row is not None and case.row.gain]
    needed = {row.min_gain for row in rows if row.min_gain is not None}
    figure: Figure | None = comparison(rows, max(needed, default=0.02), dict(links)) if rows else None
    return page(
        "program.html.j2",
        told=told,
        links={case.run: links.get(case.run, "") for kernel in told.kernels for case in kernel.cases if case.run},
        comparison=None if figure is None else msgspec.structs.replace(figure, body=raw(figure.body)),
        diff=None if diff is None else _colored(diff),
        answer=answer,
        wording=wording,
        format_us=format_us,
    )


def _colored(lines: Sequence[str]) -> Any:
    """A diff with a style for each kind of line."""
    made = []
    for line in lines[:_MOST_DIFF_LINES]:
        style = "at" if line.startswith(("+++", "---")) else _STYLES.get(line[:1], "")
        text = html.escape(line)
        made.append(f'<span class="{style}">{text}</span>' if style else text)
    if len(lines) > _MOST_DIFF_LINES:
        made.append(f"... {len(lines) - _MOST_DIFF_LINES} more lines; --diff prints them")
    return raw("\n".join(made))
