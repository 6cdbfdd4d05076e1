"""What a program's launches ran with, in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fusetune.capture.serving.served import AS_IT_IS, Applied, KernelServed, Left, Missed, Served
from fusetune.core.text import printable, shortened
from fusetune.report.wording import plural

NOTHING: Final = "the program launched no Triton kernel that could be seen"
MOST_KERNELS: Final = 20
MOST_LINES: Final = 6
"""Of one kernel; the file of --report has all."""
_MOST_NAMED: Final = 5
_LONGEST: Final = 160


def lines_of(served: Served) -> list[str]:
    """A line that counts; then by kernel what was applied, refused, left and missed, and the command to tune it."""
    lines = []
    shown = [kernel for kernel in served.kernels if not _is_as_it_is(kernel)]
    for kernel in shown[:MOST_KERNELS]:
        lines += _of_kernel(kernel)
    if len(shown) > MOST_KERNELS:
        lines.append(f"and {len(shown) - MOST_KERNELS} more kernels, which --report FILE holds")
    lines += _as_they_are([kernel for kernel in served.kernels if _is_as_it_is(kernel)])
    lines += [
        f"{_launches(count)} of {name}: of what torch.compile made"
        for name, count in sorted(served.by_inductor.items())
    ]
    lines += [f"note: {note}" for note in served.notes]
    return [printable(f"fusetune: {_counted(served)}"), *(f"  {printable(line)}" for line in lines)]


def _counted(served: Served) -> str:
    applied = sum(one.launches for kernel in served.kernels for one in kernel.applied)
    others = sum(kernel.launches for kernel in served.kernels) - applied
    kernels = sum(bool(kernel.applied) for kernel in served.kernels)
    if not served.kernels:
        made = sum(served.by_inductor.values())
        return f"torch.compile made all {_launches(made)}" if made else NOTHING
    line = f"{_launches(applied)} of {plural(kernels, 'kernel')} with tuned configs"
    line += f", {others} without" if others else ""
    line = line if applied else f"{_launches(others)}, none with a tuned config"
    line += f", in {served.processes} processes" if served.processes > 1 else ""
    timed = f"{_launches(served.trials)} of autotuners only timed" if served.trials else "nothing was timed"
    return f"{line}; {timed}"


def _is_as_it_is(kernel: KernelServed) -> bool:
    """Whether no launch has an entry, and none was of an autotuner: as it is without us."""
    return not kernel.applied and not kernel.left and all(one.did == AS_IT_IS for one in kernel.missed)


def _as_they_are(kernels: Sequence[KernelServed]) -> list[str]:
    """What a program may have many of, in a line or two."""
    if not kernels:
        return []
    names = [kernel.name for kernel in kernels[:_MOST_NAMED]] + (["..."] if len(kernels) > _MOST_NAMED else [])
    launches = sum(kernel.launches for kernel in kernels)
    line = f"{_launches(launches)} of {plural(len(kernels), 'kernel')} as the program launches them: {', '.join(names)}"
    told = [line, *(f"  {shortened(why, _LONGEST)}" for why in _reasons(kernels))]
    whole = kernels[0].command.replace(f" --kernel {shlex.quote(kernels[0].name)}", "")
    return [*told, f"  to tune them: `{whole if len(kernels) > 1 else kernels[0].command}`"]


def _reasons(kernels: Sequence[KernelServed]) -> list[str]:
    """Why entries of theirs were not used, or could not be looked up; nothing of those that simply have none."""
    names: dict[str, list[str]] = {}
    for kernel in kernels:
        for one in kernel.missed:
            if not one.reason.startswith("no entry "):
                names.setdefault(one.reason, []).append(kernel.name)
    found = list(names.items())[:_MOST_NAMED]
    return [why if len(named) == len(kernels) else f"{', '.join(named[:_MOST_NAMED])}: {why}" for why, named in found]


def _of_kernel(kernel: KernelServed) -> list[str]:
    lines = [_applied(one) for one in kernel.applied]
    lines += [_left(one) for one in kernel.left]
    lines += [_missed(one) for one in kernel.missed]
    more = len(lines) - MOST_LINES
    if more > 0:
        lines = [*lines[:MOST_LINES], f"and {more} more such lines, which --report FILE holds"]
    if kernel.command:
        lines.append(f"to tune it: `{kernel.command}`")
    return [f"{kernel.name} ({_place(kernel)})", *(f"  {line}" for line in lines)]


def _applied(one: Applied) -> str:
    return f"{_launches(one.launches)} with {config_text(one.constants, one.options)}: {one.why}"


def _left(one: Left) -> str:
    what = "refused" if one.refused else f"{_launches(one.launches)} left as they are"
    return f"{what}: {config_text(one.constants, one.options)}: {shortened(one.why, _LONGEST)}"


def _missed(one: Missed) -> str:
    return f"{_launches(one.launches)} without an entry, with {one.did}: {shortened(one.reason, _LONGEST)}"


def config_text(constants: Mapping[str, Any], options: Mapping[str, int]) -> str:
    """`BLOCK=512 num_warps=2 num_stages=1`."""
    return " ".join(f"{name}={value}" for name, value in {**constants, **options}.items())


def _launches(count: int) -> str:
    return plural(count, "launch")


def _place(kernel: KernelServed) -> str:
    path, here = Path(kernel.file), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{kernel.line}"
