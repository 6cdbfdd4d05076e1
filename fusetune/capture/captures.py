"""Where captures lie: a folder for each run of a program, in the user's state folder, of the owner's alone."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fusetune.capture.kept import MANIFEST
from fusetune.capture.snapshot import written
from fusetune.core.brief import brief
from fusetune.errors import CaptureError, MachineError
from fusetune.store.paths import captures_folder
from fusetune.store.regular import reason

RUN_FILE: Final = "run.json"
_RUN: Final = re.compile(r"\d{8}T\d{6}-[0-9a-f]{4}")


class RunKept(msgspec.Struct, frozen=True):
    """What one run of a program left: how many cases, and how many bytes all of them have."""

    run: str
    program: str = ""
    made: str = ""
    gpu: str | None = None
    bytes: int = 0
    cases: int = 0


def new_run() -> Path:
    """A folder for one run, that nobody has; it is made when there is a case to keep."""
    return captures_folder() / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


@contextlib.contextmanager
def kept_run(*, remove: bool) -> Iterator[Path]:
    """A folder for one run, which is removed at the end where that is asked for."""
    folder = new_run()
    try:
        yield folder
    finally:
        if remove:
            shutil.rmtree(folder, ignore_errors=True)


def make_private(folder: Path) -> None:
    """Make a folder, and those above it, that only the owner looks into."""
    for one in (*reversed(folder.parents), folder):
        if not one.is_dir():
            one.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Write a file of the owner's alone, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        written(temporary, [data])
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def runs() -> list[RunKept]:
    """All runs of this user, the oldest first. Raises CaptureError where their folder cannot be looked into."""
    folder = captures_folder()
    try:
        names = sorted(one.name for one in folder.iterdir() if _RUN.fullmatch(one.name) and not one.is_symlink())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CaptureError(f"cannot look into {brief(folder)}: {reason(error)}; see that it can be read") from error
    return [_run(folder / name) for name in names]


def _run(folder: Path) -> RunKept:
    try:
        return msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=RunKept)
    except (OSError, msgspec.DecodeError):  # it was broken off
        return RunKept(folder.name, "(not ended)")


def kept_cases() -> Iterator[Path]:
    """The folders of all cases that are kept, those of the newest run first. Raises CaptureError as `runs` does."""
    for one in reversed(runs()):
        yield from sorted(path.parent for path in (captures_folder() / one.run).glob(f"*/{MANIFEST}"))


def remove_runs(which: str) -> list[RunKept]:
    """Remove a run by its name, or `all`; what was removed. Raises CaptureError where there is no such run."""
    found = [one for one in runs() if which in {one.run, "all"}]
    if not found and which != "all":
        raise CaptureError(f"no run {brief(which)} is kept; `fusetune capture --list` shows those that are")
    for one in found:
        folder = captures_folder() / one.run
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise MachineError(f"{brief(folder)} could not be removed: {reason(error)}; remove it by hand") from error
    return found
