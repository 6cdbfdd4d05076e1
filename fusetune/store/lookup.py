"""Which config to use for a problem, from files that were read before: no GPU, no disk, no screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusetune.core.config import BASELINE, Config
from fusetune.core.decision import REASON_TEXT
from fusetune.core.problem import Problem
from fusetune.core.target import slugify
from fusetune.store.schema import ConfigFile, Entry, Environment, TargetIdentity
from fusetune.units import format_gain, format_interval

Rung = Literal["exact", "nearest_m", "baseline"]

_TOLD_DIFFERENCES: Final = ("driver", "cuda", "torch", "triton", "ptxas")


class Lookup(msgspec.Struct, frozen=True):
    """The config to use and how it was found.

    `skipped` says why entries that would have come first were not used, `differences` how the environment of the
    entry in use differs from the one at hand; both are sentences for people. `file` and `entry` are None for BASELINE.
    """

    config: Config
    rung: Rung
    file: Path | None = None
    entry: Entry | None = None
    skipped: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def explain(self) -> str:
        """A few lines for people: the config, the rung, the evidence, what differs and what was passed over."""
        lines = [f"{self.config.label()}: {self._why()}"]
        if self.entry is not None:
            entry = self.entry
            lines.append(f"  file: {self.file}")
            lines.append(f"  {entry.evidence}, {entry.verdict}: {REASON_TEXT[entry.reason]}")
            if entry.gain is not None:
                gain, interval = format_gain(entry.gain.median), format_interval(entry.gain.low, entry.gain.high)
                whose = "gain" if entry.verdict == "keep" else "gain of the best one tried"
                lines.append(f"  {whose} over BASELINE: {gain}, {interval}, run {entry.run}")
            library = entry.library_text()
            lines += [f"  {library}"] if library else []
        lines += [f"  differs: {difference}" for difference in self.differences]
        lines += [f"  not used: {reason}" for reason in self.skipped]
        return "\n".join(lines)

    def _why(self) -> str:
        if self.entry is None:
            return "BASELINE, because no entry fits this problem on this GPU"
        if self.rung == "exact":
            return "the entry for exactly this problem"
        return f"the entry for M={self.entry.problem.M}, the nearest M in the same power-of-two bucket"


def lookup(
    files: Sequence[tuple[Path, ConfigFile]],
    op: str,
    problem: Problem,
    identity: TargetIdentity,
    environment: Environment,
    *,
    allow_predicted: bool = False,
) -> Lookup:
    """The config for a problem on the GPU and in the environment at hand, from the first rung that answers.

    exact: an entry for this problem. nearest_m: one that differs in M only, from the same power-of-two bucket.
    baseline: BASELINE. On one rung earlier files win. Entries of another GPU or of another kernel source are never
    used, predicted ones only with `allow_predicted`.
    """
    found = [
        (_rank(entry.problem.M, problem.M, position), path, file, index, entry)
        for position, (path, file) in enumerate(files)
        if file.op == op
        for index, entry in enumerate(file.entries)
        if _same_bucket(entry.problem, problem)
    ]
    skipped: list[str] = []
    for rank, path, file, index, entry in sorted(found, key=lambda item: item[0]):
        obstacle = _obstacle(file, entry, identity, environment, allow_predicted)
        if obstacle is not None:
            skipped.append(f"{path}, entries[{index}] ({entry.problem.describe()}): {obstacle}")
            continue
        rung: Rung = "nearest_m" if rank[0] else "exact"
        differences = _environment_differences(entry.environment, environment)
        return Lookup(entry.config, rung, path, entry, tuple(skipped), differences)
    return Lookup(BASELINE, "baseline", skipped=tuple(skipped))


def target_differences(in_file: TargetIdentity, here: TargetIdentity) -> tuple[str, ...]:
    """In what a file's GPU differs from the one at hand; empty when it is the same.

    Names are compared as folder names are made from them, and whole: a GeForce RTX 4090 D is not a GeForce RTX 4090.
    """
    differences = []
    if slugify(in_file.name) != slugify(here.name):
        differences.append(f"it is for {in_file.name}, this GPU is {here.name}")
    if in_file.capability != here.capability:
        differences.append(f"it is for compute capability {in_file.capability}, this GPU has {here.capability}")
    if in_file.sms != here.sms:
        differences.append(f"it is for {in_file.sms} SMs, this GPU has {here.sms}")
    return tuple(differences)


def _same_bucket(candidate: Problem, wanted: Problem) -> bool:
    same_but_m = msgspec.structs.replace(candidate, M=wanted.M) == wanted
    # (2^(b-1), 2^b] has one bit length once its ends are lowered by one.
    return same_but_m and (candidate.M - 1).bit_length() == (wanted.M - 1).bit_length()


def _rank(candidate_m: int, wanted_m: int, file_position: int) -> tuple[bool, int, float, int]:
    """Smallest is best: exact, then earlier files, then the nearest M by |log(M / M')|, then the larger M."""
    # The ratio orders as its logarithm does, and equal ratios stay equal where rounded logarithms may not.
    ratio = max(candidate_m, wanted_m) / min(candidate_m, wanted_m)
    return (candidate_m != wanted_m, file_position, ratio, -candidate_m)


def _obstacle(
    file: ConfigFile, entry: Entry, identity: TargetIdentity, environment: Environment, allow_predicted: bool
) -> str | None:
    """Why an entry may not be used here, or None."""
    differences = target_differences(file.target, identity)
    if differences:
        return "; ".join(differences)
    if entry.environment.kernel_hash != environment.kernel_hash:
        return (
            f"the kernel source has changed since ({entry.environment.kernel_hash} then, "
            f"{environment.kernel_hash} now); run `fusetune sweep` again"
        )
    if entry.evidence == "predicted" and not allow_predicted:
        return "it is predicted, not measured, and predicted entries are used on request only"
    return None


def _environment_differences(in_file: Environment, here: Environment) -> tuple[str, ...]:
    """What is known on both sides and not the same."""
    differences = []
    for name in _TOLD_DIFFERENCES:
        then, now = getattr(in_file, name), getattr(here, name)
        if then is not None and now is not None and then != now:
            differences.append(f"{name} {now}, file has {then}")
    return tuple(differences)
