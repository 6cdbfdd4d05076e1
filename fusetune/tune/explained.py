"""Why a prediction proposes what it does: what the compiler made of each config, which rules fired, what limits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fusetune.core.bound import Bound
from fusetune.core.config import Config
from fusetune.core.diagnosis import Diagnosis
from fusetune.core.resources import Occupancy, Resources, occupancy
from fusetune.core.roofline import Roofline, roofline
from fusetune.core.rules import MAX_PROPOSED, Proposal, Rule, left_out, why_proposed
from fusetune.core.target import Target
from fusetune.errors import OpError, UsageError
from fusetune.store.journal import Candidate, read_run
from fusetune.tune.plan import by_rules
from fusetune.tune.request import SweepRequest, SweepResult

BEFORE: Final = "Before"
BASELINE: Final = "BASELINE"


class Compiled(msgspec.Struct, frozen=True):
    """A config, what it is called, and what the compiler made of it; or why it cannot be used.

    `proposed` says why it is among those to try; None for one that is not.
    """

    config: Config
    names: tuple[str, ...]
    resources: Resources | None
    occupancy: Occupancy | None
    why_not: str | None
    proposed: str | None


class Explanation(msgspec.Struct, frozen=True):
    """What a prediction for one case goes by. `rules_from` names the config that was compiled for the rules.

    `walls` are those of its roofline, None where the table of targets lacks a peak; without operations that were
    counted, all it says of time is bytes over bandwidth. `listed` counts the configs of the program's own
    list, where some of these are proposed.
    """

    target: str
    bound: Bound
    profile: Diagnosis | None
    profile_file: str | None
    rules_from: str
    fired: tuple[Rule, ...]
    staged_loads: int
    left_out: tuple[str, ...]
    configs: tuple[Compiled, ...]
    walls: Roofline | None
    listed: int = 0

    def to_try(self) -> tuple[Compiled, ...]:
        """What is proposed and can be used."""
        return tuple(one for one in self.configs if one.proposed is not None and one.why_not is None)


def explained(
    request: SweepRequest,
    result: SweepResult,
    target: Target,
    profile: Diagnosis | None = None,
    profile_file: str | None = None,
) -> Explanation | None:
    """What a prediction's journal says of Before, of BASELINE and of what is proposed.

    None where neither Before nor BASELINE compiled, so that there is nothing to go by.
    """
    records = candidates_of(result.journal)
    asked = request.baseline if _resources(records, request.baseline) else request.reference
    resources = _resources(records, asked)
    if resources is None:
        return None
    proposal = by_rules(request, asked, resources, target)
    proposed = proposed_of(request, result, proposal, records)
    bound = request.spec.bound(request.problem, target)

    def why(config: Config) -> str | None:
        if config not in proposed:
            return None
        if config not in (request.baseline, *proposal.configs) and config in listed:
            return "of the program's own list, as its author wrote it"
        if config == request.reference and config not in (request.baseline, *proposal.configs):
            return "what runs today"
        return why_proposed(config, proposal, bound, request.baseline)

    listed = request.spec.listed(request.problem)
    configs = tuple(dict.fromkeys((request.reference, request.baseline, *proposed)))
    return Explanation(
        target=target.name,
        bound=bound,
        profile=profile,
        profile_file=profile_file,
        rules_from=" and ".join(_names(request, asked)),
        fired=proposal.fired,
        staged_loads=request.spec.staged_loads,
        left_out=left_out(proposal, bound, stages_matter=request.spec.stages_matter),
        configs=tuple(_compiled(request, records.get(config), config, target, why(config)) for config in configs),
        walls=_walls(request, target),
        listed=len(listed) if any(one in listed for one in proposed[1:]) else 0,
    )


def proposed_of(
    request: SweepRequest, result: SweepResult, proposal: Proposal, records: Mapping[Config, Candidate]
) -> tuple[Config, ...]:
    """At most three configs, BASELINE among them, and what runs today, where it can be used by its record.

    The others are those of the program's own list that can be used, what spills last, or else of the rules; of another
    space the best that compiled. Where an autotuner chooses among a list nobody knows what runs today. Of those that
    are the same code there is one; none where that leaves what runs.
    """

    def is_usable(config: Config) -> bool:
        return config in records and _is_usable(records[config])

    def spills(config: Config) -> bool:
        resources = records[config].resources
        return resources is not None and resources.spills

    listed = sorted(filter(is_usable, request.spec.listed(request.problem)), key=spills)  # The author's order holds.
    others: Sequence[Config] = [ranked.config for ranked in result.best]
    if request.space == "rules":
        others = listed or proposal.configs
    before = [request.reference] if is_usable(request.reference) and len(listed) < 2 else []
    distinct: dict[object, Config] = {}
    for config in (request.baseline, *before, *others):
        distinct.setdefault(_as_code(request, config), config)
    is_what_runs = before and distinct.keys() == {_as_code(request, request.reference)}
    return () if is_what_runs else tuple(distinct.values())[:MAX_PROPOSED]


def _as_code(request: SweepRequest, config: Config) -> frozenset[tuple[str, object]]:
    """Of a config what the code is compiled by: without a loop to pipeline its stages are not."""
    left_out = set() if request.spec.stages_matter else {"num_stages"}
    return frozenset((name, value) for name, value in config.to_builtins().items() if name not in left_out)


def _is_usable(record: Candidate) -> bool:
    return record.status not in {"rejected", "failed", "skipped"}


def _compiled(
    request: SweepRequest, record: Candidate | None, config: Config, target: Target, proposed: str | None
) -> Compiled:
    resources = record.resources if record is not None else None
    held = None
    if resources is not None:
        held = occupancy(resources.registers, resources.shared_bytes, config.num_warps, target)
    why_not = None
    if record is None or not _is_usable(record):
        why_not = (record and (record.detail or record.reason)) or "not compiled"
    return Compiled(config, _names(request, config), resources, held, why_not, proposed)


def _names(request: SweepRequest, config: Config) -> tuple[str, ...]:
    names = [BEFORE] if config == request.reference else []
    return tuple([*names, BASELINE] if config == request.baseline else names)


def candidates_of(journal: Path) -> dict[Config, Candidate]:
    """The last record of each candidate, with the Resources of an earlier one where it has none."""
    found: dict[Config, Candidate] = {}
    for record in read_run(journal):
        if isinstance(record, Candidate):
            earlier = found.get(record.config)
            if record.resources is None and earlier is not None:
                record = msgspec.structs.replace(record, resources=earlier.resources)  # noqa: PLW2901
            found[record.config] = record
    return found


def _resources(records: dict[Config, Candidate], config: Config) -> Resources | None:
    return records[config].resources if config in records else None


def _walls(request: SweepRequest, target: Target) -> Roofline | None:
    spec, problem = request.spec, request.problem
    try:
        return roofline(spec.flops(problem), spec.bytes(problem), spec.kind(problem), target)
    except OpError:
        raise
    except UsageError:
        return None
