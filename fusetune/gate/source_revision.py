"""Captured kernels as another revision of their repository has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fusetune.capture.from_source import KernelPlace, KernelSource, NoKernel, kernels_from_source
from fusetune.core.config import Config
from fusetune.core.target import Target
from fusetune.errors import UsageError
from fusetune.gate.against import Revision
from fusetune.gate.repository import check_out, commit_of, repository_of, told_revision
from fusetune.ops.spec import KernelSpec

_PYTHON = ":(glob)**/*.py"


class SourceRevision:
    """A revision for kernels of programs, and for the ops of `own`, where some are gated beside them. See Against."""

    def __init__(self, name: str, own: Revision | None = None) -> None:
        self.name, self._own = name, own

    def beside(self, spec: KernelSpec, op: str) -> KernelSpec:
        """See Against: of ops that are no kernels of programs."""
        if self._own is None:
            raise UsageError(f"--against has no other revision of the op {op}")
        return self._own.beside(spec, op)

    def config(self, config: Config) -> Config:
        """See Against."""
        return config.elsewhere()


def kernels_at(
    revision: str, places: Mapping[Path, KernelPlace], target: Target, folder: Path
) -> tuple[str, dict[Path, KernelSource | NoKernel]]:
    """The revision for people, and the kernels as it has them, by the same keys; files go below `folder`.

    Each file is looked for in the git repository that it lies in. The repository learns nothing of it. Raises
    UsageError where there is no git, no repository or no such revision, and as `kernels_from_source` does.
    """
    name, found = revision, dict[Path, KernelSource | NoKernel]()
    trees: dict[Path, Path] = {}
    there: dict[Path, KernelPlace] = {}
    for key, place in places.items():
        file = Path(place.file).resolve()
        repository = repository_of(file.parent)
        if repository not in trees:
            commit = commit_of(repository, revision)
            name = told_revision(revision, commit)
            trees[repository] = folder / f"tree-{len(trees)}"
            check_out(repository, commit, trees[repository], _PYTHON)
        there[key] = KernelPlace(place.kernel, str(trees[repository] / file.relative_to(repository)))
    for number, tree in enumerate(trees.values()):
        own = {key: place for key, place in there.items() if Path(place.file).is_relative_to(tree)}
        made = kernels_from_source(list(own.values()), folder / f"kernels-{number}", target)
        found |= {key: made[place] for key, place in own.items()}
    return name, found
