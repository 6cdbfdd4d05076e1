"""A recording in the place of a GPU: every answer is the one that a run's journal holds."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from fusetune.core.config import Config
from fusetune.core.target import match_target
from fusetune.errors import MeasurementError
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts
from fusetune.store.journal import Block, Candidate, Phase, Record, RunStart, Sample, Sampling


class ReplayMeasurer:
    """Answers from a run's records, each measurement once and in the order in which it was taken.

    The same workflow over them comes to the same verdict. Raises MeasurementError for a measurement that the run never
    took, and where the journal has no first line or is of a GPU that the table of targets lacks.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        records = list(records)
        starts = [record for record in records if isinstance(record, RunStart)]
        if not starts:
            raise MeasurementError("this journal has no `run` line, so nothing can be replayed from it")
        self.start = starts[0]
        configs = {record.id: record.config for record in records if isinstance(record, Candidate)}
        self._sampling = deque(record for record in records if isinstance(record, Sampling))
        self._checks: dict[Config, Checked | Failure] = {}
        self._broken: dict[Config, Failure] = {}
        self._samples: defaultdict[Config, deque[float]] = defaultdict(deque)
        self._blocks: defaultdict[tuple[Config, Config], deque[BlockTimes]] = defaultdict(deque)
        for record in records:
            if isinstance(record, Candidate) and record.status == "checked":
                self._checks.setdefault(record.config, Checked(record.error or 0.0, record.rough_us or 0.0))
            elif isinstance(record, Candidate) and record.status == "failed":
                failure = Failure(record.reason or "", record.detail or "")
                if record.config in self._checks:  # It was right, and broke when it was timed.
                    self._broken[record.config] = failure
                else:
                    self._checks[record.config] = failure
            elif isinstance(record, Sample):
                self._samples[configs[record.id]].append(record.us)
            elif isinstance(record, Block):
                self._blocks[configs[record.baseline_id], configs[record.id]].append(block_times(record))

    def likely_target(self) -> None:
        """Nothing is gained by guessing."""

    def facts(self) -> GpuFacts:
        """The recorded GPU."""
        identity = self.start.target
        target = match_target(identity.name, identity.capability, identity.sms)
        if target is None:
            raise MeasurementError(f"the table of targets has no {identity.name} with {identity.sms} SMs")
        return GpuFacts(identity=identity, target=target, environment=self.start.environment)

    def prepare(self, seed: int) -> SamplingFacts:
        """The recorded way of sampling."""
        if not self._sampling:
            raise MeasurementError("the recording holds no further process")
        return sampling_facts(self._sampling.popleft())

    def company(self) -> tuple[str, ...]:
        """Nobody disturbs a recording."""
        return ()

    def standby(self, seed: int) -> None:
        """A recording has no process to get ready."""

    def open_ahead(self) -> None:
        """Nor a session to open."""

    def settle(self) -> None:
        """Nor one that could disturb."""

    def check(self, config: Config) -> Checked | Failure:
        """What the check of this config came to."""
        if config not in self._checks:
            raise MeasurementError(f"the recording holds no check of {config.label()}")
        return self._checks[config]

    def warm_up(self) -> None:
        """A recording is warm."""

    def sample(self, config: Config) -> float | Failure:
        """The next sample of this config; after the last, how it broke, if it did."""
        if not self._samples[config] and config in self._broken:
            return self._broken[config]
        if not self._samples[config]:
            raise MeasurementError(f"the recording holds no further sample of {config.label()}")
        return self._samples[config].popleft()

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """The next block of this pair, whichever came first in it; after the last, how the config broke, if it did."""
        if not self._blocks[baseline, config] and config in self._broken:
            return self._broken[config]
        if not self._blocks[baseline, config]:
            raise MeasurementError(
                f"the recording holds no further block of {config.label()} against {baseline.label()}"
            )
        return self._blocks[baseline, config].popleft()

    def end(self) -> None:
        """There is nothing to give back."""

    def close(self) -> None:
        """There is nothing to give back."""


def sampling_facts(record: Sampling) -> SamplingFacts:
    """A recorded way of sampling as the measurer told it."""
    return SamplingFacts(
        input_sets=record.input_sets,
        launches=record.launches,
        touched_bytes=record.touched_bytes,
        l2_bytes=record.l2_bytes,
        timer=record.timer,
        tick_us=record.tick_us,
    )


def sampling_record(facts: SamplingFacts, seed: int) -> Sampling:
    """A way of sampling as a journal holds it: what `sampling_facts` makes `facts` of again."""
    return Sampling(
        input_sets=facts.input_sets,
        launches=facts.launches,
        touched_bytes=facts.touched_bytes,
        l2_bytes=facts.l2_bytes,
        seed=seed,
        timer=facts.timer,
        tick_us=facts.tick_us,
    )


def block_times(record: Block) -> BlockTimes:
    """A recorded block as the measurer gave it."""
    return BlockTimes(
        baseline_us=record.baseline_us,
        us=record.us,
        discarded=record.discarded,
        flags=record.flags,
        sm_mhz=record.sm_mhz,
        power_w=record.power_w,
        temperature_c=record.temperature_c,
        launches=record.launches,
    )


def block_record(phase: Phase, baseline_id: int, number: int, times: BlockTimes) -> Block:
    """A block as a journal holds it: what `block_times` makes `times` of again."""
    return Block(
        phase=phase,
        baseline_id=baseline_id,
        id=number,
        baseline_us=times.baseline_us,
        us=times.us,
        discarded=times.discarded,
        flags=times.flags,
        sm_mhz=times.sm_mhz,
        power_w=times.power_w,
        temperature_c=times.temperature_c,
        launches=times.launches,
    )
