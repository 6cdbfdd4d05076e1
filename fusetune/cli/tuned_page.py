"""What became of a program as one page, with the pages of its runs beside it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fusetune.cli.explained import profile_lines, to_lines
from fusetune.cli.tuned import sentences_on, sizes_of
from fusetune.errors import FusetuneError, UsageError
from fusetune.report import answer
from fusetune.report.captured import besides, of_what, place_of
from fusetune.report.files import write_whole
from fusetune.report.html.data import RunsData
from fusetune.report.html.program import CaseTold, KernelTold, ProgramTold, render_program
from fusetune.report.html.render import write_run_pages
from fusetune.report.model import ProblemRow, Report, load_run, rows_from_files
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile

if TYPE_CHECKING:
    from fusetune.capture.cases import Case, Looked
    from fusetune.capture.programs import Program
    from fusetune.cli.program_check import ProgramCheck
    from fusetune.cli.tuned_code import Code
    from fusetune.tune.program import Tuned

ASKED = "What --diff prints: the program was run with this very text."
PLANNED = "What the verdicts come to in the source; --diff runs the program with it first, --apply writes it."
NOTHING = "Nothing of the program would be changed."


class Outcome(NamedTuple):
    """What `fusetune tune` came to: what the program launches, the cases that were tuned, and what it said of that."""

    looked: Looked
    cases: Sequence[Case]
    tuned: Sequence[Tuned]
    checked: ProgramCheck
    code: Code
    configs: Path


def write_program_page(path: Path, program: Program, seconds: float, found: Outcome) -> bool:
    """Write the page, and the pages of its runs beside it; whether it is a file.

    Raises UsageError where it cannot be written.
    """
    looked, cases, tuned, checked, code, configs = found
    data = RunsData()
    report = _report_of(tuned, data)
    links = write_run_pages(report, data.by_run, path, write_whole)
    rows = {row.run: row for row in report.rows}
    diff, told_of_diff, not_written = _diff(program, looked, tuned, checked, code)
    word = checked.word
    told = ProgramTold(
        program=_words(program),
        gpu=looked.gpu or looked.compiled_for,
        seconds=seconds,
        share_of=" ".join(f"{line[:1].upper()}{line[1:]}." for line in of_what(looked)),
        kernels=_kernels(looked, tuned, rows),
        before_ms=word.before_ms if word is not None else None,
        after_ms=word.after_ms if word is not None else None,
        said=(*checked.lines(), *code.lines()),
        notes=tuple(besides(looked, cases)),  # What was found of a kernel stands with it.
        diff=diff,
        diff_told=told_of_diff,
        not_written=tuple(not_written),
        failed=looked.failed,
        runs_again=program.kind in {"script", "module"},
        configs=shlex.quote(str(configs)),
    )
    return write_whole(path, render_program(told, links))


def _words(program: Program) -> str:
    """The program as the command takes it, options first."""
    options = {"--args": program.expression, "--reference": program.reference}
    given = [word for name, value in options.items() if value for word in (name, value)]
    of_module = ["-m"] if program.kind == "module" else []
    return shlex.join([*given, *of_module, program.what, *program.arguments])


def _report_of(tuned: Sequence[Tuned], data: RunsData) -> Report:
    """The runs whose journals can be read, with what stands of their decisions: the program had the last word.

    What their pages show is kept in `data`.
    """
    runs, rows = [], []
    for one in tuned:
        result = one.result
        if result is None:
            continue
        try:
            (run,) = load_run(result.run, [result.journal.parent], summarize=data.summarize).runs
        except FusetuneError:  # Its page is left out; the verdict is in the table all the same.
            continue
        file = ConfigFile(schema=SCHEMA_VERSION, op=one.op, target=run.target, entries=(result.entry,))
        runs.append(run)
        rows += rows_from_files([(result.file or result.journal, file)])
    return Report(rows=tuple(rows), runs=tuple(runs))


def _kernels(looked: Looked, tuned: Sequence[Tuned], rows: Mapping[str, ProblemRow]) -> tuple[KernelTold, ...]:
    """All kernels that were seen, by their time, or where nothing was timed by their launches."""
    seen: defaultdict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in looked.cases:
        seen[case.kernel.file, case.kernel.name].append(case)
    total = sum(case.us or 0.0 for case in looked.cases)
    of_gpu = 1.0 if looked.gpu_time is None else looked.gpu_time.triton_share or 1.0
    made = []
    for key, cases in seen.items():
        us = sum(case.us or 0.0 for case in cases)
        own = [one for one in tuned if (one.case.kernel.file, one.case.kernel.name) == key]
        made.append(
            KernelTold(
                name=cases[0].kernel.name,
                place=place_of(cases[0]),
                launches=sum(case.launches for case in cases),
                us=us if total else None,
                share=us / total * of_gpu if total else None,
                cases=tuple(_case(one, rows) for one in own),
            )
        )
    return tuple(sorted(made, key=lambda one: (-(one.us or 0.0), -one.launches)))


def _case(one: Tuned, rows: Mapping[str, ProblemRow]) -> CaseTold:
    run = one.result.run if one.result is not None else None
    row = rows.get(run or "")
    told: list[str] = []
    if one.explanation is not None:
        told = to_lines(one.case.kernel.name, sizes_of(one), one.explanation)[1:]
    elif one.profile is not None:
        told = profile_lines(one.profile, None)
    why = answer.why(row) if row is not None else []
    name = f"{one.case.kernel.name}: "
    beside = [line.removeprefix(name) for line in sentences_on([one])]
    if row is not None and one.why is None:  # Its reason has been told.
        beside = [line for line in beside if not line.startswith(f"{one.end}: ")]
    why += beside
    return CaseTold(
        sizes=sizes_of(one) or "no tensors",
        before=one.before.label() if one.before is not None else one.case.config_text(),
        end=one.end,
        launches=one.case.launches,
        us=one.case.us,
        why=tuple(why),
        findings=tuple(dict.fromkeys((*one.case.findings, *one.findings))),
        told=tuple(told),
        row=row,
        run=run,
    )


def _diff(
    program: Program, looked: Looked, tuned: Sequence[Tuned], checked: ProgramCheck, code: Code
) -> tuple[str | None, str, list[str]]:
    """The diff, what it is, and what is not in it: as the program was asked of it, or else as the verdicts come to."""
    from fusetune.cli.tuned_code import plan_of
    from fusetune.code.patch.written import diff_of

    if looked.failed:
        return None, "There is none: the program failed by itself.", []
    if code.patch is not None:
        text, findings, what = code.diff(), code.findings(), ASKED
    else:
        try:
            compared = looked.gpu is None or checked.says_right(program)
            plan = plan_of(tuned, looked, autotune=False, compared=compared, asked=False)
        except UsageError as error:
            return None, f"There is none: {error}", []
        text, findings, what = diff_of(plan), list(plan.findings), PLANNED
    told = [finding.told() for finding in findings]
    return (text, what, told) if text else (None, NOTHING, told)
