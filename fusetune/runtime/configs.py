"""Which config a call uses: files read once, looked up once a problem, and never changed behind the user's back."""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import Dtype, Mode, Precision, Problem, make_problem
from fusetune.core.target import find_target
from fusetune.errors import ConfigFileError, MissingConfigError, NoUsableGpuError
from fusetune.kernels.device import gpu_identity
from fusetune.kernels.spec import load_spec
from fusetune.runtime.folded import KEPT
from fusetune.store.indexed import IndexedFile, open_config_file
from fusetune.store.lookup import Lookup, lookup
from fusetune.store.paths import config_path, search_path
from fusetune.store.yaml_files import read_config_file

DEFAULT_OP = "gemm_scale"


class ConfigSource:
    """Tuned configs from a search path or from one file, and the look-ups made in them so far.

    Threads may share it. A file that cannot be believed is left out with one warning, unless `strict`.
    """

    def __init__(self, path: Path | None = None, *, strict: bool = False, allow_predicted: bool = False) -> None:
        self._path, self.strict, self._allow_predicted = path, strict, allow_predicted
        self._lock = threading.Lock()
        self._warning = threading.Lock()
        self._files: dict[tuple[str, TargetIdentity], tuple[tuple[Path, IndexedFile], ...]] = {}
        self._found: dict[tuple[str, Problem, TargetIdentity], Lookup] = {}
        self._used: dict[tuple[str, Problem, TargetIdentity], Lookup] = {}
        self._warned: set[str] = set()

    def find(self, op: str, problem: Problem, identity: TargetIdentity) -> Lookup:
        """The look-up for a problem on a GPU, made once.

        Raises MissingConfigError under `strict` where it ends at BASELINE for want of an entry, and ConfigFileError
        under `strict` for a damaged file.
        """
        key = (op, problem, identity)
        found = self._used.get(key)
        if found is not None:  # without a lock: it is there, or not yet
            return found
        with self._lock:
            if key not in self._found:
                files = self.files(op, identity)
                environment = self.environment(op)
                self._found[key] = lookup(
                    files,
                    op,
                    problem,
                    identity,
                    environment,
                    allow_predicted=self._allow_predicted,
                    source_hash=functools.partial(_source_hash, op),
                )
            found = self._found[key]
        if found.damaged and self.strict:
            raise ConfigFileError(found.damaged[0])
        if self.strict and found.rung == "baseline":
            raise MissingConfigError(
                f"no tuned config of {op} for {problem.describe()} on {identity.name}; run `{_sweep(op, problem)}` "
                f"there.\n{found.explain()}"
            )
        for damage in found.damaged:
            self._warn(f"fusetune does not use a damaged entry and looks further: {damage}")
        if found.differences:
            self._warn(
                f"fusetune uses {found.file} although its environment differs ({'; '.join(found.differences)}); "
                "sweep again to be sure of its gain"
            )
        self._used[key] = found
        return found

    @staticmethod
    def environment(op: str) -> Environment:
        """The software and the kernels of this process, which entries are held against."""
        return _environment(op)

    def files(self, op: str, identity: TargetIdentity) -> tuple[tuple[Path, IndexedFile], ...]:
        """The files that a look-up reads, first one first, read once."""
        key = (op, identity)
        if key not in self._files:
            self._files[key] = tuple(self._read(self._paths(op, identity)))
        return self._files[key]

    def _paths(self, op: str, identity: TargetIdentity) -> list[Path]:
        if self._path is not None and not self._path.is_dir():
            return [self._path]
        roots = search_path() if self._path is None else [self._path]
        paths = [config_path(root, identity.name, op) for root in roots]
        return [path for path in paths if path.exists()]

    def _read(self, paths: Sequence[Path]) -> list[tuple[Path, IndexedFile]]:
        files = []
        for path in paths:
            try:
                files.append((path, open_config_file(path)))
            except ConfigFileError as error:
                if self.strict:
                    raise
                self._warn(f"fusetune does not use a damaged file and falls back to BASELINE: {error}")
        return files

    def _warn(self, text: str) -> None:
        with self._warning:
            told, self._warned = text in self._warned, self._warned | {text}
        if not told:
            warnings.warn(text, RuntimeWarning, stacklevel=4)


_source = ConfigSource()


def _after_fork() -> None:
    # A thread that is not in the child may have held them.
    _source._lock, _source._warning = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def active_source() -> ConfigSource:
    """Where calls look up their configs now."""
    return _source


def load(path: str | Path | None = None, *, strict: bool = False, allow_predicted: bool = False) -> None:
    """Take configs from `path`, a YAML file or a folder of `<gpu>/<op>.yaml`, from now on; None: the search path.

    With `strict`, a damaged file, a problem without an entry and predicted evidence raise instead of falling back to
    BASELINE. With `allow_predicted`, predicted entries are used. Raises ConfigFileError where there is no such path,
    and under `strict` at once for a damaged file that is named itself.
    """
    global _source  # noqa: PLW0603 - one process has one source of configs, as it has one search path
    where = None if path is None else Path(path)
    if where is not None and not where.exists():
        raise ConfigFileError(f"{where}: no such file or folder; `fusetune sweep` writes configs/<gpu>/<op>.yaml")
    if where is not None and where.is_file() and strict:
        read_config_file(where)
    _source = ConfigSource(where, strict=strict, allow_predicted=allow_predicted)
    _forget_plans()


def reload() -> None:
    """Read the files again at the next call: a file changed on disk is never picked up otherwise.

    Weights are folded anew, too, where a config folds them.
    """
    global _source  # noqa: PLW0603
    KEPT.forget()
    _source = ConfigSource(_source._path, strict=_source.strict, allow_predicted=_source._allow_predicted)
    _forget_plans()


def _forget_plans() -> None:
    # Without torch nothing has been planned yet, and loading files needs none.
    if "torch" in sys.modules:
        from fusetune.runtime.bound import forget_plans

        forget_plans()


def explain(
    M: int,
    N: int,
    K: int,
    dtype: Dtype = "float32",
    *,
    precision: Precision | None = None,
    mode: Mode | None = None,
    op: str = DEFAULT_OP,
    target: str | None = None,
) -> Lookup:
    """Which config a call with these sizes uses, and why: `print(explain(M=128, N=512, K=1024).explain())`.

    `target` names a known GPU instead of the one here. Raises NoUsableGpuError where there is none and none is named.
    """
    problem = make_problem(M, N, K, dtype, precision, mode)
    return active_source().find(op, problem, _identity(target))


def _identity(target: str | None) -> TargetIdentity:
    if target is not None:
        known = find_target(target)
        return TargetIdentity(name=known.name, capability=known.capability, sms=known.sms)
    import torch

    if not torch.cuda.is_available():
        raise NoUsableGpuError(f"{why_no_gpu()}; name one, as in explain(..., target='rtx4090')")
    return device_identity(torch.cuda.current_device())


def why_no_gpu() -> str:
    """Why PyTorch finds no GPU, in half a sentence."""
    import torch

    return "there is no CUDA GPU here" if torch.version.cuda else "this PyTorch is built without CUDA"


def _sweep(op: str, problem: Problem) -> str:
    command = f"fusetune sweep --M {problem.M} --K {problem.K} --N {problem.N}"
    options = {
        "op": None if op == DEFAULT_OP else op,
        "mode": problem.mode,
        "dtype": None if problem.dtype == "float32" else problem.dtype,
        "precision": None if problem.precision == "tf32" else problem.precision,
    }
    return command + "".join(f" --{name} {value}" for name, value in options.items() if value is not None)


@functools.cache
def device_identity(index: int) -> TargetIdentity:
    """The GPU behind a CUDA device index, asked for once."""
    return gpu_identity(index)


@functools.cache
def _source_hash(op: str, variant: str) -> str:
    return load_spec(op).source_hash(variant)


@functools.cache
def _environment(op: str) -> Environment:
    import torch

    return Environment(
        triton=version("triton"),
        kernel_hash=load_spec(op).source_hash(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
    )


def config_for(op: str, problem: Problem, device_index: int) -> Config:
    """The config that a call uses on a CUDA device."""
    return active_source().find(op, problem, device_identity(device_index)).config
