"""The words of a report, the same in the terminal and in markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Evidence, Gain, Reason, VerdictName, reason_text, reference_name
from fusetune.report.model import GainFigures, ProblemRow, Report
from fusetune.report.run_summary import BlockCount, CandidateRow, ComparisonRow, RunSummary
from fusetune.units import format_bytes, format_gain, format_interval, format_slower, format_us

NOT_TIMED: Final = "not timed"
PREDICTED_WARNING: Final = (
    "Predicted times come from the cost model, or without one from bytes over bandwidth and operations over the peak "
    "rate alone: nothing was timed, so nothing is proved."
)

_VERDICTS: Final[tuple[VerdictName, ...]] = ("keep", "revert", "inconclusive", "unverified")
_TimeName = Literal["before", "baseline", "conservative", "config"]


class VerdictCount(msgspec.Struct, frozen=True):
    """How many problems ended with one verdict for one reason, and what the reason says."""

    verdict: VerdictName
    reason: Reason
    count: int
    text: str


def verdict_counts(report: Report) -> list[VerdictCount]:
    """The verdicts of all problems, strongest first, the commonest reason of each first."""
    counts = Counter((row.verdict, row.reason, reason_text(row.reason, row.before)) for row in report.rows)
    ordered = sorted(counts.items(), key=lambda item: (_VERDICTS.index(item[0][0]), -item[1], *item[0][1:]))
    return [VerdictCount(verdict, reason, count, text) for (verdict, reason, text), count in ordered]


def headline(report: Report) -> str:
    """All verdicts in one line: `4 problems: 2 keep, 1 revert, 1 unverified`."""
    counts = Counter(row.verdict for row in report.rows)
    parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict])
    total = plural(len(report.rows), "problem")
    return f"{total}: {parts}" if parts else total


def has_predictions(report: Report) -> bool:
    """Whether any row holds a prediction."""
    return any(row.evidence == "predicted" for row in report.rows)


def legend(report: Report) -> str:
    """What the figures and the short words of the table of problems mean, as far as they need it."""
    confidences = sorted({row.confidence for row in report.rows if row.confidence is not None})
    spans = " or ".join(f"{confidence * 100:g}" for confidence in confidences)
    gain = [f"gain: time saved, with its {spans} % interval"] if confidences else []
    legends = dict.fromkeys(row.config.legend for row in report.rows if row.config.legend)
    ran = (
        ["Before: the config that the program ran, which the gain is over"]
        if any(r.before for r in report.rows)
        else []
    )
    return "; ".join([*gain, *ran, *(f"config: {one}" for one in legends)])


def reference_header(rows: Sequence[ProblemRow]) -> str:
    """What the rows' candidates were held against: BASELINE, Before, or either."""
    return " / ".join(sorted({reference_name(row.before) for row in rows}, reverse=True)) or reference_name(None)


def plural(count: int, word: str) -> str:
    """`1 block`, `2 blocks`, `2 launches`."""
    ending = "es" if word.endswith("ch") else "s"
    return f"{count} {word}{'' if count == 1 else ending}"


def config_text(config: Config | None, run: RunSummary, candidate_id: int | None = None) -> str:
    """A config's label, BASELINE and Before called by name; the candidate's number where the config is not known."""
    if config is None:
        return f"candidate {candidate_id}"
    is_reference = run.baseline is not None and config == run.baseline.config
    return reference_name(run.before) if is_reference else config.label()


def reference_time(row: ProblemRow) -> str:
    """BASELINE's time; where another config ran before, that one's, and BASELINE's in brackets."""
    if row.before is None:
        return row_time(row, "baseline")
    return f"{row_time(row, 'before')} (BASELINE {row_time(row, 'baseline')})"


def marks(row: ProblemRow) -> str:
    """What else the row's config is: ` (BASELINE)`, ` (Before)`, or nothing."""
    if row.before is not None and row.config == row.before:
        return " (Before)"
    return " (BASELINE)" if row.is_baseline else ""


def row_time(row: ProblemRow, which: _TimeName) -> str:
    """A time of a row, microseconds as people read them; a predicted one says so in the same breath."""
    if row.predicted_us is not None:
        return f"predicted {format_us(getattr(row.predicted_us, which))}"
    of_name = {"before": row.before_us, "baseline": row.baseline_us, "conservative": row.conservative_us}
    return format_us(of_name.get(which, row.config_us))


def library_text(row: ProblemRow, separator: str = " ") -> str:
    """What a library takes beside the winner, `8.72 us, 34 % slower`; `-` where none was timed."""
    if row.library is None:
        return "-"
    return f"{format_us(row.library.us)},{separator}{format_slower(row.library.ratio)}"


def library_hints(report: Report) -> list[str]:
    """A line for each problem that a library computes faster, and how to let it."""
    return [
        f"{row.title} {row.problem.describe()}: {row.library_text}"
        for row in report.rows
        if row.library is not None and row.library.gain.high < 0
    ]


def kernel_lines(report: Report) -> list[str]:
    """A line for each kernel of a program: `norms:rms in norms.py, 3 cases: 2 keep, 1 revert; gains +12 to +40 %`."""
    lines = []
    for kernel, source in dict.fromkeys((row.kernel, row.source) for row in report.rows if row.kernel):
        rows = [row for row in report.rows if (row.kernel, row.source) == (kernel, source)]
        counts = Counter(row.verdict for row in rows)
        ends = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict])
        where = f" in {source}" if source is not None else ""
        gains = sorted(row.gain.median for row in rows if row.verdict == "keep" and row.gain is not None)
        told = dict.fromkeys(map(format_gain, gains[:1] + gains[-1:]))
        lines.append(
            f"{kernel}{where}, {plural(len(rows), 'case')}: {ends}{'; kept gains ' if told else ''}{' to '.join(told)}"
        )
    return lines


def gains_over_baseline(rows: Sequence[ProblemRow]) -> bool:
    """Whether some gain is over another config than BASELINE, with that over BASELINE beside it."""
    return any(row.gain_over_baseline is not None for row in rows)


def screening_text(candidate: CandidateRow, evidence: Evidence) -> str:
    """The time that a candidate was ranked by: the predicted one, called so, or the screening one."""
    if evidence == "predicted":
        return f"predicted {format_us(candidate.predicted_us)}"
    return format_us(candidate.screening_us)


def gain_text(gain: GainFigures | Gain, separator: str = " ") -> str:
    """A gain and its interval: `+59.8 % [+59.6, +60.1] %`."""
    return f"{format_gain(gain.median)}{separator}{format_interval(gain.low, gain.high)}"


def resource_texts(candidate: CandidateRow) -> tuple[str, str, str]:
    """Registers a thread, shared memory a CTA and stack bytes a thread (above 0 the kernel spills)."""
    if candidate.resources is None:
        return "-", "-", "-"
    used = candidate.resources
    return str(used.registers), format_bytes(used.shared_bytes), format_bytes(used.stack_bytes)


def comparison_pair(row: ComparisonRow, run: RunSummary) -> tuple[str, str]:
    """The two sides of a comparison of a run: the candidate, and what it was timed against."""
    return config_text(row.config, run, row.id), config_text(row.baseline, run, row.baseline_id)


def outcome_text(row: ComparisonRow) -> str:
    """What a comparison came to; `revert` would read as a failure where nothing was to be decided."""
    return row.phase if row.phase in {"control", "reference"} else row.outcome


def dropped_text(run: RunSummary) -> str:
    """How many candidates fell: `Rejected or failed: 68 of 95 candidates`."""
    dropped = sum(drop.count for drop in run.dropped)
    return f"Rejected or failed: {dropped} of {plural(run.candidates, 'candidate')}"


FALLEN_WORDS: Final[Mapping[str, str]] = {
    "cannot_win": "by what was measured of others of its kind it could not win any more, and was not compiled",
    "compile_error": "Triton or ptxas refused to compile it",
    "compile_timeout": "its compilation took too long",
    "compiler_crash": "the compiler crashed on it",
    "crash": "the process that ran it died",
    "grid": "it is not known what the program would launch with it",
    "hang": "it did not end in time",
    "killed": "another process ended the worker: the machine's fault, not its own",
    "launch_error": "CUDA refused to launch it, or ended it with an error",
    "nan": "its result has NaN, or elements that it never wrote",
    "not_compiled": "no cost model ranks it, and it is not among the few that were compiled",
    "not_tried": "the machine gave out before its turn",
    "out_of_memory": "there was no device memory for it: the machine's fault, not its own",
    "out_of_resources": "the GPU has not what it asks for",
    "predicted_slow": "the cost model says that it cannot be among the fastest",
    "registers": "its tile takes more registers than threads have",
    "shared_memory": "it needs more shared memory than the GPU gives a CTA",
    "spills": "it needs more registers than there are, and keeps the rest in slow local memory",
    "threads": "it has more threads than a CTA may have",
    "throttled": "the GPU had slowed itself down whenever it was timed",
    "unsupported": "its launch is of a kind that cannot be made here",
    "wrong_result": "it ran, and its result was wrong",
}
"""What the reasons of any op mean. An op may have others, whose details speak for themselves."""


def fallen_words(reason: str, own: Mapping[str, str]) -> str:
    """Why a candidate was not tried or fell, in words; `own` are those of its op. Empty for what neither knows."""
    return own.get(reason) or FALLEN_WORDS.get(reason, "")


def run_facts(run: RunSummary) -> list[tuple[str, str]]:
    """What a run was and what it ran with, as labelled lines."""
    environment = run.environment
    versions = [
        f"{name} {value}"
        for name, value in (
            ("torch", environment.torch),
            ("triton", environment.triton),
            ("ptxas", environment.ptxas),
            ("CUDA", environment.cuda),
            ("driver", environment.driver),
        )
        if value
    ]
    counts = ", ".join(f"{count} {status}" for status, count in run.counts.items()) or "none"
    facts = [
        ("problem", f"{run.op} {run.problem.describe()}"),
        ("GPU", f"{run.target.name}, compute capability {run.target.capability}, {plural(run.target.sms, 'SM')}"),
        ("evidence", _evidence_text(run)),
        (
            "rule",
            f"keep at a gain of {format_gain(run.rule.min_gain)} or more, {run.rule.confidence * 100:g} % confidence",
        ),
        ("made by", f"fusetune {run.fusetune}, started {run.started}, seed {run.seed}"),
        ("with", f"{', '.join(versions)}, kernel {environment.kernel_hash}"),
        ("space", f"{run.space}: {plural(run.candidates, 'candidate')} ({counts})"),
    ]
    if run.phases:
        total = sum(phase.seconds for phase in run.phases if phase.within is None)
        parts = [
            f"{phase.name} {phase.seconds:.1f} s{f' (of {phase.within})' if phase.within else ''}"
            for phase in run.phases
        ]
        facts.append(("time", f"{', '.join(parts)}; {total:.1f} s in all"))
    if run.blocks:
        facts.append(("blocks", "; ".join(_block_text(count) for count in run.blocks)))
    library = run.entry.library_text() if run.entry else None
    facts += [("library", library)] if library else []
    facts.append(("result", result_text(run)))
    return facts


def result_text(run: RunSummary) -> str:
    """How a run ended: its verdict and config, or why there is none."""
    if not run.finished:
        return "the journal has no last line: the run was killed or is still going"
    if run.entry is None:
        return run.message or "no entry was decided on"
    why = reason_text(run.entry.reason, run.entry.before)
    chosen = f"{run.entry.verdict}: {config_text(run.entry.config, run)} ({why})"
    return f"{chosen}; written to {run.file}" if run.file else f"{chosen}; not written to a file"


def ranking_text(run: RunSummary) -> str:
    """How many candidates are listed as the best, and what they are ordered by."""
    what = "The best candidate" if len(run.best) == 1 else f"The best {len(run.best)} candidates"
    if run.evidence == "predicted":
        return f"{what} by predicted time; nothing was timed"
    return f"{what} in screening, by rounds lasted, then by median time in the last one"


def no_best_text(run: RunSummary) -> str:
    """What to say where no candidate can be ranked."""
    what = "predicted" if run.evidence == "predicted" else "timed"
    return f"No candidate other than {reference_name(run.before)} was {what}."


def missing_runs_text(report: Report) -> str:
    """That a journal is missing, or how many are, and what that means for the reader; empty where none is."""
    if not report.missing_runs:
        return ""
    if len(report.missing_runs) == 1:
        what = f"The journal of run {report.missing_runs[0]} was"
    else:
        what = f"The journals of {len(report.missing_runs)} runs were"
    return f"{what} not found in the folders of runs; the figures above come from the config file alone."


def _evidence_text(run: RunSummary) -> str:
    if run.evidence == "predicted":
        return "predicted from compile facts; nothing was timed"
    clocks = f", clocks {run.environment.clocks}" if run.environment.clocks else ""
    return f"measured, {run.cache} L2{clocks}"


def _block_text(count: BlockCount) -> str:
    causes = [f"{number} discarded: {cause}" for cause, number in count.discarded.items()]
    causes += [f"{number} flagged: {flag}" for flag, number in count.flagged.items()]
    text = f"{count.phase} {count.total}"
    return f"{text} ({', '.join(causes)})" if causes else text
