"""Files of configs as they may be believed: what the schema admits, and the op that a file is for can launch."""

from __future__ import annotations

from pathlib import Path

from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.launchable import unlaunchable
from fusetune.ops.spec import BUILT_IN_OPS, load_spec, why_unlaunchable
from fusetune.store.schema import ConfigFile, Entry
from fusetune.store.yaml_files import read_config_file


def read_believed_file(path: Path) -> ConfigFile:
    """The file as types.

    Raises ConfigFileError as `read_config_file` does, and for an entry whose config its op cannot launch.
    """
    return read_config_file(path, unfit=unfit_for_op)


def unfit_for_op(op: str, entry: Entry) -> str | None:
    """Why the op cannot launch an entry's config on any GPU; None where it can, and for an op that is not installed."""
    if op in BUILT_IN_OPS:  # whose kernels need not be loaded to know
        if (op == "gemm_scale") != (entry.problem.mode is None):
            return f"{op} has no mode {entry.problem.mode or 'at all'}"
        return unlaunchable(entry.config, entry.problem, entry.problem.mode)
    try:
        spec = load_spec(op)
    except UsageError:
        return None
    return why_unlaunchable(spec, entry.problem, entry.config)
