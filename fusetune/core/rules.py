"""The conditional rules for warps and stages, as data: what the compiler made of BASELINE picks them.

    pressure low    under 96 registers a thread and no spill: 8 warps for compute-bound fusion; 3 stages may help
    pressure high   over 128 registers, or registers limit occupancy: 4 warps, 2 stages
    multi-input     3 or more loads staged per step of the loop: 2 stages, 4 warps

"Each stage buffers all inputs" is the reason of the last rule, so only loads inside the pipelined loop count: what an
epilogue reads is loaded once, after it. Where rules disagree, the more careful one wins. At most three configs are
proposed, and BASELINE is always one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fusetune.core.bound import Bound
from fusetune.core.config import SAFE_STAGES, SAFE_WARPS, Config, with_options
from fusetune.core.resources import Occupancy, Resources

LOW_PRESSURE_BELOW: Final = 96
HIGH_PRESSURE_ABOVE: Final = 128
MULTI_INPUT_LOADS: Final = 3
MAX_PROPOSED: Final = 3


class Rule(msgspec.Struct, frozen=True):
    """One conditional rule in words: when it fires, and what it says."""

    name: str
    condition: str
    advice: str


LOW_PRESSURE: Final = Rule(
    "register pressure low",
    f"under {LOW_PRESSURE_BELOW} registers a thread and no spill",
    "try 8 warps for compute-bound fusion; 3 stages may help to hide latency",
)
HIGH_PRESSURE: Final = Rule(
    "register pressure high",
    f"over {HIGH_PRESSURE_ABOVE} registers a thread, or registers limit occupancy",
    "use 4 warps and keep 2 stages",
)
MULTI_INPUT: Final = Rule(
    "multi-input fusion",
    f"{MULTI_INPUT_LOADS} or more loads staged per step of the loop",
    "prefer 2 stages; 4 warps are often better than 8",
)


class Proposal(msgspec.Struct, frozen=True):
    """The rules that fired, and the configs that they leave to try, BASELINE first."""

    fired: tuple[Rule, ...]
    configs: tuple[Config, ...]


def fired_rules(resources: Resources, occupancy: Occupancy, staged_loads: int) -> tuple[Rule, ...]:
    """The rules whose condition BASELINE's compiled kernel meets."""
    rules = []
    if resources.registers < LOW_PRESSURE_BELOW and not resources.spills:
        rules.append(LOW_PRESSURE)
    if resources.registers > HIGH_PRESSURE_ABOVE or occupancy.limiter == "registers":
        rules.append(HIGH_PRESSURE)
    if staged_loads >= MULTI_INPUT_LOADS:
        rules.append(MULTI_INPUT)
    return tuple(rules)


def propose(
    resources: Resources,
    occupancy: Occupancy,
    staged_loads: int,
    *,
    compute_bound: bool,
    baseline: Config,
    tile: Config | None = None,
    stages_matter: bool = True,
) -> Proposal:
    """What to try beside BASELINE, from the resources and occupancy of the compiled kernel of `tile`.

    `staged_loads` are those inside the pipelined loop; `compute_bound` says whether arithmetic, not memory, limits it.
    Where no rule fires, the other value of each parameter is tried, one at a time. Another `tile` than
    that of `baseline` is proposed with the rules' warps and stages, itself left out. Where stages do not matter to what
    is compiled, BASELINE's are kept.
    """
    fired = fired_rules(resources, occupancy, staged_loads)
    warps, stages = {4}, {2}
    if HIGH_PRESSURE not in fired:
        if LOW_PRESSURE in fired:
            warps |= {8} if compute_bound else set()
            stages |= {3}
        elif MULTI_INPUT not in fired:
            warps, stages = {4, 8}, {2, 3}
    if MULTI_INPUT in fired or not stages_matter:
        stages = {2}
    product = [
        with_options(tile or baseline, num_warps=num_warps, num_stages=num_stages)
        for num_warps in sorted(warps)
        for num_stages in sorted(stages)
    ]
    return Proposal(fired, _at_most_three(product, baseline, tile or baseline))


def _at_most_three(product: list[Config], baseline: Config, tile: Config) -> tuple[Config, ...]:
    """BASELINE and at most two others: of more, those that change both parameters at once are left out first."""
    if tile != baseline:
        product = list(dict.fromkeys([baseline, *(config for config in product if config != tile)]))
    if len(product) > MAX_PROPOSED:
        product = [c for c in product if c.num_warps == SAFE_WARPS or c.num_stages == SAFE_STAGES]
    return tuple(product[:MAX_PROPOSED])


def why_proposed(config: Config, proposal: Proposal, bound: Bound, baseline: Config) -> str:
    """Why a config is among those to try, in half a sentence."""
    if config == baseline:
        return "the conservative choice, always among them"
    if config not in proposal.configs:
        return "among the first by occupancy and by what it takes of an SM"
    low = LOW_PRESSURE in proposal.fired
    reasons = []
    if config.num_warps != baseline.num_warps:
        why = f"register pressure is low, and it is {bound.name}" if low else "no rule speaks against it"
        reasons.append(f"{config.num_warps} warps, since {why}")
    if config.num_stages != baseline.num_stages:
        why = "register pressure is low, and it may hide latency" if low else "no rule speaks against it"
        reasons.append(f"{config.num_stages} stages, since {why}")
    return "; ".join(reasons) or "with these constants the rules leave these warps and stages"


def left_out(proposal: Proposal, bound: Bound, *, stages_matter: bool) -> tuple[str, ...]:
    """What the rules that fired leave out, and why, a sentence each."""
    told = []
    if HIGH_PRESSURE in proposal.fired:
        more = ", the more careful rule, wins" if len(proposal.fired) > 1 else " leaves 4 warps and 2 stages alone"
        told.append(f"{HIGH_PRESSURE.name}{more}.")
    elif LOW_PRESSURE in proposal.fired and not bound.compute:
        told.append(f"8 warps are left out: it is {bound.name}.")
    if not stages_matter:
        told.append("Stages make no difference: no loop of the kernel is pipelined.")
    return tuple(told)


ACCUMULATORS_IN_MEMORY_BYTES: Final = 1024
"""A stack of this size and more holds what the loop works on, not what it waits for the end with."""


def contradictions(
    config: Config,
    resources: Resources,
    occupancy: Occupancy,
    fired: tuple[Rule, ...],
    proposed: Mapping[Config, Resources],
) -> tuple[str, ...]:
    """Where what the compiler made of `config`, and of what the rules propose, speaks against the rules.

    `proposed` holds the compiled proposals for the same tile. Each is one sentence with the figures that say so.
    """
    found = []
    registers, stack = resources.registers, resources.stack_bytes
    if registers > HIGH_PRESSURE_ABOVE and not resources.spills:
        found.append(
            f"{registers} registers a thread count as high pressure, but nothing spills: the compiler fits the tile, "
            f"and what is lost is at most occupancy, {occupancy.ctas_per_sm} CTAs an SM by {occupancy.limiter}."
        )
    if registers < LOW_PRESSURE_BELOW and stack >= ACCUMULATORS_IN_MEMORY_BYTES:
        found.append(
            f"{registers} registers look like low pressure, but {stack} bytes of stack a thread say that the tile "
            "lives in local memory: no choice of stages helps, a smaller tile or more warps do."
        )
    elif stack > 0 and registers <= HIGH_PRESSURE_ABOVE:
        found.append(f"{registers} registers are not over {HIGH_PRESSURE_ABOVE}, and yet {stack} bytes spill.")
    for other, made in proposed.items():
        if HIGH_PRESSURE in fired and made.spills and not resources.spills:
            found.append(
                f"The rule's {other.label()} spills {made.stack_bytes} bytes a thread, which {config.label()} does "
                "not: fewer warps hold the same accumulators in fewer threads."
            )
        fewer_stages = other.num_stages < config.num_stages and other.num_warps == config.num_warps
        if HIGH_PRESSURE in fired and fewer_stages and made.registers >= registers:
            found.append(
                f"Fewer stages free no registers here: {other.label()} takes {made.registers}, {config.label()} takes "
                f"{registers}; stages live in shared memory."
            )
    return tuple(found)
