"""What a library takes for the same problem: measured in every sweep, and chosen on request only."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import Gain, inverted
from fusetune.measure.paired import PairResult
from fusetune.measure.protocol import Failure
from fusetune.store.schema import Library, LibraryGain
from fusetune.tune.bench import Bench


class Reference(msgspec.Struct, frozen=True):
    """The fastest right reference, and its blocks with `beside`: BASELINE, or the config that stays."""

    config: Config
    beside: Config
    result: PairResult


def time_references(bench: Bench, references: Sequence[Config]) -> Reference | None:
    """Blocks of each with BASELINE, for the report alone; the fastest, or None where none comes through."""
    if not references:
        return None
    timed: list[Reference] = []
    with bench.log.phase("reference", "Timing the library", len(references)) as phase:
        for config in references:
            result = _shown(bench, bench.baseline, config)
            if result is not None:
                timed.append(Reference(config, bench.baseline, result))
            phase.advance()
    return max(timed, key=lambda reference: reference.result.gain.median, default=None)


def beside_chosen(bench: Bench, chosen: Config, timed: Reference | None, untimed: Sequence[Config]) -> Reference | None:
    """The reference in blocks with the config that stays, in the process at hand; None where it breaks there.

    It is the one that was `timed` as the fastest, or else the only one, where none had to be.
    """
    if chosen == bench.baseline and untimed:
        return time_references(bench, untimed)
    config = timed.config if timed else next(iter(untimed), None)
    if config is None or chosen.is_library or chosen == bench.baseline:
        return timed
    with bench.log.phase("reference", "Timing the library beside what stays"):
        result = _shown(bench, chosen, config)
    return None if result is None else Reference(config, chosen, result)


def library_row(chosen: Config, reference: Reference | None) -> Library | None:
    """What the YAML says of it: nothing where it was not timed in turns with the config that stays."""
    if reference is None or reference.beside != chosen:
        return None
    gain = inverted(reference.result.gain)
    return Library(
        config=reference.config,
        us=round(reference.result.config_us, 3),
        gain=LibraryGain(round(gain.median, 4), round(gain.low, 4), round(gain.high, 4), gain.blocks),
    )


def _shown(bench: Bench, baseline: Config, config: Config) -> PairResult | None:
    """The blocks of the rule's first look: nothing is decided by them. None where the library fails, as recorded."""
    result = bench.compare("reference", baseline, config, comparisons=1, decided=_at_once)
    if isinstance(result, Failure):
        bench.log.note(f"{config.label()} could not be timed ({result.reason}: {result.detail})")
        return None
    return result


def _at_once(_: Gain) -> bool:
    return True
