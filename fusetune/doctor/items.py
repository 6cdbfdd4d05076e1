"""What `fusetune doctor --kernels` tries on a GPU: problems of every installed op, each with the configs to launch."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusetune.core.config import Config
from fusetune.core.environment import TargetIdentity
from fusetune.core.problem import Problem
from fusetune.core.space import SpaceName
from fusetune.core.target import Target
from fusetune.doctor.findings import Found, found
from fusetune.errors import ConfigFileError, FusetuneError
from fusetune.ops.before import reference_of
from fusetune.ops.checking import check_spec
from fusetune.ops.loading import spec_named
from fusetune.ops.spec import KernelSpec
from fusetune.store.doctor_file import Recorded, Source
from fusetune.store.lookup import target_differences
from fusetune.store.paths import config_path, shipped_configs
from fusetune.store.regular import is_regular
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.plan import plausible, predictions, references_of
from fusetune.tune.request import SweepRequest

A_VARIANT: Final = 2
"""Configs of each variant at each example: the one that is predicted to be the fastest, and others drawn."""
_SPACE: Final[SpaceName] = "standard"
_NOWHERE: Final = Path()
"""Nothing is written for a request that only lists candidates."""


class Asked(NamedTuple):
    """A config to launch, why, and what a file of configs says of it."""

    config: Config
    source: Source
    recorded: Recorded | None = None


class Item(NamedTuple):
    """A problem of an op, and what to launch at it beside BASELINE."""

    spec: KernelSpec
    problem: Problem
    asked: tuple[Asked, ...]

    @property
    def reference(self) -> Config:
        """What all are compared with: BASELINE."""
        return reference_of(self.spec, self.problem)

    @property
    def configs(self) -> tuple[Config, ...]:
        """All that is launched, BASELINE first."""
        return tuple(dict.fromkeys((self.reference, *(asked.config for asked in self.asked))))


def items_for(
    ops: Sequence[str], target: Target, identity: TargetIdentity, seed: int
) -> tuple[list[Item], list[Found]]:
    """Examples of each op first, each variant at each of them; then the entries of the GPU's shipped files, shuffled.

    So a run that is cut off has seen every variant, and entries of every kind. An op that cannot be used, and a file
    that cannot be read, are findings.
    """
    examples: list[Item] = []
    entries: list[Item] = []
    findings: list[Found] = []
    for op in ops:
        try:
            spec = spec_named(op)
            wanted = spec.examples()
            own = [_example(spec, problem, target, seed) for problem in wanted]
            listed, notes = _entries(spec, identity)
        except FusetuneError as error:
            findings.append(
                found("ops", "note", f"{op} is left out: {error}", "correct it, or uninstall what brings it")
            )
            continue
        findings += notes
        if not wanted and not listed:
            findings.append(found("ops", "note", f"{op} names no examples, and has no shipped configs for this GPU"))
        examples += [_with_entry(item, listed) for item in own]
        met = {item.problem for item in own}
        entries += [Item(spec, problem, (asked,)) for problem, asked in listed.items() if problem not in met]
    random.Random(seed).shuffle(entries)
    return [*examples, *entries], findings


def _example(spec: KernelSpec, problem: Any, target: Target, seed: int) -> Item:
    """A problem, with configs of each of the op's variants and of the libraries that compute the same."""
    check_spec(spec, problem)
    request = SweepRequest(spec=spec, problem=problem, output=_NOWHERE, runs=_NOWHERE, space=_SPACE)
    passed, _ = plausible(request, target)
    asked = [Asked(config, "variant") for config in _of_each_variant(request, passed, target, seed)]
    asked += [Asked(config, "library") for config in references_of(spec, problem)]
    return Item(spec, problem, tuple(one for one in asked if one.config != request.reference))


def _of_each_variant(request: SweepRequest, passed: Sequence[Config], target: Target, seed: int) -> Iterator[Config]:
    """Some configs of each variant; those are of one whose launches have arguments of the same types."""
    predicted = predictions(request, passed, target)
    variants: dict[Hashable, list[Config]] = {}
    for config in passed:
        variants.setdefault(request.spec.signature(request.problem, config), []).append(config)
    rng = random.Random(seed)
    for configs in variants.values():
        best = min(configs, key=lambda config: predicted.get(config, 0.0))
        rest = [config for config in configs if config != best]
        yield best
        yield from rng.sample(rest, min(len(rest), A_VARIANT - 1))


def _entries(spec: KernelSpec, identity: TargetIdentity) -> tuple[dict[Problem, Asked], list[Found]]:
    """What the file that came with fusetune for this GPU holds of an op."""
    shipped = shipped_configs()
    path = None if shipped is None else config_path(shipped, identity.name, spec.name)
    if path is None or not is_regular(path):
        return {}, []
    try:
        file = read_config_file(path)
    except ConfigFileError as error:
        return {}, [found("configs", "note", f"the shipped configs of {spec.name} cannot be read", private=str(error))]
    differences = target_differences(file.target, identity)
    if differences:
        told = f"the shipped configs of {spec.name} are not for this GPU: {'; '.join(differences)}"
        return {}, [found("configs", "note", told)]
    return {entry.problem: Asked(entry.config, "entry", _recorded(spec, entry)) for entry in file.entries}, []


def _recorded(spec: KernelSpec, entry: Entry) -> Recorded:
    times = entry.time_us or entry.predicted_us
    assert times is not None, "the schema gives every entry its times"
    return Recorded(
        evidence=entry.evidence,
        verdict=entry.verdict,
        date=entry.date,
        config_us=times.config,
        baseline_us=times.reference,
        gain=entry.gain.median if entry.gain else None,
        stale=spec.source_hash(entry.config) != entry.environment.kernel_hash,
    )


def _with_entry(item: Item, listed: dict[Problem, Asked]) -> Item:
    """The example with what a file says of the same problem, which takes the place of a variant's config."""
    entry = listed.get(item.problem)
    if entry is None:
        return item
    others = tuple(asked for asked in item.asked if asked.config != entry.config)
    return item._replace(asked=(*others, entry))
