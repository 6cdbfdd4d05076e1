"""A plan as a unified diff, and written to its files."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fusetune.code.patch.plan import FilePatch, Plan
from fusetune.errors import MachineError, UsageError


def sha256_of(data: bytes) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def diff_of(plan: Plan, folder: Path | None = None) -> str:
    """The plan as `git apply` and `patch -p1` take it, with files named from a folder, the current one."""
    return "".join(_diff(one, folder or Path.cwd()) for one in plan.files if one.before != one.after)


def _diff(patch: FilePatch, folder: Path) -> str:
    try:
        name = Path(patch.file).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        name = Path(patch.file).as_posix().lstrip("/")
    before, after = (data.decode().splitlines(keepends=True) for data in (patch.before, patch.after))
    lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def apply(plan: Plan, measured: Mapping[str, str] = {}) -> list[str]:
    """Write the plan to its files, all of them or none, and return those written.

    `measured` has the SHA-256 of files as they were when they ran. A file that is what it would become is left alone.
    One whose text git does not have is kept beside itself as `FILE.orig`, or with a number where that is another one
    already. Raises UsageError where a file is neither what was measured nor what it would become, and MachineError
    where one cannot be written.
    """
    waiting = [one for one in plan.files if _is_to_be_written(one, measured.get(one.file))]
    made: list[Path] = []
    replaced: list[tuple[Path, bytes]] = []
    path = Path()
    try:
        ready = []
        for one in waiting:
            path = Path(one.file).resolve()
            if not _is_in_git(path):
                made += _kept_beside(path)
            made.append(_written_beside(path, one.after))
            ready.append((made[-1], path, one.before))
        for temporary, path, before in ready:
            temporary.replace(path)
            replaced.append((path, before))
    except BaseException as error:
        for other, before in replaced:
            other.write_bytes(before)
        for left in made:
            left.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MachineError(f"{path} could not be written ({error.strerror or error}); all is as it was") from error
        raise
    return [one.file for one in waiting]


def _is_to_be_written(patch: FilePatch, measured: str | None) -> bool:
    try:
        now = Path(patch.file).read_bytes()
    except OSError as error:
        raise UsageError(f"{patch.file} cannot be read ({error.strerror or error}); nothing was written") from error
    if now == patch.after:
        return False
    if now != patch.before or (measured is not None and sha256_of(now) != measured):
        raise UsageError(
            f"{patch.file} has changed since its launches were captured, so nothing was written; tune again, or apply "
            "what --diff prints by hand"
        )
    return True


def _written_beside(path: Path, data: bytes) -> Path:
    """A file in the same folder, with other bytes and the same permissions."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _kept_beside(path: Path) -> list[Path]:
    """The copy of a file that was made; none where there is one already."""
    for number in itertools.count(1):
        copy = path.with_name(f"{path.name}.orig{'' if number == 1 else f'.{number}'}")
        if not copy.exists():
            shutil.copy2(path, copy)
            return [copy]
        if copy.read_bytes() == path.read_bytes():
            break
    return []


def _is_in_git(path: Path) -> bool:
    """Whether git has what stands in a file now, to go back to."""
    commands = (["ls-files", "--error-unmatch", "--", path.name], ["diff", "--quiet", "--no-ext-diff", "--", path.name])
    try:
        return all(
            subprocess.run(["git", *one], cwd=path.parent, capture_output=True, check=False, timeout=20).returncode == 0
            for one in commands
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
