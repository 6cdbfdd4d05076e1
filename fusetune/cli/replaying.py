"""What `fusetune gate` launches of programs' kernels: captures that are kept, or of programs that it runs again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusetune.cli.program_options import CONTEXT, form_options
from fusetune.core.environment import TargetIdentity
from fusetune.core.problem import NamedProblem
from fusetune.core.target import DEFAULT_TARGET, Target, find_target, match_target
from fusetune.errors import ProgramError, UsageError
from fusetune.ops.spec import KernelSpec
from fusetune.store.lookup import target_differences
from fusetune.store.schema import ConfigFile

if TYPE_CHECKING:
    from fusetune.capture.from_source import KernelPlace
    from fusetune.capture.programs import Program
    from fusetune.gate.replays import Replays
    from fusetune.gate.sources import Sources

Files = Sequence[tuple[Path, ConfigFile]]


class _Asks(KernelSpec):
    """Nothing to be launched: a measurer of it says which GPU is here."""

    name = "asks"

    def source_hash(self, config: Any = None) -> str:
        """None is launched."""
        return ""


def refuse_idle(files: Files, programs: Sequence[str]) -> None:
    """Raise UsageError where programs are named, and no file is for a kernel of one."""
    from fusetune.gate.sources import is_captured

    if programs and not any(is_captured(file) for _, file in files):
        raise UsageError("--program runs a program for its kernels, and no file is for a kernel of a program")


def for_another_gpu(files: Files) -> dict[Path, str]:
    """The files of captured kernels that are for another GPU than the one here, and in what they differ.

    Nothing has to be captured or imported for those. Raises NoUsableGpuError where PyTorch can use none.
    """
    from fusetune.gate.sources import is_captured
    from fusetune.measure import cuda, nvml

    captured = [(path, file.target) for path, file in files if is_captured(file)]
    if not captured:
        return {}
    seen = nvml.visible_gpu()
    if seen is not None:
        here = {target: TargetIdentity(*seen, target.sms) for _, target in captured}
    else:
        with closing(cuda.CudaMeasurer(_Asks(), NamedProblem())) as measurer:
            here = dict.fromkeys((target for _, target in captured), measurer.facts().identity)
    found = {path: "; ".join(target_differences(target, here[target])) for path, target in captured}
    return {path: why for path, why in found.items() if why}


@contextmanager
def replays_of(
    files: Files,
    sources: Sources | None,
    programs: Sequence[str],
    vouched: Sequence[str],
    against: str | None,
    folder: Path,
) -> Iterator[tuple[Replays | None, str | None]]:
    """What launches the files' captured kernels, and the other revision's name; neither where none is captured.

    Captures of the programs are removed at the end, and what else it takes goes below `folder`. Raises UsageError where
    a kernel's file was not named, ProgramError where a program fails by itself.
    """
    from fusetune.gate.sources import is_captured

    captured = [(path, file) for path, file in files if is_captured(file)]
    if not captured:
        yield None, None
        return
    from fusetune.capture.captures import kept_cases
    from fusetune.gate.replays import Replays
    from fusetune.gate.source_revision import kernels_at
    from fusetune.gate.sources import Sources

    with ExitStack() as stack:
        if programs:
            captures = [case for text in programs for case in stack.enter_context(_captured(_program_of(text)))]
            here, places = None, _places_of(captures, captured)
        else:
            named = sources or Sources((), folder)
            captures, places = list(kept_cases()), named.places(captured)
            here = named.kernels([(path, file, _target(file)) for path, file in captured])
        name, there = None, None
        if against is not None:
            name, there = kernels_at(against, places, _target(captured[0][1]), folder)
        yield Replays(captures, here, there, vouched), name


@contextmanager
def _captured(program: Program) -> Iterator[list[Path]]:
    """The captures of a program that is run once more."""
    from fusetune.capture.captures import kept_run
    from fusetune.capture.look import look

    with kept_run(remove=True) as folder:
        looked = look(program, keep=folder)
        if looked.failed is not None:
            raise ProgramError(f"{program.told()} failed by itself: {looked.failed}")
        yield [Path(case.kept) for case in looked.cases if case.kept is not None]


def _places_of(captures: Sequence[Path], files: Files) -> dict[Path, KernelPlace]:
    """Where the kernels of the files stand, by the programs that launch them."""
    from fusetune.capture.from_source import KernelPlace
    from fusetune.capture.spec import CapturedSpec

    specs = {spec.name: spec for spec in map(CapturedSpec, captures)}
    return {
        path: KernelPlace(file.kernel, specs[file.op].kept.case.kernel.file)
        for path, file in files
        if file.op in specs and file.kernel is not None
    }


def _target(file: ConfigFile) -> Target:
    """The GPU that modules see as they are imported: the file's, where the table holds it."""
    known = match_target(file.target.name, file.target.capability, file.target.sms)
    return known or find_target(DEFAULT_TARGET)


@form_options
def _form(**given: Any) -> dict[str, Any]:
    return given


_FORM = click.command("--program", context_settings=CONTEXT, add_help_option=False)(_form)


def _program_of(text: str) -> Program:
    """The program that a text names, as it would be typed behind `fusetune tune`."""
    from fusetune.capture.programs import parse_program

    try:
        given = _FORM.main(shlex.split(text), prog_name="--program", standalone_mode=False)
    except (ValueError, click.ClickException) as error:
        told = error.format_message() if isinstance(error, click.ClickException) else str(error)
        raise UsageError(f"--program {text!r}: {told}") from error
    words = [*(["-m", given["module"]] if given["module"] else []), *given["program"]]
    return parse_program(words, args=given["expression"], reference=given["reference"])
