"""What a program's launches ran with, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fusetune.capture.serving.served import Applied, KernelServed, Left, Missed, Served
from fusetune.core.text import printable, shortened
from fusetune.report.wording import plural

MOST_LINES: Final = 6
"""Of one kernel; the file of --report has all."""
_LONGEST: Final = 160


def lines_of(served: Served) -> list[str]:
    """A line that counts; then by kernel what was applied, refused, left and missed, and the command to tune it."""
    lines = []
    for kernel in served.kernels:
        lines += _of_kernel(kernel)
    lines += [
        f"{_launches(count)} of {name}: compiled by torch.compile, as they are"
        for name, count in sorted(served.by_inductor.items())
    ]
    lines += [f"note: {note}" for note in served.notes]
    return [printable(f"fusetune: {_counted(served)}"), *(f"  {printable(line)}" for line in lines)]


def _counted(served: Served) -> str:
    applied = sum(one.launches for kernel in served.kernels for one in kernel.applied)
    others = sum(kernel.launches for kernel in served.kernels) - applied
    kernels = sum(bool(kernel.applied) for kernel in served.kernels)
    if not served.kernels:
        return "the program launched no Triton kernel that could be seen"
    line = f"{_launches(applied)} of {plural(kernels, 'kernel')} with tuned configs" if applied else ""
    without = f"{others if applied else _launches(others)} without" if others else ""
    line = ", ".join(one for one in (line, without) if one)
    line += f", in {served.processes} processes" if served.processes > 1 else ""
    timed = f"{_launches(served.trials)} of autotuners only timed" if served.trials else "nothing was timed"
    return f"{line}; {timed}"


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
