"""The YAML files of tuned configs: strict reading, plain writing, and an update that loses nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import filelock
import msgspec
import yaml

from fusetune.core.trouble import why_not_written
from fusetune.core.values import to_builtins
from fusetune.errors import ConfigFileError
from fusetune.ops.approved import Place, file_in_file, place_in_file
from fusetune.store.locks import lock_place
from fusetune.store.lookup import target_differences
from fusetune.store.migrations import STEPS, Step
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile, Entry, TargetIdentity
from fusetune.store.yaml_reader import Unfit, parse_config_file, read_text

LOCK_TIMEOUT_S: Final = 60.0

_LOG: Final = logging.getLogger(__name__)

_HEADER: Final = "# Written by `fusetune {}`, with the evidence for each config. Meant to be committed.\n"
_LINE_WIDTH: Final = 140


class WriteResult(msgspec.Struct, frozen=True):
    """What became of an entry: written to `path`, or not, because the measured entry `kept` stays."""

    path: Path
    written: bool
    kept: Entry | None = None


def read_config_file(path: Path, steps: Mapping[int, Step] = STEPS, *, unfit: Unfit | None = None) -> ConfigFile:
    """The file as types, brought to the current schema by `steps` where it is older.

    Raises ConfigFileError, which names the file, the place in it and the fix, for a file that cannot be read, is not
    YAML or does not follow the schema, or with an entry that `unfit` objects to; NewerSchemaError for one that a newer
    fusetune wrote.
    """
    return parse_config_file(read_text(path), path, steps, unfit=unfit)


def dump_config_file(file: ConfigFile) -> str:
    """The file as YAML text: keys in the order of the types, one line for each innermost mapping that fits on one."""
    plain = msgspec.to_builtins(file, enc_hook=to_builtins)
    body = yaml.safe_dump(plain, default_flow_style=None, sort_keys=False, width=_LINE_WIDTH)
    return _HEADER.format("sweep" if file.kernel is None else "tune") + body


def write_entry(
    path: Path,
    op: str,
    target: TargetIdentity,
    entry: Entry,
    place: Place | None = None,
    kernel_place: tuple[str, str] | None = None,
) -> WriteResult:
    """Put one entry into the file at `path`, in place of the one for the same problem, and make the file if need be.

    `place` is where an op of a user's own is, for later commands, and `kernel_place` what kernel of which file a
    captured one is; where none is given, what the file says of it stays. A file of an older schema becomes one of
    today's.

    Two processes at once lose no entry, and a kill leaves the old file or the new one. A predicted entry never
    replaces a measured one: then nothing is written, and the result names the entry that stays.

    Raises ConfigFileError when the file there is damaged or is for another op or GPU (it is left as it is), when the
    entry is not one that could be read back, or when the file system refuses.
    """
    real = path.resolve()  # through a symbolic link, so that the link stays one and both names share a lock
    try:
        if real.exists() and not real.is_file() and not real.is_dir():
            raise ConfigFileError(f"cannot write {path}: it is no regular file; name another, or remove it")
        real.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(lock_place(real), timeout=LOCK_TIMEOUT_S):
            result = _update(path, real, op, target, entry, place, kernel_place)
    except filelock.Timeout as error:
        raise ConfigFileError(
            f"cannot write {path}: another process has held its lock for {LOCK_TIMEOUT_S:.0f} s; "
            "wait for it or end it, then try again"
        ) from error
    except (OSError, NotImplementedError) as error:
        otherwise = "choose a folder on a local disk that you may write to"
        told = why_not_written(error, otherwise) if isinstance(error, OSError) else f"{error}; {otherwise}"
        raise ConfigFileError(f"cannot write {path}: {told}") from error
    _LOG.info("%s %s: %s in %s", op, entry.problem.describe(), "written" if result.written else "left as it was", path)
    return result


def _update(
    path: Path,
    real: Path,
    op: str,
    target: TargetIdentity,
    entry: Entry,
    place: Place | None,
    kernel_place: tuple[str, str] | None,
) -> WriteResult:
    """Read, replace, write; the caller holds the lock."""
    file = ConfigFile(schema=SCHEMA_VERSION, op=op, target=target)
    if real.exists():
        file = read_config_file(real)
        if file.op != op:
            raise ConfigFileError(f"{path} is for the op {file.op!r}, not {op!r}; write to a file of its own")
        differences = target_differences(file.target, target)
        if differences:
            raise ConfigFileError(f"{path} is for another GPU: {'; '.join(differences)}; write to a file of its own")
    same = next((old for old in file.entries if old.problem == entry.problem), None)
    if same is not None and same.evidence == "measured" and entry.evidence == "predicted":
        return WriteResult(path=path, written=False, kept=same)
    others = [old for old in file.entries if old.problem != entry.problem]
    entries = tuple(sorted([*others, entry], key=lambda item: item.problem.order()))
    spec = file.spec if place is None else place_in_file(place, path)
    kernel, source = (file.kernel, file.file) if kernel_place is None else kernel_place
    if kernel_place is not None and source is not None:
        source = file_in_file(source, path)
    named = {"spec": spec, "kernel": kernel, "file": source}
    text = dump_config_file(msgspec.structs.replace(file, schema=SCHEMA_VERSION, entries=entries, **named))
    # Structs made in code are not checked against their limits; better no file than one that nobody can read.
    try:
        parse_config_file(text, path)
    except ConfigFileError as error:
        raise ConfigFileError(f"the entry for {entry.problem.describe()} was not written: {error}") from error
    replace_file(real, text)
    return WriteResult(path=path, written=True)


def replace_file(real: Path, text: str) -> None:
    """Write beside the file, force it to disk, and rename: at no moment is half a file to be seen."""
    # One name does, because the lock is held; what a killed process left under it is overwritten, so no litter grows.
    temporary = real.with_name(f".{real.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        if real.exists():
            temporary.chmod(real.stat().st_mode & 0o777)
        os.replace(temporary, real)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
