"""From what was decided to source: a diff, the user's files, or one module; for `fusetune tune`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click
from msgspec import structs

from fusetune.cli.module_header import header_of
from fusetune.cli.shown import echo, echo_laid_out
from fusetune.cli.source_check import Decided, Question, SourceCheck, asking, checked, checked_by_compiling, decided_of
from fusetune.core.brief import brief
from fusetune.core.text import printable
from fusetune.errors import MachineError, UsageError
from fusetune.store.paths import CONFIGS_VARIABLE
from fusetune.store.regular import is_folder
from fusetune.store.whole import write_whole

if TYPE_CHECKING:
    from fusetune.capture.cases import Case, Looked
    from fusetune.capture.programs import Program
    from fusetune.cli.source_trials import SourceTrials
    from fusetune.code.patch.edits import Finding
    from fusetune.code.patch.plan import Plan
    from fusetune.code.patch.source_file import Sources
    from fusetune.code.patch.standalone import Standalone
    from fusetune.tune.again import AsItIs
    from fusetune.tune.program import Tuned
    from fusetune.tune.source_again import Source

F = TypeVar("F", bound=Callable[..., Any])
_SUFFIX: Final = ".py"
SOURCE_BUDGET_S: Final = 60.0
"""For trials that are runs of the program, of a few seconds each: some ten of them."""


class Outputs(NamedTuple):
    """What a user wants of the source. `module` is the file for one module, `configs` the folder for YAML."""

    module: Path | None
    configs: Path
    diff: bool
    apply: bool
    autotune: bool
    per_kernel: bool = False
    lookup: bool = False

    @property
    def any(self) -> bool:
        """Whether anything of the source is wanted."""
        return self.diff or self.apply or self.module is not None


def code_options(command: F) -> F:
    """Add where results go: YAML, a module, a diff, or the program's own files."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final[Sequence[Callable[[Any], Any]]] = (
    click.option(
        "-o",
        "--output",
        metavar="FILE.py",
        type=click.Path(path_type=Path),
        help="Write one standalone module with what was decided: of a program with ModelNew. A name that does not end "
        "in .py is the folder of --configs.",
    ),
    click.option(
        "--configs",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder for <gpu>/<op>.yaml.  [default: configs]",
    ),
    click.option("--diff", is_flag=True, help="Print what was decided as a diff of the program's own files."),
    click.option(
        "--apply",
        is_flag=True,
        help="Write it to the program's own files, where they still are what ran. What git does not have stays beside "
        "it as FILE.orig.",
    ),
    click.option(
        "--autotune",
        is_flag=True,
        help="Leave kernels to @triton.autotune with at most three configs, BASELINE among them, not to one.",
    ),
    click.option(
        "--source-budget",
        "source_budget_s",
        metavar="SECONDS",
        type=click.FloatRange(0),
        default=SOURCE_BUDGET_S,
        show_default=True,
        help="With -o, --diff or --apply on a GPU: what a launch alone cannot vary is tried by running the program "
        "again with another number in its source; begin no further such run after so long. 0 tries none.",
    ),
    click.option(
        "--lookup",
        is_flag=True,
        help="With --diff or --apply: write @fusetune.autotune in the place of @triton.autotune, so that a kernel with "
        "a config that was kept looks it up in the YAML while the program runs, and times nothing.",
    ),
    click.option(
        "--per-kernel",
        is_flag=True,
        help="Write what each kernel's own verdict says, though the program as a whole gains less than --min-gain. Its "
        "result has to be right all the same.",
    ),
)


def outputs_of(
    output: Path | None,
    configs: Path | None,
    *,
    diff: bool,
    apply: bool,
    autotune: bool,
    per_kernel: bool = False,
    lookup: bool = False,
) -> Outputs:
    """The options together; raises UsageError where they do not go together."""
    module = output if output is not None and output.suffix == _SUFFIX else None
    if output is not None and module is None:
        if configs is not None:
            raise UsageError(f"-o {output} and --configs {configs} both name the folder for YAML; give one of them")
        configs = output
    if module is not None and module.is_dir():
        raise UsageError(f"-o {module} is a folder; name the file that the module is written to")
    found = Outputs(module, configs or Path("configs"), diff, apply, autotune, per_kernel, lookup)
    if lookup and (autotune or module is not None):
        other = "--autotune" if autotune else f"-o {module}"
        raise UsageError(f"--lookup leaves lists of configs as they are, for --diff and --apply; leave {other} out")
    if (autotune or per_kernel or lookup) and not found.any:
        option = "--autotune" if autotune else "--lookup" if lookup else "--per-kernel"
        raise UsageError(f"{option} says what is written; give -o FILE.py, --diff or --apply with it")
    return found


def check_program(outputs: Outputs, program: Program, page: Path | None = None) -> None:
    """Raise UsageError where a module is wanted of a program that has none, or whose own modules cannot be part of it.

    Raises ConfigFileError where it, or the page, has no place.
    """
    from fusetune.tune.plan import check_folder

    if page is not None:
        check_folder(page)
        # Its pages of runs go beside it, and a path that was mistyped is no wish for new folders.
        if not is_folder(page.parent):
            where = f"--html {brief(page, 120)}: there is no folder {brief(page.parent, 60)}"
            raise UsageError(f"{where}; make it, or name another file")
    if outputs.module is None:
        return
    check_folder(outputs.module)
    if program.kind != "model":
        raise UsageError(
            f"-o {outputs.module} writes the module of a program with ModelNew, and {program.what} is none; use --diff "
            "or --apply"
        )
    if outputs.module.resolve() == Path(program.what).resolve():
        raise UsageError(f"-o {outputs.module} is the program itself; write to another file, or use --apply")
    _standalone(program)


def sources_of(looked: Looked) -> Sources:
    """The program's files, none of which may have changed since they ran."""
    from fusetune.cli.wanted import files_measured
    from fusetune.code.patch.source_file import Sources

    return Sources(measured=files_measured(looked.cases))


def plan_of(
    tuned: Sequence[Tuned],
    looked: Looked,
    *,
    autotune: bool,
    lookup: bool = False,
    sources: Sources | None = None,
    compared: bool = True,
    asked: bool = True,
) -> Plan:
    """What was decided as edits of the program's files.

    Unless the program's own result is `compared`, nothing is written where it launches cases that were not tuned, too.
    `asked` as in `planned`.
    """
    from fusetune.cli.wanted import changes_of
    from fusetune.code.patch.plan import planned

    known = {id(one.case) for one in tuned}
    changes, findings = changes_of(
        tuned,
        looked.gpu or looked.compiled_for,
        autotune=autotune,
        lookup=lookup,
        untuned=() if compared else [case for case in looked.cases if id(case) not in known],
    )
    plan = planned(changes, sources or sources_of(looked), asked=asked)
    return structs.replace(plan, findings=(*findings, *plan.findings))


class Form(NamedTuple):
    """The edits of one form of the changed source, and what the program said of it; None where it was not asked."""

    plan: Plan
    check: SourceCheck | None


class Code(NamedTuple):
    """What is given out of the source: as a module, and as a patch; None where that is not wanted.

    `trials` is what runs of the program with other values in its source came to; None where there were none.
    """

    module: Form | None
    patch: Form | None
    trials: SourceTrials | None = None

    @property
    def is_unlike(self) -> bool:
        """Whether the module does not give what the program gives."""
        return self.module is not None and self.module.check is not None and self.module.check.unlike is not None

    @property
    def is_refused(self) -> bool:
        """Whether the program could not say anything of it, so that it has no change."""
        return any(form.check is not None and form.check.refused is not None for form in self.forms())

    def forms(self) -> list[Form]:
        """Those that are wanted."""
        return [form for form in (self.module, self.patch) if form is not None]

    def lines(self) -> list[str]:
        """What the program said of it, for people."""
        trials = self.trials.lines() if self.trials is not None else []
        return [*trials, *(line for form in self.forms() if form.check is not None for line in form.check.lines())]

    def findings(self) -> list[Finding]:
        """What is not written back, with the place, and why."""
        return list(dict.fromkeys(finding for form in self.forms() for finding in form.plan.findings))

    def diff(self) -> str | None:
        """The patch as a diff; None where none is wanted."""
        from fusetune.code.patch.written import diff_of

        return None if self.patch is None else diff_of(self.patch.plan)

    def to_builtins(self) -> dict[str, Any]:
        """The same as JSON has it."""
        told = {"module": self.module, "patch": self.patch}
        return {
            name: form.check.to_builtins() if form.check is not None else None
            for name, form in told.items()
            if form is not None
        }


def code_of(
    outputs: Outputs,
    program: Program,
    tuned: Sequence[Tuned],
    looked: Looked,
    question: Question | None,
    *,
    compared: bool = True,
    before: AsItIs | None = None,
) -> Code:
    """What of the source is given out: the program is run with each form's very text, unless `question` is None.

    Where it is not right with a change, or does not gain what it has to, the change is not in it. `compared` as in
    `plan_of`; `before` are the runs that there are of the program as it is.
    """
    with _looked_up_in(outputs.configs) if outputs.lookup else contextlib.nullcontext():
        return _code_of(outputs, program, tuned, looked, question, compared=compared, before=before)


def _code_of(
    outputs: Outputs,
    program: Program,
    tuned: Sequence[Tuned],
    looked: Looked,
    question: Question | None,
    *,
    compared: bool,
    before: AsItIs | None,
) -> Code:
    from fusetune.cli.source_trials import try_sources
    from fusetune.tune.source_again import Source

    sources = sources_of(looked)

    def planned(verdicts: Sequence[Tuned]) -> Plan:
        return plan_of(
            verdicts,
            looked,
            autotune=outputs.autotune,
            lookup=outputs.lookup,
            sources=sources,
            compared=compared,
            asked=question is not None and question.why_not is None and question.least_gain is not None,
        )

    def patched(plan: Plan) -> Source:
        return Source(program, {one.file: one.after for one in plan.files}, _held(tuned, plan))

    trials = None
    if question is not None and question.why_not is None:
        trials = try_sources(
            program,
            tuned,
            planned(tuned),
            sources,
            patched,
            budget_s=question.budget_s,
            min_gain=question.min_gain,
            limit_s=question.limit_s,
            gpu=looked.gpu,
        )

    def module_with(plan: Plan) -> Source:
        assert outputs.module is not None, "it is asked of a module alone"
        made = module_of(program, plan, tuned, looked)
        path = str(outputs.module.absolute())
        beside = structs.replace(program, what=path, reference=program.reference or program.what)
        return Source(beside, {path: made.text.encode()}, _held(tuned, plan, dict.fromkeys(made.files, path)))

    decided, module, patch = decided_of(tuned, planned, trials, sources), None, None
    if looked.compiled_for is not None:
        return _compiled(outputs, decided, module_with, patched, looked)
    with asking(Source(program, {}, _held(tuned)), question, before) as questions:
        if outputs.module is not None:
            module = Form(*checked("module", questions, decided, module_with, question))
        if outputs.diff or outputs.apply:
            patch = Form(*checked("patch", questions, decided, patched, question))
    return Code(module, patch, trials)


def _compiled(
    outputs: Outputs,
    decided: Decided,
    module_with: Callable[[Plan], Source],
    patched: Callable[[Plan], Source],
    looked: Looked,
) -> Code:
    """Without a GPU: what the program still ends well with, its launches compiled for the target."""
    from fusetune.cli.progress import make_progress

    assert looked.compiled_for is not None, "there is no GPU"
    target, took_s = looked.compiled_for, looked.seconds
    module = patch = None
    with make_progress().phase("Running the program with the changed source, its launches compiled"):
        if outputs.module is not None:
            module = Form(*checked_by_compiling("module", decided, module_with, target, took_s))
        if outputs.diff or outputs.apply:
            patch = Form(*checked_by_compiling("patch", decided, patched, target, took_s))
    return Code(module, patch, None)


@contextlib.contextmanager
def _looked_up_in(folder: Path) -> Iterator[None]:
    """Have processes that are started meanwhile find configs in a folder before all others."""
    before = os.environ.get(CONFIGS_VARIABLE)
    os.environ[CONFIGS_VARIABLE] = os.pathsep.join([str(folder.absolute()), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ[CONFIGS_VARIABLE]
        else:
            os.environ[CONFIGS_VARIABLE] = before


def _held(tuned: Sequence[Tuned], plan: Plan | None = None, moved: Mapping[str, str] | None = None) -> list[Case]:
    """The cases whose autotuners choose what they chose: those of kernels that a plan leaves alone.

    `moved` are files under whose new paths they then run.
    """
    from fusetune.tune.again import held_of

    changed = {(one.launch.kernel_file, one.launch.kernel) for one in plan.made} if plan is not None else set()
    kept = [case for case in held_of(tuned) if (case.kernel.file, case.kernel.name) not in changed]
    paths = moved or {}
    return [
        structs.replace(case, kernel=structs.replace(case.kernel, file=paths.get(case.kernel.file, case.kernel.file)))
        for case in kept
    ]


def hand_out(
    outputs: Outputs, program: Program, tuned: Sequence[Tuned], looked: Looked, code: Code, *, quiet: bool = False
) -> str:
    """Write or print what is wanted of the source, and return the diff.

    `quiet` prints nothing on stdout, as where JSON has the diff. Raises UsageError where a file has changed, or there
    is no module to write.
    """
    for finding in code.findings():
        echo(printable(f"Not written back: {finding.told()}"), err=True)
    if outputs.module is not None and code.module is not None:
        _write_module(outputs.module, program, code, tuned, looked)
    text = code.diff()
    if code.patch is None or text is None:
        return ""
    _hand_out_patch(outputs, code.patch, text, looked, quiet=quiet)
    return text


def _hand_out_patch(outputs: Outputs, form: Form, text: str, looked: Looked, *, quiet: bool) -> None:
    from fusetune.cli.wanted import files_measured
    from fusetune.code.patch.written import apply

    if outputs.diff and not quiet:
        echo_laid_out(text)
        if not text:
            echo("Nothing of the program would be changed", err=True)
    if outputs.apply:
        files = apply(form.plan, files_measured(looked.cases))
        echo(
            printable(f"Changed {', '.join(files)}" if files else "Nothing of the program had to be changed"), err=True
        )


def _write_module(path: Path, program: Program, code: Code, tuned: Sequence[Tuned], looked: Looked) -> None:
    assert code.module is not None, "it is written where it is wanted"
    made = module_of(program, code.module.plan, tuned, looked, code.module.check, code.trials)
    for note in made.notes:
        echo(printable(f"Note: {note}"), err=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, made.text)
    except OSError as error:
        raise MachineError(
            f"{path} could not be written ({error.strerror or error}); free or name another place"
        ) from (error)
    echo(printable(f"Wrote {path}"), err=True)


class Module(NamedTuple):
    """One module, what somebody should know of it, and the program's own files that it has something of."""

    text: str
    notes: list[str]
    files: tuple[str, ...]


def module_of(
    program: Program,
    plan: Plan,
    tuned: Sequence[Tuned],
    looked: Looked,
    check: SourceCheck | None = None,
    trials: SourceTrials | None = None,
) -> Module:
    """One module of a program with ModelNew, with what was decided. Raises UsageError where it cannot be one."""
    from fusetune.cli.wanted import modules_of

    texts = {one.file: one.after for one in plan.files}
    header = header_of(program, plan, tuned, looked, check, trials)
    made = _standalone(program, texts, header, modules_of(looked.cases), sources_of(looked))
    files = (str(Path(program.what).absolute()), *made.inlined)
    others = [one for one in texts if one not in files]
    told = [f"{other} would have to change, too, and is not part of the module" for other in others]
    return Module(made.text, [*(finding.told() for finding in made.findings), *told], files)


def _standalone(
    program: Program,
    texts: Mapping[str, bytes] = {},
    header: Sequence[str] = (),
    known: Mapping[str, str] = {},
    sources: Sources | None = None,
) -> Standalone:
    """The module of a program's file and of its own modules, where some have other texts."""
    from fusetune.code.patch.edits import NotWritableError
    from fusetune.code.patch.own_modules import OwnModules
    from fusetune.code.patch.source_file import Sources
    from fusetune.code.patch.standalone import standalone

    held = sources or Sources()
    file = str(Path(program.what).absolute())

    def text(name: str) -> bytes:
        return texts[name] if name in texts else held.data(name)

    modules = OwnModules(Path(file).resolve().parent, known, text)
    try:
        return standalone(file, texts.get(file) or Path(file).read_bytes(), header, modules)
    except NotWritableError as error:
        raise UsageError(error.finding.told()) from error
