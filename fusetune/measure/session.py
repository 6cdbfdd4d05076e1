"""Inside the worker: the tensors of one problem on the GPU, and how configs are checked and timed on them."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.roofline import roofline
from fusetune.errors import OpError, UsageError
from fusetune.measure.launcher import Launcher
from fusetune.measure.nvml import GpuState, Monitor
from fusetune.measure.own_data import OwnData, Wrong
from fusetune.measure.protocol import BlockTimes, Checked, Failure, SamplingFacts
from fusetune.measure.timers import (
    ENOUGH_ARM_US,
    EXPECTED_OF_OTHERS,
    EXPECTED_SPEEDUP,
    L2_TURNOVER,
    MIN_ARM_US,
    UNLIKE,
    EventTimer,
    GraphTimer,
    Timer,
    check_tick,
    enough_launches,
    event_tick_us,
    fewer_by,
    is_short,
    launches_for,
    quickest_of,
    whole_steps,
    with_more,
)
from fusetune.ops.before import reference_of
from fusetune.ops.checking import check_reference
from fusetune.ops.device import local_target
from fusetune.ops.spec import Call, KernelSpec, Launch, Operand, Role
from fusetune.ops.told import naming

if TYPE_CHECKING:
    import torch

WARM_UP_S = 0.2
STILL_WARM_S = 0.1
STILL_TRUE_S = 0.05
"""The state after one block is taken for that before the next, where no more time than this lies between them."""
BLOCKS_A_CAPTURE = 25
"""After so many blocks of a pair, which is when it is first looked at, what is replayed is made anew, and is longer."""
_SETTLED = 0.01
_CHOOSING_SAMPLES = 3
_SHORT_LAUNCHES = 8
"""Of an arm of graphs by which it is found out how long a launch takes."""
_FLOAT64_BYTES = 8
_MOST_SETS = 1024
"""Of an op's own data."""
_FIRST_SETS = 32
"""Of an op's own data until it is known how many a sample takes."""
_SHARE_FOR_SETS = 0.3
"""Of the GPU's free memory, for the sets of an op that changes its inputs."""
_Arm = tuple[Config, int]
"""A config, and which of its copies: BASELINE against itself is two arms with a graph each, as any other pair."""


def loaded_bytes(spec: KernelSpec, problem: Problem, input_sets: int) -> int:
    """The most GPU memory that loading a session takes: its input sets, and float64 copies of one, made and used."""
    operands = spec.operands(problem)
    held = sum(operand.size_bytes for operand in operands) * input_sets
    return held + sum(operand.numel for operand in operands) * 2 * _FLOAT64_BYTES


class GpuSession:
    """One problem's tensors on one GPU, drawn from one seed.

    There are as many copies of all tensors (`input_sets`) as it takes for a launch to find its inputs out of L2 when
    the copies are walked through in turn; one copy, where L2 is to be warm. Of an op's own data there are no more than
    a sample has launches: where that leaves a part in L2, it is flushed before each sample. The timer is the same for
    every config: a graph of many launches where a launch may be short, events around flushed launches where all are
    long.
    """

    _own: OwnData | None = None
    _flush_bytes = 0

    def __init__(self, spec: KernelSpec, problem: Problem, seed: int, monitor: Monitor, *, cold: bool = True) -> None:
        import torch

        self._torch = torch
        self._spec, self._problem, self._monitor = spec, problem, monitor
        self._baseline = reference_of(spec, problem)
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._l2_bytes = int(torch.cuda.get_device_properties(self._device).L2_cache_size)
        self._own = spec.own_data(problem, seed, self._device)
        drawn_bytes = sum(operand.size_bytes for operand in spec.operands(problem))
        self._set_bytes = set_bytes = self._own.set_bytes if self._own else drawn_bytes
        wanted = math.ceil(L2_TURNOVER * self._l2_bytes / max(1, set_bytes)) if cold else 1
        self.seed = seed
        self._sets: list[dict[str, Any]] = []
        self._launchers: dict[Config, list[Launcher]] = {}
        self._generator = torch.Generator(device=self._device).manual_seed(seed)
        self._wanted_sets = max(1, min(wanted, _MOST_SETS) if self._own else wanted)
        self._have_sets(min(self._wanted_sets, _FIRST_SETS) if self._own else self._wanted_sets)
        self._cold = cold
        self._references: dict[str, torch.Tensor] | None = None
        self._states: dict[str, torch.Tensor] = {}
        self._timer: Timer = self._first_timer()
        self._screening: Timer = self._timer
        self._busy_until = -math.inf
        self._loaded = False
        self._blocks_of: tuple[object, int] = (None, 0)
        self._fewer: dict[_Arm, int] = {}
        self._sampled_us: dict[Config, float] = {}
        self._last_seen: tuple[float, GpuState] | None = None

    def load(self) -> Failure | None:
        """Check BASELINE, and with that load everything that a session needs; nothing is timed."""
        checked = self.check(self._baseline)
        if isinstance(checked, Failure):
            return checked
        self._loaded = True
        if self._own is not None:  # Only the check says whether a launch changes what it reads.
            self._timer = self._screening = self._first_timer()
        return None

    def _first_timer(self) -> Timer:
        """What times until it is known how long a launch takes: each set of inputs once."""
        sets, put_back = len(self._sets), self._put_back if self._changes_inputs() else None
        return GraphTimer(self._run_arm, sets, sets, put_back, self._flush_between(sets))

    def _flush_between(self, sets: int) -> int:
        """The bytes to write before each sample of graphs, where a walk through all sets leaves some of them in L2.

        Which part is up to the arm before: with 34 MB of inputs on an H200, whose L2 has 60, Before against itself was
        3 % off, in the one direction or the other by the order of the arms.
        """
        wanted = L2_TURNOVER * self._l2_bytes
        return wanted if self._cold and self._set_bytes * sets < wanted else 0

    def begin(self, like: SamplingFacts | None = None) -> SamplingFacts | Failure:
        """Load what `load` has not, warm up, and choose the timer and the number of launches in a sample.

        They are chosen by the times of BASELINE and of the roofline, or as in `like`, an earlier session of the problem
        on this GPU: so what a new process confirms was timed in the same way, and the choice rests on nothing that ran
        beside another process.
        """
        failure = None if self._loaded else self.load()
        if failure is not None:
            return failure
        if like is None:
            self.warm_up()
            # The least of a few: the process that stands by may still be loading, and that makes a sample longer only.
            baseline_us = min(self.sample(self._baseline) for _ in range(_CHOOSING_SAMPLES))
            floor_us = self._floor_us()
            timer = GraphTimer.name if is_short(baseline_us, floor_us) else EventTimer.name
            enough = functools.partial(
                launches_for, baseline_us, floor_us, speedup=EXPECTED_OF_OTHERS if self._own else EXPECTED_SPEEDUP
            )
            launches = enough(1)
            sets = len(self._sets)
            if timer == GraphTimer.name and self._changes_inputs():
                # Each launch has a set of its own: no more of them than a sample of the reference needs.
                launches = sets = min(launches, math.ceil(MIN_ARM_US / baseline_us))
                if not self._can_put_back(launches):
                    timer, launches, sets = EventTimer.name, enough(1), len(self._sets)
            elif timer == GraphTimer.name:
                sets = min(self._wanted_sets, launches) if self._own else sets
                # Of tiny inputs L2 keeps what it is flushed of between samples alone: none is met twice in one.
                launches = sets if self._own and self._flush_between(sets) else enough(sets)
            self._use(timer, launches, sets)
            tick_us = event_tick_us()
        else:
            timer, launches, tick_us = like.timer, like.launches, like.tick_us
            self._use(timer, launches, like.input_sets)
            self.warm_up()
        sets, flush_bytes = len(self._sets), self._flush_bytes
        between = self._flush_between(sets) if timer == GraphTimer.name else 0
        flushed_bytes = flush_bytes * launches or between
        # Between two uses of one input set lies a whole walk through the sets, or one flush.
        turnover = max(self._set_bytes * sets, flush_bytes, between if launches <= sets else 0)
        if self._cold and turnover < L2_TURNOVER * self._l2_bytes and sets < _MOST_SETS:
            raise AssertionError(f"only {turnover} bytes pass between two uses of an input, less than 3 x L2")
        check_tick(tick_us, MIN_ARM_US)
        return SamplingFacts(
            input_sets=sets,
            launches=launches,
            touched_bytes=self._set_bytes * launches + flushed_bytes,
            l2_bytes=self._l2_bytes,
            timer=self._timer.name,
            tick_us=round(tick_us, 4),
        )

    def _floor_us(self) -> float | None:
        """What no launch on this GPU can be quicker than; None where its peaks are not known.

        Where L2 is warm, device memory is none of it. Nor is anything known of own data: a kernel may read any part.
        """
        if self._own is not None:
            return None
        spec, problem = self._spec, self._problem
        try:
            target = local_target(self._torch.cuda.current_device())
            roof = roofline(spec.flops(problem), spec.bytes(problem), spec.kind(problem), target)
        except OpError:
            raise
        except UsageError:
            return None
        return roof.time_us if self._cold else roof.compute_us

    def _lengthen(self, quickest_us: float) -> bool:
        """Have samples last MIN_ARM_US at a config that is quicker than other people's were expected to be.

        From here on: all arms of a block have equally many launches. Returns whether anything is other than it was.
        """
        if self._own is None or self._changes_inputs() or quickest_us * self._timer.launches >= MIN_ARM_US:
            return False
        launches, sets = math.ceil(MIN_ARM_US / quickest_us), len(self._sets)
        if self._timer.name == GraphTimer.name:
            sets = min(self._wanted_sets, launches)
            launches = sets if self._flush_between(sets) else math.ceil(launches / sets) * sets
        if launches <= self._timer.launches:
            return False
        self._use(self._timer.name, launches, sets)
        return True

    def _changes_inputs(self) -> bool:
        return self._own is not None and self._own.changes_inputs

    def _can_put_back(self, launches: int) -> bool:
        """Whether a graph of so many launches can have its inputs back before each: a set for each has room.

        Within a graph nothing is put back, since that would be timed.
        """
        free, _ = self._torch.cuda.mem_get_info()
        more = max(0, launches - len(self._sets))
        return self._cold and launches <= _MOST_SETS and more * self._set_bytes <= _SHARE_FOR_SETS * free

    def _have_sets(self, count: int) -> None:
        """Make what is missing of so many sets of inputs, and drop what is beyond them."""
        if count != len(self._sets):
            self._launchers.clear()  # They hold each set.
        del self._sets[count:]
        while len(self._sets) < count:
            self._sets.append(self._own.make() if self._own else self._draw(self._generator))

    def _use(self, timer: str, launches: int, sets: int) -> None:
        """Time with graphs or with events from here on, over so many sets of inputs."""
        changes = self._changes_inputs()
        self._have_sets(sets)
        put_back = self._put_back if changes else None
        self._flush_bytes = 0
        if timer == GraphTimer.name:
            flush = self._flush_between(sets)
            self._timer = GraphTimer(self._run_arm, sets, launches, put_back, flush)
            # As long as half a sample: a graph of few launches would rank configs by how they begin.
            half = math.ceil(launches / 2) if changes or flush else math.ceil(launches / (2 * sets)) * sets
            self._screening = GraphTimer(self._run_arm, sets, half, put_back, flush)
            return
        self._flush_bytes = L2_TURNOVER * self._l2_bytes if self._cold else 0
        self._timer = EventTimer(self._run_arm, sets, launches, self._flush_bytes, put_back)
        self._screening = EventTimer(self._run_arm, sets, 1, self._flush_bytes, put_back)

    def _put_back(self, index: int) -> None:
        """Let a set of inputs be as it was before any launch."""
        assert self._own is not None, "only own data is changed by launches"
        self._own.put_back(self._sets[index])

    def check(self, config: Config) -> Checked | Failure:
        """Poison the outputs, run once, compare with float64; then time one launch roughly.

        Raises OpError for a mistake in the op's own code at BASELINE; at another config it is that config's outcome.
        """
        try:
            return self._checked(config)
        except OpError as error:
            if config == self._baseline:
                raise
            return Failure("launch_error", str(error))

    def _checked(self, config: Config) -> Checked | Failure:
        torch = self._torch
        tensors = self._sets[0]
        if self._own is not None:
            error = self._own.check(tensors, lambda: self._run(config, tensors))
            if isinstance(error, Wrong):
                return Failure(error.reason, error.detail)
            rough_us = self._rough_us(config, tensors)
            self._own.put_back(tensors)
            return Checked(error=error, rough_us=rough_us)
        if self._references is None:
            self._references = self._reference(tensors)
            self._states = {operand.name: tensors[operand.name].clone() for operand in self._operands("state")}
        for name in self._references:
            tensors[name].fill_(math.nan)
        for name, before in self._states.items():
            tensors[name].copy_(before)
        scratch = self._scratch(config)
        counters = [
            operand.name for operand in self._spec.workspace(self._problem, config) if operand.role == "counter"
        ]
        for name, tensor in scratch.items():
            if name not in counters:
                tensor.fill_(math.nan)
        everything = {**self._with_constants(config, tensors), **scratch}
        self._run(config, everything)
        torch.cuda.synchronize()
        worst = 0.0
        tolerance = self._spec.tolerance(self._problem)
        for name, reference in self._references.items():
            difference = tensors[name].double() - reference
            norm = float(reference.norm())
            frobenius = float(difference.norm()) / norm
            maximum = float(difference.abs().max()) / (norm / math.sqrt(reference.numel()))
            if math.isnan(frobenius):
                return Failure("nan", f"{name} has NaN, or elements that nothing wrote")
            if frobenius > tolerance.frobenius or maximum > tolerance.maximum:
                return Failure(
                    "wrong_result",
                    f"{name}: relative error {frobenius:.2e} (allowed {tolerance.frobenius:.1e}), largest "
                    f"{maximum:.2e} of the rms (allowed {tolerance.maximum:.1e})",
                )
            worst = max(worst, frobenius)
        for name in counters:
            if scratch[name].any():
                return Failure("wrong_result", f"{name} is not zero again, as the next launch needs it")
        return Checked(error=worst, rough_us=self._rough_us(config, everything))

    def warm_up(self) -> None:
        """Run BASELINE for WARM_UP_S seconds, and on until the SM clock settles (at most ten times that).

        A GPU that has been timing up to now is warm already.
        """
        if time.monotonic() - self._busy_until < STILL_WARM_S:
            return
        began, elapsed, clock = time.monotonic(), 0.0, None
        while elapsed < 10 * WARM_UP_S:
            chunk_ends = time.monotonic() + WARM_UP_S / 4
            while time.monotonic() < chunk_ends:
                self._timer.times_us([(self._baseline, 0)])
            elapsed = time.monotonic() - began
            before, clock = clock, self._monitor.state().sm_mhz
            settled = clock is None or (before is not None and abs(clock - before) <= _SETTLED * before)
            if elapsed >= WARM_UP_S and settled:
                break
        self._busy_until = time.monotonic()

    def sample(self, config: Config) -> float:
        """Microseconds a launch, after one untimed arm; one walk through the input sets is enough to screen by."""
        arm = config, 0
        for _ in range(2):  # Until it was timed, a config is taken for as quick as the quickest.
            launches = self._screening_launches(config)
            time_us = self._screening.times_us([arm, arm], {arm: launches})[1]
            # The least so far: with each other time there would be other numbers of launches, and captures, of all.
            self._sampled_us[config] = min(time_us, self._sampled_us.get(config, time_us))
            if launches >= self._screening_launches(config):
                break
        self._launchers.pop(config, None)
        self._busy_until = time.monotonic()
        return time_us

    def _screening_launches(self, config: Config) -> int:
        """Half as many as would do for a block. All that may be among the quickest have equally many."""
        quickest_us = min(self._sampled_us.values(), default=0.0)
        known_us = self._sampled_us.get(config, 0.0)
        time_us = known_us if known_us >= UNLIKE * quickest_us else quickest_us
        most, step = self._screening.launches, self._screening.step
        return enough_launches(time_us, most, step, ENOUGH_ARM_US / 2)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes:
        """ABBA or BAAB after one untimed arm; the GPU's state is read before and after."""
        arms: tuple[_Arm, _Arm] = ((baseline, 0), (config, 1 if baseline == config else 0))
        number = self._blocks_of[1] + 1 if self._blocks_of[0] == arms else 1
        if number == 1:
            self._fewer = self._fewer_of(*arms)
        elif number % BLOCKS_A_CAPTURE == 1:
            # What so many blocks did not decide gets longer ones, up to whole samples.
            self._fewer = with_more(self._fewer, self._timer.launches)
            self._timer.renew(arms, self._fewer)
        self._blocks_of = arms, number  # Not before: a pair that fell as it began has no numbers of launches.
        first, second = (arms[1], arms[0]) if config_first else arms
        before = self._state_before()
        times = self._timed(first, second, self._fewer)
        if self._lengthen(min(times)):
            self._fewer = self._fewer_of(*arms)
            times = self._timed(first, second, self._fewer)
        if self._fewer and self._too_short((first, second), times):
            times = self._timed(first, second, self._fewer)
        self._busy_until = time.monotonic()
        after = self._monitor.state()
        self._last_seen = time.monotonic(), after
        outer, inner = (times[0] + times[3]) / 2, (times[1] + times[2]) / 2
        baseline_us, config_us = (inner, outer) if config_first else (outer, inner)
        return BlockTimes(
            baseline_us=baseline_us,
            us=config_us,
            discarded=before.discard or after.discard,
            flags=tuple(dict.fromkeys(before.flags + after.flags)),
            sm_mhz=after.sm_mhz,
            power_w=after.power_w,
            temperature_c=after.temperature_c,
            launches=(self._fewer[arms[0]], self._fewer[arms[1]]) if self._fewer else None,
        )

    def _fewer_of(self, one: _Arm, other: _Arm) -> dict[_Arm, int]:
        """How many launches the arms of a pair have, by one block of short ones; empty where a sample's are due."""
        most, step = self._timer.launches, self._timer.step
        if most <= step:
            return {}
        # Of a single launch, most of a replay may be what it costs beside that.
        short = step if self._timer.name == EventTimer.name else min(most, whole_steps(_SHORT_LAUNCHES, step))
        times = self._timed(one, other, {one: short, other: short})
        return fewer_by((one, other), times, most, step)

    def _timed(self, first: _Arm, second: _Arm, fewer: Mapping[_Arm, int]) -> list[float]:
        """Both, the second within the first, after one untimed arm."""
        return self._timer.times_us([first, first, second, second, first], fewer)[1:]

    def _too_short(self, pair: tuple[_Arm, _Arm], times: Sequence[float]) -> bool:
        """Whether an arm with few launches lasted less than MIN_ARM_US; then both get as many as these times ask for.

        The few launches by which they were numbered may have been slower: they wait for the host, or were disturbed.
        """
        most, few = self._timer.launches, [self._fewer[arm] for arm in pair]
        quickest_us = quickest_of(times)
        if all(n == most or n * time_us >= MIN_ARM_US for n, time_us in zip(few, quickest_us, strict=True)):
            return False
        self._fewer = fewer_by(pair, times, most, self._timer.step)
        return True

    def _state_before(self) -> GpuState:
        """The state after the last block, where that has only just ended and was sound; otherwise it is read again."""
        if self._last_seen is not None:
            seen_at, state = self._last_seen
            if state.discard is None and time.monotonic() - seen_at < STILL_TRUE_S:
                return state
        return self._monitor.state()

    def _draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        tensors = {}
        for operand in self._spec.operands(self._problem):
            tensor = operand.allocate(self._device)
            if operand.role != "output":
                operand.draw(tensor, generator)
            tensors[operand.name] = tensor
        return tensors

    def _reference(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with naming(self._spec, "reference"), self._torch.no_grad():
            references = self._spec.reference(self._problem, self._inputs(tensors))
        check_reference(self._spec, self._problem, references)
        return dict(references)

    def _scratch(self, config: Config) -> dict[str, torch.Tensor]:
        """A config's workspace, one for all input sets: a caller's allocator hands out the same memory again too."""
        return {operand.name: operand.allocate(self._device) for operand in self._spec.workspace(self._problem, config)}

    def _with_constants(self, config: Config, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """One set, and what the config wants made of it beforehand."""
        with naming(self._spec, "constants"):
            return {**tensors, **self._spec.constants(self._problem, config, tensors)}

    def _operands(self, role: Role) -> list[Operand]:
        return [operand for operand in self._spec.operands(self._problem) if operand.role == role]

    def _inputs(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {o.name: tensors[o.name] for o in self._operands("input") + self._operands("state")}

    def _run(self, config: Config, tensors: dict[str, Any]) -> None:
        for launch in self._launches(config, tensors):
            launch.run()

    def _launches(self, config: Config, tensors: dict[str, Any]) -> Sequence[Launch | Call]:
        with naming(self._spec, "launches"):
            return self._spec.launches(self._problem, config, tensors)

    def _run_arm(self, arm: _Arm, index: int) -> Sequence[Launcher]:
        config = arm[0]
        if config not in self._launchers:
            scratch = self._scratch(config)
            sets = [self._with_constants(config, tensors) for tensors in self._sets]
            launches = self._launches(config, {**sets[0], **scratch})
            self._launchers[config] = [Launcher(launch, sets, scratch) for launch in launches]
            if self._own is not None and self._own.changes_inputs:
                self._put_back(0)  # Describing a launch makes it once.
        launchers = self._launchers[config]
        for launcher in launchers:
            launcher.launch(index)
        return launchers

    def _rough_us(self, config: Config, tensors: dict[str, Any]) -> float:
        event = self._torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        self._run(config, tensors)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3
