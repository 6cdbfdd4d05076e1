"""Comparisons of one run: fresh paired blocks of two configs, each into the journal, and what they come to."""

from __future__ import annotations

import random
from collections.abc import Callable

from fusetune.core.config import Config
from fusetune.core.decision import Gain, KeepRule
from fusetune.errors import MachineError
from fusetune.measure.paired import PairResult, compare
from fusetune.measure.protocol import BY_MACHINE, BlockTimes, Failure, Measurer
from fusetune.store.journal import Phase
from fusetune.tune.log import RunLog


class Bench:
    """What every comparison of one run shares: measurer, rule, journal, and the coin that picks a block's lead."""

    def __init__(self, measurer: Measurer, rule: KeepRule, seed: int, log: RunLog) -> None:
        self.measurer, self.rule, self.seed, self.log = measurer, rule, seed, log
        self.reference, self.baseline, self.before = log.reference, log.baseline, log.before

    def compare(
        self,
        phase: Phase,
        baseline: Config,
        config: Config,
        *,
        comparisons: int,
        decided: Callable[[Gain], bool] | None = None,
        rule: KeepRule | None = None,
    ) -> PairResult | Failure:
        """Blocks of one pair and what they came to, by the run's rule unless another is given.

        Raises MachineError where it is the machine's doing that a config which has come so far gives no time: what is
        decided would rest on that. The same command goes on with what was measured.
        """

        def record(times: BlockTimes) -> None:
            self.log.block(phase, baseline, config, times)

        recorded = self.log.ledger.blocks(phase, baseline, config)
        rng = random.Random(f"{self.seed}/{phase}/{baseline}/{config}/{len(recorded)}")
        self.measurer.warm_up()
        result = compare(
            self.measurer,
            baseline,
            config,
            rule or self.rule,
            comparisons=comparisons,
            rng=rng,
            on_block=record,
            recorded=recorded,
            decided=decided,
        )
        if isinstance(result, Failure):
            if result.reason in BY_MACHINE and phase != "reference":
                raise MachineError(f"{config.label()} could not be timed ({result.reason}: {result.detail})")
            self.log.candidate(config, "failed", reason=result.reason, detail=result.detail)
        else:
            self.log.comparison(phase, baseline, config, result)
        return result
