"""Which config a call uses: files read once, looked up once a problem, and never changed behind the user's back."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import Problem
from fusetune.core.target import find_target
from fusetune.core.text import OP_NAME, printable
from fusetune.errors import ConfigFileError, MissingConfigError, NoUsableGpuError
from fusetune.ops.built_in import default_op
from fusetune.ops.device import gpu_identity, identity_by_driver
from fusetune.ops.loading import spec_named
from fusetune.runtime import facts
from fusetune.runtime.believed import unfit_for_op
from fusetune.store.indexed import IndexedFile, open_config_file
from fusetune.store.lookup import Lookup, lookup
from fusetune.store.paths import config_path, reachable_search_path
from fusetune.store.regular import is_folder, is_there, reason
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file

_LOG: Final = logging.getLogger(__name__)

MOST_FOUND: Final = 4096
"""So many look-ups are kept, 2 MB; then all are made anew, since a process with more has no hot ones."""
MOST_WARNINGS: Final = 20
"""So much is said of the files of one source; after that, that there is more."""

_PACKAGE: Final = f"{Path(__file__).resolve().parents[1]}{os.sep}"

_Key = tuple[str, Problem, TargetIdentity]
_Read = tuple[tuple[tuple[Path, IndexedFile], ...], tuple[str, ...]]
"""Files, and what is said of others that cannot be used."""


class ConfigSource:
    """Tuned configs from a search path or from one file, and the look-ups made in them so far.

    Threads may share it. What cannot be reached, read or believed is left out with one warning, unless `strict`.
    """

    def __init__(self, path: Path | None = None, *, strict: bool = False, allow_predicted: bool = False) -> None:
        self._path, self.strict, self.allow_predicted = path, strict, allow_predicted
        self._lock = threading.Lock()
        self._warning = threading.Lock()
        self._files: dict[tuple[str, TargetIdentity], _Read] = {}
        self._found: dict[_Key, Lookup] = {}
        self._used: dict[_Key, Lookup] = {}
        self._refused: dict[_Key, dict[Config, str]] = {}
        self._warned: frozenset[str] = frozenset()

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
            files, troubles = self._read_once(op, identity)
            found = self._found.get(key)
            if found is None:
                found = self._look_up(files, key)
                _keep(self._found, key, found)
        if found.damaged and self.strict:
            raise ConfigFileError(found.damaged[0])
        if self.strict and found.rung == "baseline":
            raise MissingConfigError(
                f"no tuned config of {op} for {problem.describe()} on {identity.name}; run `{_sweep(op, problem)}` "
                f"there.\n{found.explain()}"
            )
        # Outside the lock: what hears warnings may look up something itself, or raise.
        for trouble in troubles:
            self.warn(trouble)
        if found.damaged:
            others = f" ({len(found.damaged) - 1} more like it)" if len(found.damaged) > 1 else ""
            self.warn(f"fusetune does not use a damaged entry and looks further: {found.damaged[0]}{others}")
        if found.differences:
            self.warn(
                f"fusetune uses {brief(found.file)} although its environment differs "
                f"({'; '.join(found.differences)}); sweep again to be sure of its gain"
            )
        _keep(self._used, key, found)
        _LOG.info("%s %s: %s, %s", op, problem.describe(), found.config.label(), found.reason)
        return found

    def refuse(self, op: str, problem: Problem, identity: TargetIdentity, config: Config, why: str) -> None:
        """Take the config for one that cannot be launched here for this problem, and say so once for each entry.

        The next look-up goes on to the next entry.
        """
        key = (op, problem, identity)
        with self._lock:
            found = self._found.get(key)
            if len(self._refused) >= MOST_FOUND:
                self._refused.clear()
            self._refused.setdefault(key, {})[config] = why
            self._found.pop(key, None)
            self._used.pop(key, None)
        entry = found.entry if found is not None and found.config == config else None
        whose = f"{brief(found.file)}, {entry.problem.describe()}: " if found is not None and entry is not None else ""
        self.warn(
            f"fusetune does not use {whose}{brief(config.label())}, which cannot be launched here ({why}), and looks "
            "further; sweep again with this software"
        )

    @staticmethod
    def environment(op: str) -> Environment:
        """The software and the kernels of this process, which entries are held against."""
        return facts.environment(op)

    def files(self, op: str, identity: TargetIdentity) -> tuple[tuple[Path, IndexedFile], ...]:
        """The files that a look-up reads, first one first, read once."""
        with self._lock:
            files, troubles = self._read_once(op, identity)
        for trouble in troubles:
            self.warn(trouble)
        return files

    def _look_up(self, files: tuple[tuple[Path, IndexedFile], ...], key: _Key) -> Lookup:
        op, problem, identity = key
        refused = self._refused.get(key, {})

        def obstacle(entry: Entry) -> str | None:
            why = refused.get(entry.config)
            return None if why is None else f"it cannot be launched here ({why})"

        return lookup(
            files,
            op,
            problem,
            identity,
            self.environment(op),
            allow_predicted=self.allow_predicted,
            baseline=functools.partial(facts.baseline_of, op, problem),
            source_hash=functools.partial(facts.source_hash, op),
            unfit=lambda entry: facts.unlaunchable(op, problem, entry.config),
            refused=obstacle,
        )

    def _read_once(self, op: str, identity: TargetIdentity) -> _Read:
        """The caller holds the lock."""
        key = (op, identity)
        read = self._files.get(key)
        if read is None:
            _refuse_no_name(op)  # before it is part of a path, or is kept
            read = self._files[key] = self._read(op, identity)
        return read

    def _read(self, op: str, identity: TargetIdentity) -> _Read:
        files: list[tuple[Path, IndexedFile]] = []
        paths, troubles = self._paths(op, identity)
        told = [f"fusetune looks for tuned configs elsewhere: {trouble}" for trouble in troubles]
        if troubles and self.strict:
            raise ConfigFileError(troubles[0])
        for path in paths:
            try:
                files.append((path, open_config_file(path)))
            except ConfigFileError as error:
                if self.strict:
                    raise
                told.append(f"fusetune does not use a damaged file and falls back to BASELINE: {error}")
        return tuple(files), tuple(told)

    def _paths(self, op: str, identity: TargetIdentity) -> tuple[list[Path], list[str]]:
        """The files to read, and what is wrong with places where there may be one."""
        if self._path is not None and not is_folder(self._path):
            return [self._path], []
        roots, troubles = reachable_search_path() if self._path is None else ([self._path], [])
        paths = []
        for root in roots:
            path = config_path(root, identity.name, op)
            try:
                paths += [path] if is_there(path) else []
            except OSError as error:
                troubles.append(f"cannot look for {brief(path)}: {reason(error)}; see that its folder can be read")
        return paths, troubles

    def warn(self, text: str) -> None:
        """Say this once, and no more than MOST_WARNINGS of such sentences."""
        with self._warning:
            told = text in self._warned or len(self._warned) > MOST_WARNINGS
            if len(self._warned) == MOST_WARNINGS and not told:
                text = "fusetune finds more that is damaged, and says no more of it; `fusetune.explain` does"
            if not told:
                self._warned |= {text}
        if not told:
            warnings.warn(printable(text), RuntimeWarning, stacklevel=_users_level())


def _users_level() -> int:
    """What `stacklevel` of the caller's warning points to the code of the user: the first frame outside of fusetune."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def _refuse_no_name(op: str) -> None:
    """Raise UsageError for what is no op's name. Whether it is one's is asked where something of the op is needed."""
    if not isinstance(op, str) or not re.match(OP_NAME, op):
        spec_named(str(op))


def _keep(kept: dict[_Key, Lookup], key: _Key, found: Lookup) -> None:
    if len(kept) >= MOST_FOUND:
        kept.clear()
    kept[key] = found


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
    if where is not None:
        _refuse_absent(where)
    if where is not None and not is_folder(where) and strict:
        read_config_file(where, unfit=unfit_for_op)
    _source = ConfigSource(where, strict=strict, allow_predicted=allow_predicted)
    _tell_dependents()


def _refuse_absent(path: Path) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigFileError(
            f"{brief(path)}: no such file or folder; `fusetune sweep` writes configs/<gpu>/<op>.yaml"
        ) from error
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise ConfigFileError(f"cannot load {brief(path)}: {why}; name a file or folder that can be read") from error


def reload() -> None:
    """Read the files again at the next call: a file changed on disk is never picked up otherwise.

    What calls have made of configs and of tensors is made anew, too: folded weights, for one.
    """
    global _source  # noqa: PLW0603
    _source = ConfigSource(_source._path, strict=_source.strict, allow_predicted=_source.allow_predicted)
    _tell_dependents()


_dependents: list[Callable[[], None]] = []


def forget_at_load(forget: Callable[[], None]) -> Callable[[], None]:
    """Have `forget` called whenever other configs have been loaded: it drops what was made with those of before.

    What is returned ends that.
    """
    _dependents.append(forget)
    return lambda: _dependents.remove(forget)


def _tell_dependents() -> None:
    for forget in tuple(_dependents):
        forget()


def explain_problem(op: str, problem: Problem, target: str | None = None) -> Lookup:
    """Which config a call uses for a problem of an op, and why.

    `target` names a known GPU instead of the one here. Raises NoUsableGpuError where there is none and none is named.
    """
    return active_source().find(op, problem, _identity(target))


def _identity(target: str | None) -> TargetIdentity:
    if target is not None:
        known = find_target(target)
        return TargetIdentity(name=known.name, capability=known.capability, sms=known.sms)
    if "torch" not in sys.modules:
        found = identity_by_driver()
        if found is None:
            raise NoUsableGpuError("there is no CUDA GPU here; name one, as in target='rtx4090'")
        return found
    import torch

    if not torch.cuda.is_available():
        raise NoUsableGpuError(f"{why_no_gpu()}; name one, as in explain(..., target='rtx4090')")
    return device_identity(torch.cuda.current_device())


def why_no_gpu() -> str:
    """Why PyTorch finds no GPU, in half a sentence."""
    import torch

    return "there is no CUDA GPU here" if torch.version.cuda else "this PyTorch is built without CUDA"


def _sweep(op: str, problem: Problem) -> str:
    named = "" if op == default_op() else f"--op {op} "
    return f"fusetune sweep {named}{problem.options()}"


@functools.cache
def device_identity(index: int) -> TargetIdentity:
    """The GPU behind a CUDA device index, asked for once."""
    return gpu_identity(index)


def config_for(op: str, problem: Problem, device_index: int) -> Config:
    """The config that a call uses on a CUDA device."""
    return active_source().find(op, problem, device_identity(device_index)).config


def refuse_config(op: str, problem: Problem, device_index: int, config: Config, why: str) -> None:
    """Remember, until configs are loaded again, that this one cannot be launched for a problem on a CUDA device."""
    active_source().refuse(op, problem, device_identity(device_index), config, why)
