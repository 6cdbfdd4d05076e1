"""One problem on the GPU: each config against float64, then its time beside BASELINE."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import structs

from fusetune.compiler.facts import reject_resources
from fusetune.compiler.pool import Outcome as CompilerOutcome
from fusetune.core.config import Config
from fusetune.core.decision import KeepRule
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.doctor.items import Asked, Item
from fusetune.doctor.noise import gain_found
from fusetune.doctor.shareable import shareable
from fusetune.errors import FusetuneError, NoUsableGpuError, WrongResultError
from fusetune.measure.paired import compare
from fusetune.measure.protocol import BY_MACHINE, BlockTimes, Checked, Failure, Measurer
from fusetune.ops.predicting import predicted_us
from fusetune.store.doctor_file import Examined, Launched

SAMPLES: Final = 3
"""Of each config, in turns with BASELINE."""
LOOKS: Final = (25, 50)
"""Blocks of a config that is timed beside BASELINE; a gain near the minimum stays undecided."""
_NOT_RIGHT: Final = frozenset({"wrong_result", "nan"})

Made = Mapping[Config, CompilerOutcome]


def examine(
    item: Item, measurer: Measurer, made: Made, target: Target, seed: int, settle: Callable[[], object] = lambda: None
) -> Examined:
    """All of an item; what goes wrong in it is its outcome. Raises NoUsableGpuError where there is no GPU any more.

    `settle` is called before anything is timed.
    """
    examined, launched = _blank(item), list[Launched]()
    try:
        examined = structs.replace(examined, tolerance=item.spec.tolerance(item.problem).frobenius)
        sampling = measurer.prepare(seed)
        examined = structs.replace(examined, timer=sampling.timer)
        launched = [_checked(item, asked, measurer, made, target) for asked in _with_baseline(item)]
        settle()
        measurer.warm_up()
        launched = _sampled(item, launched, measurer)
        launched = _compared(item, launched, measurer, seed)
    except NoUsableGpuError:
        raise
    except WrongResultError as error:
        return structs.replace(examined, launched=(_wrong_baseline(item, error),))
    except FusetuneError as error:  # Of the machine, or of the op's own code: the other problems are still of use.
        return structs.replace(examined, launched=tuple(launched), trouble=shareable(str(error)))
    return structs.replace(examined, launched=tuple(launched))


def _blank(item: Item) -> Examined:
    """An item of which nothing is known yet."""
    problem = item.problem
    return Examined(op=item.spec.name, problem=problem.to_builtins(), described=problem.describe())


def is_wrong(examined: Examined) -> bool:
    """Whether a kernel gave wrong results."""
    return any(one.outcome == "failed" and one.reason in _NOT_RIGHT for one in examined.launched)


def _with_baseline(item: Item) -> tuple[Asked, ...]:
    rest = tuple(asked for asked in item.asked if asked.config != item.reference)
    own = next((asked for asked in item.asked if asked.config == item.reference), None)
    return (Asked(item.reference, "baseline", own.recorded if own else None), *rest)


def _checked(item: Item, asked: Asked, measurer: Measurer, made: Made, target: Target) -> Launched:
    """A config that compiled, run once on poisoned outputs and compared with the float64 reference."""
    spec, problem, config = item.spec, item.problem, asked.config
    result = made.get(config)
    one = Launched(
        config=config.to_builtins(),
        label=config.label(),
        source=asked.source,
        outcome="not_tried",
        recorded=asked.recorded,
    )
    if isinstance(result, Resources):
        time_us = None if config.is_library else predicted_us(spec, problem, config, target, result)
        one = structs.replace(
            one,
            registers=result.registers,
            shared_bytes=result.shared_bytes,
            predicted_us=None if time_us is None else round(time_us, 3),
        )
        unfit = reject_resources(result, target, may_spill=spec.may_spill(problem, config))
        if unfit is not None:
            return structs.replace(one, outcome="rejected", reason=unfit.reason, detail=shareable(unfit.detail))
    elif isinstance(result, Rejection):
        return structs.replace(one, outcome="rejected", reason=result.reason, detail=shareable(result.detail))
    elif isinstance(result, Trouble):
        return structs.replace(one, reason="machine", detail=shareable(result.detail))
    return _outcome(one, measurer.check(config))


def _outcome(one: Launched, result: Checked | Failure) -> Launched:
    if isinstance(result, Checked):
        return structs.replace(one, outcome="right", error=result.error)
    outcome = "not_tried" if result.reason in BY_MACHINE else "failed"
    return structs.replace(one, outcome=outcome, reason=result.reason, detail=shareable(result.detail))


def _wrong_baseline(item: Item, error: WrongResultError) -> Launched:
    reference = item.reference
    return Launched(
        config=reference.to_builtins(),
        label=reference.label(),
        source="baseline",
        outcome="failed",
        reason="wrong_result",
        detail=shareable(str(error)),
    )


def _sampled(item: Item, launched: list[Launched], measurer: Measurer) -> list[Launched]:
    """Times that only rank: a few samples of each right config, BASELINE's before each round."""
    configs = dict(zip((asked.config for asked in _with_baseline(item)), launched, strict=True))
    times: dict[Config, list[float]] = {config: [] for config, one in configs.items() if one.outcome == "right"}
    for _ in range(SAMPLES if item.reference in times else 0):
        for config in list(times):  # BASELINE is the first of them.
            sample = measurer.sample(config)
            if isinstance(sample, Failure):
                configs[config] = _outcome(configs[config], sample)
                del times[config]
            else:
                times[config].append(sample)
    beside = times.get(item.reference)
    for config, samples in times.items() if beside else ():
        baseline_us = None if config == item.reference else round(statistics.median(beside or ()), 4)
        sample_us = round(statistics.median(samples), 4)
        configs[config] = structs.replace(configs[config], sample_us=sample_us, baseline_sample_us=baseline_us)
    return list(configs.values())


def _compared(item: Item, launched: list[Launched], measurer: Measurer, seed: int) -> list[Launched]:
    """Paired blocks beside BASELINE: of what stands in a file, or at an example of what is predicted to be fastest."""
    asked = [asked.config for asked in _with_baseline(item)]
    found = list(launched)
    for place in _worth_blocks(launched):
        rng = random.Random(f"{seed}/{asked[place]}")
        result = compare(
            measurer, item.reference, asked[place], KeepRule(looks=LOOKS), comparisons=1, rng=rng, on_block=_ignore
        )
        if isinstance(result, Failure):
            # Of heat, and of the machine's trouble, nothing follows for what was right.
            by_machine = result.reason == "throttled" or result.reason in BY_MACHINE
            outcome = found[place].outcome if by_machine else "failed"
            found[place] = structs.replace(
                found[place], outcome=outcome, reason=result.reason, detail=shareable(result.detail)
            )
        else:
            found[place] = structs.replace(
                found[place],
                us=round(result.config_us, 4),
                baseline_us=round(result.baseline_us, 4),
                gain=gain_found(result),
            )
    return found


def _worth_blocks(launched: list[Launched]) -> list[int]:
    """Places of the entries, and of the right config that the cost model likes best, or that was sampled as fastest."""
    entries = [place for place, one in enumerate(launched) if one.source == "entry" and one.outcome == "right"]
    variants = [place for place, one in enumerate(launched) if one.source == "variant" and one.outcome == "right"]

    def time_us(place: int) -> float:
        one = launched[place]
        return one.predicted_us or one.sample_us or 0.0

    best = [] if entries or not variants else [min(variants, key=time_us)]
    return [*entries, *best]


def _ignore(_: BlockTimes) -> None:
    """Blocks are kept nowhere: what they come to is."""
