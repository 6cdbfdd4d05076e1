"""A problem's answer in a sentence, why it is so, what was tried, and what to do next: in words, without markup."""

from __future__ import annotations

import json
import shlex
from typing import Final

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import reason_text, reference_name
from fusetune.core.text import slugify
from fusetune.ops.built_in import built_in_ops, default_op
from fusetune.report import wording
from fusetune.report.model import ProblemRow
from fusetune.report.run_summary import CandidateRow, RunSummary
from fusetune.units import format_bytes, format_factor, format_interval, format_us

_EQUAL: Final = 0.005
"""A library whose time differs by less is as fast, to the two digits that are told."""


class Step(msgspec.Struct, frozen=True):
    """A command that somebody may want next, and what it does."""

    command: str
    does: str


def headline(row: ProblemRow) -> str:
    """The answer: `6.9x faster than BASELINE (4.71 us, was 32.6 us), kept with 95 % confidence; ...`."""
    told = {"keep": _kept, "unverified": _predicted}.get(row.verdict, _stays)(row)
    return "; ".join(filter(None, (told, _beside_library(row))))


def _kept(row: ProblemRow) -> str:
    name = reference_name(row.before)
    was = row.baseline_us if row.before is None else row.before_us
    assert row.gain is not None, "what is kept was measured"
    sure = f", kept with {row.confidence * 100:g} % confidence" if row.confidence is not None else ", kept"
    factor = format_factor(1 / (1 - row.gain.median))
    return f"{factor} faster than {name} ({format_us(row.config_us)}, was {format_us(was)}){sure}"


def _predicted(row: ProblemRow) -> str:
    times = row.predicted_us
    assert times is not None, "what is unverified was predicted"
    name, was = reference_name(row.before), times.reference
    if was is None or times.config is None or was <= times.config:
        if wording.marks(row):
            return f"Predicted only: none is predicted faster than {row.config.label()} ({name}); nothing was timed"
        return f"Predicted only: {row.config.label()} is to be tried on a GPU; nothing was timed"
    factor = format_factor(was / times.config)
    return f"Predicted only: {factor} faster than {name} ({format_us(times.config)}, {name} {format_us(was)})"


def _stays(row: ProblemRow) -> str:
    stays = "Before" if row.before is not None and row.config == row.before else "BASELINE"
    found = "Nothing proved faster" if row.verdict == "revert" else "Undecided"
    told = f"{found}: {stays} stays ({format_us(row.config_us)})"
    if row.gain is None or row.min_gain is None:
        return told
    interval = format_interval(row.gain.low, row.gain.high)
    return f"{told}; the best candidate gains {interval}, where {row.min_gain * 100:g} % is needed"


def _beside_library(row: ProblemRow) -> str:
    if row.library is None:
        return ""
    name, ratio = row.library.config.library_name, row.library.ratio
    takes, is_ = ("take", "are") if " and " in name else ("takes", "is")  # cuBLAS and a finishing kernel are two.
    if abs(ratio - 1) < _EQUAL:
        return f"{name} {is_} as fast"
    if ratio > 1:
        return f"{name} {takes} {format_factor(ratio)} as long"
    return f"{name} {is_} {format_factor(1 / ratio)} faster"


def factor_text(row: ProblemRow) -> str:
    """How many times faster the row's config is than what it is held against: `6.9x`; a prediction says so."""
    if row.gain is not None:
        return format_factor(1 / (1 - row.gain.median)) if row.verdict == "keep" else "-"
    times = row.predicted_us
    if times is None or times.reference is None:
        return "-"
    return f"predicted {format_factor(times.reference / times.config)}"


def no_verdict(run: RunSummary) -> str:
    """The headline of a run that decided on nothing."""
    return f"No verdict: {wording.result_text(run)}"


def why(row: ProblemRow, run: RunSummary | None = None) -> list[str]:
    """Sentences on what the answer rests on."""
    told = [_sentence(reason_text(row.reason, row.before))]
    if row.gain is not None and row.verdict == "keep":
        blocks = f", in {wording.plural(row.blocks, 'block')}" if row.blocks else ""
        told.append(f"Gain over {reference_name(row.before)}: {wording.gain_text(row.gain)}{blocks}.")
    if row.gain_over_baseline is not None:
        told.append(f"Gain over BASELINE: {wording.gain_text(row.gain_over_baseline)}.")
    if row.gain_over_conservative is not None and row.conservative_config is not None:
        over = f"{row.conservative_config.label()}, the fastest with 4 warps and 2 stages"
        told.append(f"Gain over {over}: {wording.gain_text(row.gain_over_conservative)}.")
    if row.library_text is not None:
        told.append(f"Beside it: {row.library_text}.")
    if run is not None and run.baseline is not None:
        told += _differences(run.baseline, next((one for one in run.best if one.chosen), None), run)
    if row.evidence == "predicted":
        told.append(wording.PREDICTED_WARNING)
    return told


def _differences(reference: CandidateRow, chosen: CandidateRow | None, run: RunSummary) -> list[str]:
    """What the chosen config changes, and what that takes of an SM."""
    if chosen is None or chosen.config == reference.config:
        return []
    before, after = ({**one.config.constants(), **one.config.options()} for one in (reference, chosen))
    changed = [
        f"{name} {before.get(name, '-')} -> {value}" for name, value in after.items() if before.get(name) != value
    ]
    told = [f"Changed against {reference_name(run.before)}: {', '.join(changed)}."]
    if reference.resources is not None and chosen.resources is not None:
        uses = [
            f"{used.registers} registers a thread and {format_bytes(used.shared_bytes)} of shared memory"
            + (f", spilling {format_bytes(used.stack_bytes)} a thread" if used.spills else "")
            for used in (chosen.resources, reference.resources)
        ]
        told.append(f"It takes {uses[0]}; {reference_name(run.before)} takes {uses[1]}.")
    return told


def tried(run: RunSummary) -> str:
    """What the run looked at, in a sentence: how many candidates, how they ended, and how long that took."""
    words = {
        "checked": "ran and were right",
        "compiled": "compiled",
        "failed": "failed",
        "rejected": "could not run or win here",
        "skipped": "were not tried",
    }
    counts = ", ".join(f"{count:,} {words.get(status, status)}" for status, count in run.counts.items())
    blocks = sum(count.total for count in run.blocks)
    seconds = sum(phase.seconds for phase in run.phases if phase.within is None)
    told = f"{run.candidates:,} candidates of the space {run.space}: {counts or 'none'}."
    told += f" {blocks:,} paired blocks decided." if blocks else ""
    return told + (f" It took {format_us(seconds * 1e6)}." if seconds else "")


def copyable(config: Config) -> list[tuple[str, str]]:
    """A config in the forms that people paste: where that is one of a kernel's own, as Triton's, and as YAML has it."""
    constants, options = config.constants(), config.options()
    forms = []
    if not config.is_library and not any(isinstance(value, str) for value in constants.values()):
        told = ", ".join(f"{name}={value}" for name, value in options.items())
        forms.append(("for @triton.autotune", f"triton.Config({dict(constants)!r}, {told})"))
    fields = ", ".join(f"{name}: {json.dumps(value)}" for name, value in config.to_builtins().items())
    return [*forms, ("as the YAML has it", f"{{{fields}}}")]


def next_steps(row: ProblemRow | None, run: RunSummary) -> list[Step]:
    """Commands that go on from a run. Only those are told that can run as they stand."""
    entry, file = run.entry, run.file
    steps = []
    problem = _problem_of(run)
    if problem is not None:
        sweep = f"fusetune sweep {problem}"
        if entry is None:
            steps.append(Step(sweep, "goes on where this run ended"))
        elif entry.evidence == "predicted":
            steps.append(Step(sweep, f"on an {run.target.name}: measures, and decides"))
        elif entry.verdict == "inconclusive":
            steps.append(Step(f"{sweep} --fresh", "measures again, best on a quiet machine"))
        elif row is not None and row.library_text is not None and "--allow-library" in row.library_text:
            steps.append(Step(f"{sweep} --allow-library", "lets the library win"))
        if entry is not None:
            steps.append(
                Step(f"fusetune export {problem} --target {slugify(run.target.name)} -o kernel.py", "as a module")
            )
    if file is not None:
        folder = shlex.quote(file.rpartition("/")[0].rpartition("/")[0] or ".")
        steps.append(Step(f"fusetune gate --static {folder}", "in CI, without a GPU"))
        if entry is not None and entry.evidence == "measured":
            steps.append(Step(f"fusetune gate --live {folder}", "in CI, timed on the GPU there"))
    steps.append(Step(f"fusetune report --run {shlex.quote(run.run)}", "this run on a terminal"))
    return steps


def _problem_of(run: RunSummary) -> str | None:
    """The options that name a problem to commands; None for an op that only its user's file knows."""
    if run.op not in built_in_ops():
        return None
    named = "" if run.op == default_op() else f"--op {run.op} "
    return f"{named}{run.problem.options()}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")
