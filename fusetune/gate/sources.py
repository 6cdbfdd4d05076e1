"""The specs of the files of configs that are for kernels of programs: from the source as it is now, or a capture.

What a file alone names is never imported: only what a command was given, as files, folders and packages.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fusetune.capture.captures import kept_cases
from fusetune.capture.from_source import KernelPlace, KernelSource, NoKernel, kernels_from_source
from fusetune.capture.pinned import LaunchPinned, NotPinnedError, PinnedSpec, launch_pinned
from fusetune.capture.spec import CapturedSpec
from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.target import Target
from fusetune.errors import CaptureError, UsageError
from fusetune.gate.pins import PinFile
from fusetune.ops.approved import file_from_file
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import Launch, abstract_tensors
from fusetune.store.schema import ConfigFile, Entry


class Sources:
    """Kernels of programs that a command may import, by files, folders and packages; copies go below `folder`."""

    def __init__(self, named: Sequence[str], folder: Path) -> None:
        self._named = [one for name in named for one in _places(name)]
        self._folder, self._calls = folder, 0

    def kernels(self, files: Sequence[tuple[Path, ConfigFile, Target]]) -> dict[Path, KernelSource | NoKernel]:
        """The kernel of each file of configs, as its source has it now, or else as a kept capture does.

        Raises UsageError where a file was not named, and as `kernels_from_source` does.
        """
        places = self.places([(path, file) for path, file, _ in files])
        found: dict[Path, KernelSource | NoKernel] = {}
        for target in {target.name: target for *_, target in files}.values():
            own = [path for path, _, of in files if of.name == target.name]
            self._calls += 1
            made = kernels_from_source([places[path] for path in own], self._folder / str(self._calls), target)
            found |= {path: made[places[path]] for path in own}
        ops = {path: file.op for path, file, _ in files}
        for path, one in found.items():
            if isinstance(one, NoKernel) and one.never:
                found[path] = _of_capture(ops[path]) or one
        return found

    def places(self, files: Sequence[tuple[Path, ConfigFile]]) -> dict[Path, KernelPlace]:
        """Where the kernel of each file of configs stands. Raises UsageError where a file was not named."""
        return {path: self._place(path, file) for path, file in files}

    def _place(self, path: Path, file: ConfigFile) -> KernelPlace:
        """Where the kernel of a file of configs stands; raises UsageError where nobody named that place."""
        assert file.kernel is not None, "a file of a captured kernel"
        module = file.kernel.partition(":")[0]
        said = Path(file_from_file(file.file, path)) if file.file is not None else None
        for candidate in _candidates(said, module, self._named):
            if self._is_named(candidate) and candidate.is_file():
                return KernelPlace(file.kernel, str(candidate))
        if said is not None and self._is_named(said):
            return KernelPlace(file.kernel, str(said))
        where = brief(file.file if file.file is not None else module)
        raise UsageError(
            f"{path} is for the kernel {brief(file.kernel)} in {where}, which is imported only where you name it "
            f"yourself, with its file, a folder or an installed package: --kernels {where}"
        )

    def _is_named(self, file: Path) -> bool:
        real = file.resolve()
        return any(real == one or one in real.parents for one in self._named)


def _places(name: str) -> Iterator[Path]:
    """The file or folder that a user named, or that of an installed package, which is not imported for that."""
    path = Path(name)
    if path.exists():
        yield path.resolve()
        return
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UsageError(f"--kernels {brief(name)}: there is no such file or folder, and no such package is installed")
    found = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.origin else [])
    yield from (Path(one).resolve() for one in found)


def _candidates(said: Path | None, module: str, named: Sequence[Path]) -> Iterator[Path]:
    """Where a module may stand: where the file says, and as Python has it below what was named."""
    if said is not None:
        yield said
    parts = module.split(".")
    for folder in named:
        for root in (folder, folder.parent if folder.name == parts[0] else folder):
            yield root.joinpath(*parts).with_suffix(".py")
            yield root.joinpath(*parts, "__init__.py")


def is_captured(file: ConfigFile) -> bool:
    """Whether a file of configs is for a kernel of a program."""
    return file.kernel is not None


def pinned_spec(file: ConfigFile, source: KernelSource, pins: PinFile | None) -> PinnedSpec:
    """A file's kernel with the launches that its pins hold."""
    launches = {(pin.problem, pin.config): pin.launch for pin in pins.entries if pin.launch} if pins else {}
    return PinnedSpec(file.op, source, launches)


def launches_of_captures(
    file: ConfigFile, entries: Sequence[Entry], target: Target
) -> Mapping[tuple[Problem, Config], LaunchPinned]:
    """The launches of entries by kept captures of their kernel, the newest first; some may have none."""
    found: dict[tuple[Problem, Config], LaunchPinned] = {}
    for folder in kept_cases():
        try:
            spec = CapturedSpec(folder)
            if spec.name != file.op or spec.kept.unlaunchable is not None:
                continue
            for entry in entries:
                if spec.captured_problem() == entry.problem:
                    found.setdefault((entry.problem, entry.config), launch_of(spec, entry.config, target))
        except (CaptureError, CannotLaunchError, NotPinnedError):
            continue  # Another one may do.
    return found


def launch_of(spec: CapturedSpec, config: Config, target: Target) -> LaunchPinned:
    """What is pinned of a capture's launch with a config.

    Raises CannotLaunchError, CaptureError or NotPinnedError where it cannot be launched, or its arguments have no place
    in a file.
    """
    problem = spec.captured_problem()
    (launch,) = spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
    assert isinstance(launch, Launch), "a capture launches its kernel"
    return launch_pinned(launch)


def _of_capture(op: str) -> KernelSource | None:
    """The kernel of a kept capture, for one that no import reaches."""
    for folder in kept_cases():
        try:
            spec = CapturedSpec(folder)
            if spec.name == op and spec.kept.unlaunchable is None:
                kept = spec.kept
                return KernelSource(str(folder), kept.module, kept.kernel, kept.case.kernel.source_hash or "")
        except CaptureError:
            continue
    return None
