"""Another revision's kernels beside this tree's, in one process, so that both are timed in turns.

The other revision is checked out into a temporary folder and its package imported under another name: Python
holds one module a name, and blocks of two processes could not be interleaved.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.trouble import machine_told
from fusetune.errors import UnsupportedProblemError, UsageError
from fusetune.gate.repository import check_out, commit_of, forget_worktrees, repository_of, told_revision
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import Call, KernelSpec, Launch, Operand, TileDescriptor

_DOORS: Final = (("ops.built_in", "built_in_ops"), ("ops.spec", "BUILT_IN_OPS"), ("kernels.spec", "BUILT_IN_OPS"))
"""Where the table of built-in ops is, and where it was."""
_BARE_IMPORT: Final = r"^(?P<lead>[ \t]*)import {package}[ \t]*$"
_IMPORT: Final = r"^(?P<lead>[ \t]*(?:from|import)[ \t]+){package}(?=[\s.,])"


class Against(Protocol):
    """A revision to be measured against."""

    name: str

    def beside(self, spec: KernelSpec, op: str) -> KernelSpec:
        """A spec that launches `spec`'s kernels, and the other revision's for a config of `config`."""

    def config(self, config: Config) -> Config:
        """The config that means the other revision's kernels, launched alike."""


class Revision:
    """A revision of the repository that holds an op's package, checked out until `close`.

    Raises UsageError where there is no git, no repository, no such revision, or where its op cannot be loaded.
    """

    def __init__(self, revision: str, folder: Path, package: Path | None = None) -> None:
        self._package = package or Path(sys.modules["fusetune"].__file__ or "").resolve().parent
        self._repository = repository_of(self._package)
        commit = commit_of(self._repository, revision)
        self.name = told_revision(revision, commit)
        self._alias = f"{self._package.name}_at_{commit[:12]}"
        self._folder, self._tree = folder, folder / "tree"
        forget_worktrees(self._repository)
        try:
            package = self._package.relative_to(self._repository)
            check_out(self._repository, commit, self._tree, f":(literal){package}")
            with machine_told():
                self._import_under_alias(revision)
        except BaseException:
            self.close()
            raise

    def beside(self, spec: KernelSpec, op: str) -> KernelSpec:
        """See Against."""
        # The spec's own module may be a user's; a name that stands in a file leads to the built-in ops alone.
        module, _, attribute = built_in_ops().get(op, "").partition(":")
        top = self._package.name
        if module != top and not module.startswith(f"{top}."):
            raise UsageError(f"--against compares the kernels of {top}; the op {op} is not among them")
        try:
            module, attribute = self._stood_at(op) or (module, attribute)
            other = getattr(import_module(self._alias + module.removeprefix(top)), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"the op {op} cannot be loaded at {self.name}: {error}") from error
        return BesideSpec(spec, other, self._alias if top == "fusetune" else None)

    def _stood_at(self, op: str) -> tuple[str, str] | None:
        """Module and attribute of a built-in op at that revision, which may have had another house; None for others."""
        for door, name in _DOORS:
            with contextlib.suppress(ModuleNotFoundError):
                found = getattr(import_module(f"{self._alias}.{door}"), name)
                table: Mapping[str, str] = found() if callable(found) else found
                module, _, attribute = table.get(op, "").partition(":")
                return (module, attribute) if module else None
        return None

    def config(self, config: Config) -> Config:
        """See Against."""
        return config.elsewhere()

    def close(self) -> None:
        """Remove the files of the revision and the modules that were imported from them."""
        for name in [name for name in sys.modules if name == self._alias or name.startswith(f"{self._alias}.")]:
            del sys.modules[name]
        if str(self._folder) in sys.path:
            sys.path.remove(str(self._folder))
        shutil.rmtree(self._tree, ignore_errors=True)
        shutil.rmtree(self._folder / self._alias, ignore_errors=True)

    def __enter__(self) -> Revision:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _import_under_alias(self, revision: str) -> None:
        source = self._tree / self._package.relative_to(self._repository)
        if not source.is_dir():
            raise UsageError(f"there is no {source.relative_to(self._tree)} at {revision}; name a later revision")
        package = self._folder / self._alias
        shutil.copytree(source, package)
        name = re.escape(self._package.name)
        statement = re.compile(_IMPORT.format(package=name), re.MULTILINE)
        bare = re.compile(_BARE_IMPORT.format(package=name), re.MULTILINE)
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            text = bare.sub(rf"\g<lead>import {self._alias} as {self._package.name}", text)
            path.write_text(statement.sub(rf"\g<lead>{self._alias}", text), encoding="utf-8")
        # First on the path, where the measuring process, which is given this one's path, finds it too.
        sys.path.insert(0, str(self._folder))
        invalidate_caches()


class BesideSpec(KernelSpec):
    """A KernelSpec of two revisions: a config that is `elsewhere` is launched by the other one.

    Everything but the launches and what they need is this revision's: inputs, reference, tolerance. `alias` is the name
    of the other revision's own package of types, None where both share this one's.
    """

    def __init__(self, spec: KernelSpec, other: KernelSpec, alias: str | None) -> None:
        self._spec, self._other, self._alias = spec, other, alias
        self.name, self.space, self.types, self.staged_loads = spec.name, spec.space, spec.types, spec.staged_loads

    def __getattribute__(self, name: str) -> Any:
        """Of the door's members, those that are not written here are this revision's."""
        if name in KernelSpec.__dict__ and not name.startswith("_") and name not in _OF_BOTH:
            return getattr(object.__getattribute__(self, "_spec"), name)
        return object.__getattribute__(self, name)

    def workspace(self, problem: Problem, config: Config) -> tuple[Operand, ...]:
        """What the revision that the config names needs."""
        spec, problem, config = self._of(problem, config)
        return tuple(
            Operand(item.name, tuple(item.shape), item.dtype, item.role, item.mean, item.std)
            for item in spec.workspace(problem, config)
        )

    def constants(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the revision that the config names computes of the inputs."""
        spec, problem, config = self._of(problem, config)
        return spec.constants(problem, config, tensors)

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch | Call]:
        """Those of the revision that the config names, in this one's types.

        Raises CannotLaunchError where the other revision says that it does not support the config.
        """
        spec, problem, config = self._of(problem, config)
        if spec is self._spec:
            return self._spec.launches(problem, config, tensors)
        try:
            return [_as_ours(launch) for launch in spec.launches(problem, config, tensors)]
        except Exception as error:
            # The other revision's class of that name, which is none of this one's.
            if type(error).__name__ != UnsupportedProblemError.__name__:
                raise
            raise CannotLaunchError(str(error)) from error

    def deterministic(self, config: Config) -> bool:
        """What the revision that the config names says."""
        return (self._other if config.is_elsewhere else self._spec).deterministic(config)

    def _of(self, problem: Problem, config: Config) -> tuple[KernelSpec, Any, Any]:
        """The spec of the revision that a config names, and problem and config in that revision's own types."""
        if not config.is_elsewhere:
            return self._spec, problem, config
        config = config.here()
        if self._alias is None:
            return self._other, problem, config
        types = _types_at(self._alias, self._other)
        asked: list[Any] = [problem, config]
        try:
            converted: list[Any] = [
                kind.from_builtins(value.to_builtins())
                if hasattr(kind, "from_builtins")
                else msgspec.convert(value.to_builtins(), kind)
                for value, kind in zip(asked, types, strict=True)
            ]
        except ValueError as error:  # a ValidationError, or what a type of that revision says of a value
            raise CannotLaunchError(f"the other revision does not know {config.label()}: {error}") from error
        return self._other, converted[0], converted[1]


_OF_BOTH: Final = frozenset({"name", "space", "types", "staged_loads"}) | {
    name for name in vars(BesideSpec) if not name.startswith("_")
}


def _types_at(alias: str, spec: KernelSpec) -> tuple[Any, Any]:
    """That revision's types of problems and configs: its op's own, or those that all ops shared before they had any."""
    own = getattr(spec, "types", None)
    if own is not None:
        return own.problem, own.config
    return import_module(f"{alias}.core.problem").Problem, import_module(f"{alias}.core.config").Config


def _as_ours(launch: Any) -> Launch | Call:
    """A launch in this revision's types, which the measuring session asks for by name."""
    if hasattr(launch, "function"):
        return Call(launch.function, launch.arguments)
    arguments = {
        name: TileDescriptor(value.tensor, tuple(value.block_shape), getattr(value, "rounds", False))
        if hasattr(value, "block_shape")
        else value
        for name, value in launch.arguments.items()
    }
    return Launch(launch.kernel, tuple(launch.grid), arguments, launch.constants, launch.options)
