"""The CUDA tools that Triton's wheel brings, found without loading Triton.

They lie in `triton/backends/nvidia/bin`, in triton 3.6 to 3.9 alike. Which ptxas it calls is what `get_ptxas` in its
`backends/nvidia/compiler.py` says.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fusetune.core.trouble import machine_told
from fusetune.errors import MissingPackageError

if TYPE_CHECKING:
    from fusetune.core.target import Target

_RELEASE: Final = re.compile(r"V(\d+\.\d+\.\d+)")
_LIMIT_S: Final = 10.0
_NAMED_BY: Final = {"ptxas": "TRITON_PTXAS_PATH", "ptxas-blackwell": "TRITON_PTXAS_BLACKWELL_PATH"}
"""The variable that names another tool to Triton, whose own one is taken where that cannot be run."""


class FoundTool(NamedTuple):
    """A ptxas: which, where, and its release, or why there is none."""

    name: str
    path: str
    release: str | None
    trouble: str | None = None


@functools.cache
def nvidia_tool(name: str) -> Path:
    """The path of a CUDA tool (ptxas, cuobjdump, nvdisasm) that Triton's wheel brings.

    Raises MissingPackageError where it is missing.
    """
    triton = find_spec("triton")
    folders = list(triton.submodule_search_locations or ()) if triton is not None else []
    if not folders:
        raise MissingPackageError(f"triton, whose wheel brings {name}, is not installed; `pip install triton` (Linux)")
    path = Path(folders[0], "backends", "nvidia", "bin", name)
    if not path.exists():
        raise MissingPackageError(f"triton's wheel brings no {name} at {path}; install triton>=3.6 from its wheel")
    return path


@functools.cache
def triton_release() -> tuple[int, int]:
    """Major and minor of the Triton that is installed, without loading it."""
    major, minor = version("triton").split(".")[:2]
    return int(major), int(minor)


def ptxas_version(target: Target) -> str:
    """The release of the ptxas, of the two that Triton brings, that it compiles with for `target`: such as `12.9.86`.

    Raises MissingPackageError where there is none, MachineError where it cannot be run.
    """
    since = 90 if triton_release() >= (3, 9) else 100  # the newer one is for more than its name says
    tool = nvidia_tool("ptxas-blackwell" if target.sm >= since else "ptxas")
    with machine_told():
        text = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True).stdout
    found = _RELEASE.search(text)
    return found[1] if found else text.strip()


def found_tools() -> list[FoundTool]:
    """Each ptxas that Triton may call, also those that the environment names; nothing is raised."""
    return [_found(name) for name in _NAMED_BY]


def _found(name: str) -> FoundTool:
    try:
        path = os.environ.get(_NAMED_BY[name]) or str(nvidia_tool(name))
    except MissingPackageError as error:
        return FoundTool(name, "", None, str(error))
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=_LIMIT_S)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return FoundTool(name, path, None, f"it cannot be run: {getattr(error, 'strerror', None) or error}")
    found = _RELEASE.search(done.stdout)
    return FoundTool(name, path, found[1] if found else None, None if found else "it does not say its release")
