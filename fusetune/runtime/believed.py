"""Files of configs as they may be believed: what the schema admits, and the op that a file is for can launch."""

from __future__ import annotations

from pathlib import Path

from fusetune.errors import UsageError
from fusetune.ops.loading import spec_named
from fusetune.ops.types import types_of
from fusetune.store.schema import ConfigFile, Entry
from fusetune.store.yaml_files import read_config_file


def read_believed_file(path: Path) -> ConfigFile:
    """The file as types.

    Raises ConfigFileError as `read_config_file` does, and for an entry whose config its op cannot launch.
    """
    return read_config_file(path, unfit=unfit_for_op)


def unfit_for_op(op: str, entry: Entry) -> str | None:
    """Why the op cannot launch an entry's config on any GPU; None where it can, and for an op that is not installed."""
    unfit = types_of(op).unfit  # for which the kernels need not be loaded
    if unfit is not None:
        return unfit(op, entry.problem, entry.config)
    try:
        spec = spec_named(op)
    except UsageError:
        return None
    return spec.unlaunchable(entry.problem, entry.config)
