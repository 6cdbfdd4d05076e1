"""What a program launches, as a table and in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from rich.table import Table

from fusetune.capture.cases import Case, KernelSeen, Looked, NotCaptured
from fusetune.core.text import printable
from fusetune.errors import UsageError
from fusetune.report.terminal_tables import make_table
from fusetune.report.wording import plural
from fusetune.units import format_us

SHARE: Final = 0.95
"""Of the kernels' time: so much is shown where nothing else is asked for."""
_SHORT: Final = {"num_warps": "warps", "num_stages": "stages"}
_LONGEST_PLACE: Final = 40
_DOES: Final = {"both": "read and written", "atomic": "changed by atomics", "unused": "not touched"}


def selected(looked: Looked, *, kernel: str | None = None, top: int | None = None, share: float = SHARE) -> list[Case]:
    """The cases of the kernels that are asked for: of a name, the first few, or those that make up a share of the time.

    Where nothing was timed all of them count. Kernels in order of their time, or of their launches. Raises UsageError
    where the program launches kernels, and none of the name, or none of it that could be captured.
    """
    kernels: defaultdict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in looked.cases:
        if kernel is None or fnmatchcase(case.kernel.name, kernel):
            kernels[case.kernel.file, case.kernel.name].append(case)
    if looked.cases and not kernels:
        for one in looked.not_captured:
            if kernel is not None and fnmatchcase(one.kernel.name, kernel):
                raise UsageError(f"--kernel {kernel}: {_not_captured(one)}")
        names = ", ".join(dict.fromkeys(case.kernel.name for case in looked.cases))
        raise UsageError(f"--kernel {kernel} names no kernel of the program; it launches {names}")
    ordered = sorted(kernels.values(), key=lambda cases: (-_us(cases), -sum(case.launches for case in cases)))
    total = sum(map(_us, ordered))
    chosen: list[list[Case]] = []
    for cases in ordered:
        enough = total > 0 and sum(map(_us, chosen)) >= share * total
        if (top is not None and len(chosen) >= top) or (top is None and kernel is None and enough):
            break
        chosen.append(cases)
    return [case for cases in chosen for case in cases]


def table_of(looked: Looked, cases: Sequence[Case]) -> Table:
    """A row for each case: kernel, place, launches, time and share, grid, the config that runs, and what may vary.

    The share is that of all kernels on the GPU where these were seen, else that of Triton's; `of_what` says which.
    """
    total = sum(case.us or 0.0 for case in looked.cases)
    of_gpu = 1.0 if looked.gpu_time is None else looked.gpu_time.triton_share or 1.0
    here = Path.cwd()
    times = (">time", ">share") if total else ()
    table = make_table(("kernel", "where", ">launches", *times, "grid", "what runs", "may vary"))
    for case in cases:
        us = case.us or 0.0
        cells = [case.kernel.name, _place(case.kernel, here), str(case.launches)]
        cells += [format_us(us), f"{100 * us / total * of_gpu:.0f} %"] if total else []
        varying = [_SHORT.get(knob.name, knob.name) for knob in case.knobs if knob.varies]
        cells += ["x".join(map(str, case.grid)), case.config_text(), ", ".join(varying)]
        table.add_row(*map(printable, cells))
    return table


def to_explanation(cases: Sequence[Case]) -> str:
    """All that was understood of each case: tensors with their roles, the grid, and every parameter with its reason."""
    return "\n".join("\n".join(_explained(case)) + "\n" for case in cases)


def _explained(case: Case) -> list[str]:
    lines = [f"{case.kernel.name}  {case.kernel.place()}  {_launches(case.launches)}, {case.config_text()}"]
    lines.append(f"  grid {'x'.join(map(str, case.grid))}: {case.grid_why or case.grid_kind}")
    for name, tensor in case.tensors.items():
        shared = [other for other, one in case.tensors.items() if other != name and one.storage == tensor.storage]
        beside = f", shares its memory with {', '.join(shared)}" if shared else ""
        lines.append(f"  {name}: {tensor.describe()}{_role(case, name)}{beside}")
    lines += [f"  {name} = {value}" for name, value in case.values.items()]
    for knob in case.knobs:
        which = "may vary" if knob.varies else "stays"
        lines.append(f"  {knob.name} = {knob.value} {which}: {knob.reason}")
    lines += [f"  note: {finding}" for finding in case.findings]
    return lines


def _role(case: Case, name: str) -> str:
    """What the kernel does to a tensor, after a comma; empty where that is not known."""
    found = f", {_DOES.get(case.roles[name], case.roles[name])}" if name in case.roles else ""
    if name in case.unsure:
        found += ", not surely: some access may be another tensor's"
    if name in case.tables:
        found += f", its integers are addresses of memory that is {_DOES.get(case.tables[name], case.tables[name])}"
    return found


def of_what(looked: Looked) -> list[str]:
    """What the table's shares are of, a sentence; none where nothing was timed."""
    if not any(case.us for case in looked.cases):
        return []
    found = looked.gpu_time
    if found is None or found.triton_share is None:
        why = f": {looked.no_gpu_time}" if looked.no_gpu_time else ""
        return [f"share: of the time of the Triton kernels alone{why}"]
    theirs = f"Triton's kernels are {100 * found.triton_share:.0f} % of {format_us(found.all_us)}"
    return [f"share: of the program's GPU time; {theirs}, by a profile of one more run"]


def besides(looked: Looked, cases: Sequence[Case]) -> list[str]:
    """What else was seen, a sentence each."""
    lines = []
    if not looked.cases:
        lines.append("the program launched no Triton kernel that could be captured")
    shown = {(case.kernel.file, case.kernel.name) for case in cases}
    others = sum((case.kernel.file, case.kernel.name) not in shown for case in looked.cases)
    if others:
        lines.append(f"{plural(others, 'more case')} of other kernels; --kernel, --top or --share picks them")
    left = len(looked.cases) - others - len(cases)
    if left:
        lines.append(f"{plural(left, 'more case')} of the same kernels, of less time or fewer launches")
    if looked.compiled_for:
        lines.append(f"no GPU was used: launches were compiled for {looked.compiled_for}, and nothing is timed")
        if any(case.proposals > 1 for case in cases):
            lines.append("what an autotuner chooses is not known: the first of its list that compiles is Before here")
    if looked.trials:
        lines.append(f"{_launches(looked.trials)} of autotuners that only timed: not the program's")
    if looked.in_graphs:
        lines.append(f"{_launches(looked.in_graphs)} while a CUDA graph was captured: not captured")
    lines += map(_not_captured, looked.not_captured)
    for name, count in looked.bypassed.items():
        lines.append(f"{_launches(count)} of {name} past Triton's JIT: not captured")
    for name, count in looked.by_inductor.items():
        lines.append(f"{_launches(count)} of {name}: compiled by torch.compile; not captured")
    return lines


def notes_on(cases: Sequence[Case]) -> list[str]:
    """What was found out about the cases, a sentence each."""
    findings = dict.fromkeys(f"{case.kernel.name}: {finding}" for case in cases for finding in case.findings)
    return [f"note: {finding}" for finding in findings]


def _not_captured(one: NotCaptured) -> str:
    name, place = one.kernel.name, _place(one.kernel, Path.cwd())
    return f"{_launches(one.launches)} of {name} ({place}): not captured, and not tuned, as {one.why}"


def _launches(count: int) -> str:
    return plural(count, "launch")


def place_of(case: Case) -> str:
    """Where the kernel of a case stands, as the table has it."""
    return _place(case.kernel, Path.cwd())


def _place(kernel: KernelSeen, here: Path) -> str:
    """A kernel's file and line: from the current folder where that is short, the file's own name otherwise."""
    path = Path(kernel.file)
    name = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    return f"{name if len(name) <= _LONGEST_PLACE else path.name}:{kernel.line}"


def _us(cases: Sequence[Case]) -> float:
    return sum(case.us or 0.0 for case in cases)
