"""What a look-up asks of an op, with as little of it loaded as there can be: neither torch nor Triton where it can be.

A built-in op's types say it. Of a user's own it was written down when the user named it (`ops/approved.py`), and holds
while its files are what they were. Otherwise the op's spec is loaded.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fusetune.core.config import Config
from fusetune.core.environment import Environment
from fusetune.core.problem import Problem
from fusetune.ops.approved import approved
from fusetune.ops.loading import spec_named
from fusetune.ops.spec import KernelSpec
from fusetune.ops.types import NAMED, types_of


def problem_of(op: str, values: Mapping[str, Any]) -> Problem:
    """The problem of these values. Raises UnsupportedProblemError for what is none of the op."""
    types = types_of(op)
    known = approved(op)
    if types is not NAMED or (known is not None and known[1].plain):
        return types.make(values)
    return _spec(op).problem(values)


def baseline_of(op: str, problem: Problem) -> Config:
    """The op's BASELINE for a problem."""
    of_types = types_of(op).baseline
    return of_types(problem) if of_types else _spec(op).baseline(problem)


@functools.lru_cache(maxsize=256)  # of a user's own op, a file may hold any config
def source_hash(op: str, config: Config | None = None) -> str:
    """The hash of the code that an op launches for a config, or of all its code."""
    of_types = types_of(op).source_hash
    if of_types is not None:
        return of_types(op, config)
    known = approved(op)
    return (known[1].unchanged_hash() if known is not None else None) or _spec(op).source_hash(config)


def unlaunchable(op: str, problem: Problem, config: Config) -> str | None:
    """Why an op cannot launch a config for a problem on any GPU; None where nothing is known."""
    of_types = types_of(op).unfit
    if of_types is not None:
        return of_types(op, problem, config)
    known = approved(op)
    return None if known is not None and known[1].plain else _spec(op).unlaunchable(problem, config)


@functools.lru_cache(maxsize=64)
def environment(op: str) -> Environment:
    """The software of this process, and the hash of all code of an op."""
    return software(source_hash(op))


def software(kernel_hash: str) -> Environment:
    """The software of this process beside the hash of some kernels."""
    return Environment(triton=version("triton"), kernel_hash=kernel_hash, torch=_torch_version(), cuda=_cuda_version())


@functools.lru_cache(maxsize=64)
def _spec(op: str) -> KernelSpec:
    return spec_named(op)


def _torch_version() -> str | None:
    """As PyTorch says itself: what is installed may be called by less, 2.11.0 for 2.11.0+cu130."""
    loaded = sys.modules.get("torch")
    if loaded is not None:
        return str(loaded.__version__)
    told = re.search(r"^__version__\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", _version_of_torch(), re.MULTILINE)
    if told:
        return told[1]
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _cuda_version() -> str | None:
    """Of the CUDA that PyTorch is built with."""
    loaded = sys.modules.get("torch")
    if loaded is not None:
        told: str | None = loaded.version.cuda
        return told
    line = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", _version_of_torch(), re.MULTILINE)
    return line[1] if line else None


def _version_of_torch() -> str:
    """The text of PyTorch's own `version.py`, which is read, not run; nothing where there is none."""
    found = find_spec("torch")
    try:
        return (Path(found.origin or "").parent / "version.py").read_text(encoding="utf-8") if found else ""
    except OSError:
        return ""
