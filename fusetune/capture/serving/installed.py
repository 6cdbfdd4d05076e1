"""`fusetune.install`: a process lets its own launches, and those of its children, run with tuned configs."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fusetune.capture.serving import process
from fusetune.capture.serving.served import Served, joined
from fusetune.capture.serving.serving import ON_MISS, OnMiss
from fusetune.capture.serving.settings import Settings, give_back, variables_of
from fusetune.core.near import did_you_mean
from fusetune.errors import UsageError
from fusetune.runtime.configs import load
from fusetune.runtime.program_here import program_here
from fusetune.store.whole import write_whole

_LOG: Final = logging.getLogger(__name__)


class _Here(NamedTuple):
    """What was installed, and by which process; `variables` are those of the environment as they were before."""

    pid: int
    served: process.ServedProcess
    variables: dict[str, str | None]
    report: Path | None


_installed: _Here | None = None


def install(
    configs: str | Path | None = None,
    *,
    on_miss: OnMiss = "default",
    allow_predicted: bool = False,
    children: bool = True,
    report: str | Path | None = None,
) -> None:
    """Launch Triton kernels with their tuned configs from now on, in this process and those that it starts.

    Nothing of the programs and libraries that launch is edited. `@triton.autotune` takes the entry of a launch and
    times nothing; where there is none, `on_miss` says what happens: `default` takes the first config of its list,
    `tune` lets it time as it would, `error` raises MissingConfigError. Other launches get num_warps and num_stages, and
    constants where the grid follows.

    `configs` is a folder or a file that `fusetune tune` wrote; None: the search path, as for `fusetune.load`.
    `allow_predicted`: take entries that nobody has measured, too. `children`: processes that inherit the environment
    do the same. `report` is a file to write what was applied, missed or refused to, as JSON, when the process ends.
    Neither torch nor triton is loaded before the program does so. A second call takes the place of the first.

    Raises UsageError for another `on_miss`, and ConfigFileError where there is no such folder or file.
    """
    global _installed  # noqa: PLW0603 - a process has one Triton
    if on_miss not in ON_MISS:
        near = did_you_mean(str(on_miss), ON_MISS) or ";"
        raise UsageError(f"on_miss is {on_miss!r}{near} it is one of {', '.join(ON_MISS)}")
    if configs is not None:
        load(configs, allow_predicted=allow_predicted)
    uninstall()
    folder = tempfile.mkdtemp(prefix="fusetune-served-") if children or report is not None else None
    place = None if configs is None else str(Path(configs).absolute())
    settings = Settings(place, on_miss, allow_predicted, folder, program_here())
    before: dict[str, str | None] = {}
    if children:
        for name, value in variables_of(settings, os.environ).items():
            before[name] = os.environ.get(name)
            os.environ[name] = value
    target = None if report is None else Path(report).absolute()
    _installed = _Here(os.getpid(), process.begin(settings), before, target)
    atexit.register(_end)


def uninstall() -> None:
    """Launch as without `install` again, in this process and in children that it starts from now on.

    Configs come from the search path again. Without an `install` before, nothing happens. Raises OSError where the
    report cannot be written.
    """
    global _installed
    here, _installed = _installed, None
    if here is None:
        return
    if process.current() is here.served:
        process.stop()
    if here.served.settings.configs is not None:
        load()
    give_back(os.environ, here.served.settings, here.variables)
    if here.pid != os.getpid():  # Forked: the report is the parent's.
        return
    try:
        if here.report is not None:
            made = msgspec.json.format(msgspec.json.encode(_together(here)), indent=1).decode()
            write_whole(here.report, f"{made}\n")
    finally:
        if here.served.settings.folder is not None:
            shutil.rmtree(here.served.settings.folder, ignore_errors=True)


def served() -> Served:
    """What was applied, missed or refused so far, here and in children that have told.

    Under `fusetune run` that of this process. Without either, nothing was served.
    """
    if _installed is None or _installed.served.settings.folder is None:
        now = process.current()
        return Served() if now is None else now.served()
    return _together(_installed)


def _together(here: _Here) -> Served:
    """What this process has served, and what its children left."""
    folder = Path(str(here.served.settings.folder))
    own = here.served.served()
    others = process.read_served(folder, but=here.served.name)
    return joined([own, others]) if others.processes else own


def _end() -> None:
    """The process ends. A report that cannot be written is told, and is no end of its own."""
    try:
        uninstall()
    except OSError as error:
        _LOG.error("fusetune: the report could not be written: %s", error.strerror or error)
