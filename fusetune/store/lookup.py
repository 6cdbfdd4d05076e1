"""Which config to use for a problem, from files that were read before: no GPU, no disk, no screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusetune.core.brief import brief
from fusetune.core.config import Config
from fusetune.core.decision import reason_text, reference_name
from fusetune.core.problem import Problem
from fusetune.core.text import slugify
from fusetune.errors import ConfigFileError
from fusetune.store.indexed import IndexedFile, index_of
from fusetune.store.schema import ConfigFile, Entry, Environment, TargetIdentity
from fusetune.units import format_gain, format_interval

Rung = Literal["exact", "nearest", "baseline"]

MOST_TOLD: Final = 8
"""Entries that were passed over of which a look-up says so; of more it says how many."""

Unfit = Callable[[Entry], str | None]
"""Why an entry cannot be used for what is asked; None where it can."""

_TOLD_DIFFERENCES: Final = ("driver", "cuda", "torch", "triton", "ptxas")


class Lookup(msgspec.Struct, frozen=True):
    """The config to use and how it was found.

    `skipped` says why entries that would have come first were not used, `differences` how the environment of the
    entry in use differs from the one at hand, `damaged` what is wrong with entries that cannot be read or believed; all
    are sentences for people, MOST_TOLD of each at most. `file` and `entry` are None for BASELINE.
    """

    config: Config
    rung: Rung
    file: Path | None = None
    entry: Entry | None = None
    skipped: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    def explain(self) -> str:
        """A few lines for people: the config, the rung, the evidence, what differs and what was passed over."""
        lines = [f"{self.config.label()}: {self.reason}"]
        if self.entry is not None:
            entry = self.entry
            lines.append(f"  file: {self.file}")
            lines.append(f"  {entry.evidence}, {entry.verdict}: {reason_text(entry.reason, entry.before)}")
            if entry.gain is not None:
                gain, interval = format_gain(entry.gain.median), format_interval(entry.gain.low, entry.gain.high)
                whose = "gain" if entry.verdict == "keep" else "gain of the best one tried"
                name = reference_name(entry.before)
                lines.append(f"  {whose} over {name}: {gain}, {interval}, run {entry.run}")
            library = entry.library_text()
            lines += [f"  {library}"] if library else []
        lines += [f"  differs: {difference}" for difference in self.differences]
        lines += [f"  not used: {reason}" for reason in (*self.skipped, *self.damaged)]
        return "\n".join(lines)

    def __str__(self) -> str:
        """What `explain` says: `print` shows it."""
        return self.explain()

    @property
    def reason(self) -> str:
        """Why it is this config, in half a line."""
        if self.entry is None:
            return "BASELINE, because no entry fits this problem on this GPU"
        if self.rung == "exact":
            return "the entry for exactly this problem"
        sizes = ", ".join(f"{name}={size}" for name, size in self.entry.problem.sizes().items())
        return f"the entry for {sizes}, the nearest in the same power-of-two bucket"


def lookup(
    files: Sequence[tuple[Path, ConfigFile | IndexedFile]],
    op: str,
    problem: Problem,
    identity: TargetIdentity,
    environment: Environment,
    *,
    allow_predicted: bool = False,
    baseline: Callable[[], Config],
    source_hash: Callable[[Config], str] | None = None,
    unfit: Unfit | None = None,
    refused: Unfit | None = None,
) -> Lookup:
    """The config for a problem on the GPU and in the environment at hand, from the first rung that answers.

    exact: an entry for this problem. nearest: one that differs only in sizes that the op lets differ, each from the
    same power-of-two bucket. baseline: what `baseline` gives. On one rung earlier files win. Entries of another GPU
    or of another kernel source are never used, predicted ones only with `allow_predicted`. `source_hash` gives the hash
    of a config's kernels, where they do not all have that of `environment`. An entry that is `unfit` is damaged,
    whoever may use it; one that is `refused` cannot be used here.
    """
    found = []
    wanted = problem.sizes()
    for position, (path, given) in enumerate(files):
        file = index_of(given) if isinstance(given, ConfigFile) else given
        if file.op == op:
            for sizes, number in file.candidates(problem):
                found.append((_rank(sizes, wanted, position), number, path, file))
    skipped: list[str] = []
    damaged: list[str] = []
    for rank, number, path, file in sorted(found, key=lambda item: item[0]):
        try:
            entry = file.entry(number)
        except ConfigFileError as error:
            damaged.append(str(error))
            continue
        place = f"{brief(path)}, entries[{number}] ({entry.problem.describe()})"
        obstacle = _of_another_gpu(file, identity)
        if obstacle is None:
            # Before its variant's kernels are asked for their hash: there may be none.
            why = unfit(entry) if unfit else None
            if why is not None:
                damaged.append(f"{place}: nothing can launch {brief(entry.config.label())}: {brief(why)}")
                continue
            kernel_hash = source_hash(entry.config) if source_hash else environment.kernel_hash
            obstacle = entry_obstacle(entry, kernel_hash, allow_predicted) or (refused(entry) if refused else None)
        if obstacle is not None:
            skipped.append(f"{place}: {obstacle}")
            continue
        rung: Rung = "nearest" if rank[0] else "exact"
        differences = environment_differences(entry.environment, environment)
        return Lookup(entry.config, rung, path, entry, _some(skipped), differences, _some(damaged))
    return Lookup(baseline(), "baseline", skipped=_some(skipped), damaged=_some(damaged))


def _some(told: Sequence[str]) -> tuple[str, ...]:
    """As many as anybody reads, and as are kept for each problem that is asked for."""
    if len(told) <= MOST_TOLD:
        return tuple(told)
    return (*told[: MOST_TOLD - 1], f"and {len(told) - MOST_TOLD + 1} more entries, for such reasons")


def target_differences(in_file: TargetIdentity, here: TargetIdentity) -> tuple[str, ...]:
    """In what a file's GPU differs from the one at hand; empty when it is the same.

    Names are compared as folder names are made from them, and whole: a GeForce RTX 4090 D is not a GeForce RTX 4090.
    """
    differences = []
    if slugify(in_file.name) != slugify(here.name):
        differences.append(f"it is for {brief(in_file.name)}, this GPU is {here.name}")
    if in_file.capability != here.capability:
        differences.append(f"it is for compute capability {brief(in_file.capability)}, this GPU has {here.capability}")
    if in_file.sms != here.sms:
        differences.append(f"it is for {in_file.sms} SMs, this GPU has {here.sms}")
    return tuple(differences)


def _rank(sizes: Mapping[str, int], wanted: Mapping[str, int], position: int) -> tuple[bool, int, float, list[int]]:
    """Smallest is best: exact, then earlier files, then the nearest by |log(size / size')|, then the larger."""
    # The ratio orders as its logarithm does, and equal ratios stay equal where rounded logarithms may not.
    ratio = math.prod(max(size, wanted[name]) / min(size, wanted[name]) for name, size in sizes.items())
    return (sizes != wanted, position, ratio, [-size for size in sizes.values()])


def _of_another_gpu(file: IndexedFile, identity: TargetIdentity) -> str | None:
    return "; ".join(target_differences(file.target, identity)) or None


def entry_obstacle(entry: Entry, kernel_hash: str, allow_predicted: bool) -> str | None:
    """Why an entry may not be used here, or None."""
    if entry.environment.kernel_hash != kernel_hash:
        return (
            f"the kernel source has changed since ({brief(entry.environment.kernel_hash)} then, "
            f"{kernel_hash} now); run `fusetune sweep` again"
        )
    if entry.evidence == "predicted" and not allow_predicted:
        return "it is predicted, not measured, and predicted entries are used on request only"
    return None


def environment_differences(in_file: Environment, here: Environment) -> tuple[str, ...]:
    """What is known on both sides and not the same."""
    differences = []
    for name in _TOLD_DIFFERENCES:
        then, now = getattr(in_file, name), getattr(here, name)
        if then is not None and now is not None and then != now:
            differences.append(f"{name} {now}, file has {brief(then)}")
    return tuple(differences)
