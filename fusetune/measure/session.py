"""Inside the worker: the tensors of one problem on the GPU, and how configs are checked and timed on them."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from fusetune.core.config import BASELINE, Config
from fusetune.core.problem import Problem
from fusetune.kernels.spec import KernelSpec
from fusetune.measure.nvml import Monitor
from fusetune.measure.protocol import BlockTimes, Checked, Failure, SamplingFacts

if TYPE_CHECKING:
    import torch

MIN_ARM_US = 500.0
"""An arm of a block lasts at least this long, a thousand ticks of the event timer."""
L2_TURNOVER = 3
"""How many times its size one replay must push through L2, for inputs to be cold."""
WARM_UP_S = 0.2
EXPECTED_SPEEDUP = 4
"""By how much a candidate may beat BASELINE and still last MIN_ARM_US."""
_KEPT_GRAPHS = 8
_SETTLED = 0.01


class GpuSession:
    """One problem's tensors on one GPU, drawn from one seed.

    Timing replays a CUDA graph whose launches walk through `input_sets` copies of all tensors, so that every launch
    finds its inputs out of L2. All configs use the same number of launches: what a replay costs beside them is then
    the same for both arms, and makes a gain look smaller, never larger.
    """

    def __init__(self, spec: KernelSpec, problem: Problem, seed: int, monitor: Monitor, *, cold: bool = True) -> None:
        import torch

        self._torch = torch
        self._spec, self._problem, self._monitor = spec, problem, monitor
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._l2_bytes = int(torch.cuda.get_device_properties(self._device).L2_cache_size)
        set_bytes = sum(operand.numel for operand in spec.operands(problem)) * problem.element_bytes
        wanted = math.ceil(L2_TURNOVER * self._l2_bytes / set_bytes) if cold else 1
        generator = torch.Generator(device=self._device).manual_seed(seed)
        self._sets = [self._draw(generator) for _ in range(max(1, wanted))]
        self._set_bytes = set_bytes
        self._cold = cold
        self._launches = len(self._sets)
        self._capture_stream = torch.cuda.Stream()
        self._references: dict[str, torch.Tensor] | None = None
        self._graphs: OrderedDict[tuple[Config, bool], torch.cuda.CUDAGraph] = OrderedDict()

    def begin(self) -> SamplingFacts | Failure:
        """Check BASELINE and choose the number of launches in a sample from its time."""
        checked = self.check(BASELINE)
        if isinstance(checked, Failure):
            return checked
        self.warm_up()
        rough_us = self.sample(BASELINE)
        wanted = math.ceil(MIN_ARM_US * EXPECTED_SPEEDUP / rough_us)
        self._launches = math.ceil(wanted / len(self._sets)) * len(self._sets)
        self._graphs.clear()
        touched = self._set_bytes * self._launches
        if self._cold and touched < L2_TURNOVER * self._l2_bytes:
            raise AssertionError(f"a replay touches {touched} bytes, less than {L2_TURNOVER} x L2")
        return SamplingFacts(
            input_sets=len(self._sets), launches=self._launches, touched_bytes=touched, l2_bytes=self._l2_bytes
        )

    def check(self, config: Config) -> Checked | Failure:
        """Poison the outputs, run once, compare with float64; then time one launch roughly."""
        torch = self._torch
        tensors = self._sets[0]
        if self._references is None:
            with torch.no_grad():
                self._references = dict(self._spec.reference(self._problem, self._inputs(tensors)))
        for name in self._references:
            tensors[name].fill_(math.nan)
        self._run(config, tensors)
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
        return Checked(error=worst, rough_us=self._rough_us(config, tensors))

    def warm_up(self) -> None:
        """Replay BASELINE for WARM_UP_S seconds, and on until the SM clock settles (at most ten times that)."""
        graph = self._graph(BASELINE)
        began, clock = time.monotonic(), None
        while (elapsed := time.monotonic() - began) < 10 * WARM_UP_S:
            chunk_ends = time.monotonic() + WARM_UP_S / 4
            while time.monotonic() < chunk_ends:
                graph.replay()
                self._torch.cuda.synchronize()
            before, clock = clock, self._monitor.state().sm_mhz
            settled = clock is None or (before is not None and abs(clock - before) <= _SETTLED * before)
            if elapsed >= WARM_UP_S and settled:
                return

    def sample(self, config: Config) -> float:
        """Microseconds a launch over one replay, after one untimed replay."""
        graph = self._graph(config)
        return self._replay_us([graph, graph])[1]

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes:
        """ABBA or BAAB, each arm one replay; the GPU's state is read before and after."""
        # A config against itself (the A/A control) gets two graphs of its own, as any other pair does.
        arms = (self._graph(baseline), self._graph(config, copy=baseline == config))
        first, second = (arms[1], arms[0]) if config_first else arms
        before = self._monitor.state()
        times = self._replay_us([first, first, second, second, first])[1:]
        after = self._monitor.state()
        outer, inner = (times[0] + times[3]) / 2, (times[1] + times[2]) / 2
        baseline_us, config_us = (inner, outer) if config_first else (outer, inner)
        return BlockTimes(
            baseline_us=baseline_us,
            us=config_us,
            discarded=before.discard or after.discard,
            flags=tuple(dict.fromkeys(before.flags + after.flags)),
            sm_mhz=after.sm_mhz,
            power_w=after.power_w,
        )

    def _draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        torch = self._torch
        tensors = {}
        for operand in self._spec.operands(self._problem):
            dtype = getattr(torch, operand.dtype)
            tensor = torch.empty(operand.shape, dtype=dtype, device=self._device)
            if operand.role == "input":
                tensor.normal_(operand.mean, operand.std, generator=generator)
            tensors[operand.name] = tensor
        return tensors

    def _inputs(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {o.name: tensors[o.name] for o in self._spec.operands(self._problem) if o.role == "input"}

    def _run(self, config: Config, tensors: dict[str, Any]) -> None:
        for launch in self._spec.launches(self._problem, config, tensors):
            launch.run()

    def _rough_us(self, config: Config, tensors: dict[str, Any]) -> float:
        start, end = self._events()
        start.record()
        self._run(config, tensors)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3

    def _graph(self, config: Config, *, copy: bool = False) -> torch.cuda.CUDAGraph:
        """The captured launches of a config; the last few are kept. `copy` captures a second, separate graph."""
        key = (config, copy)
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        torch = self._torch
        self._run(config, self._sets[0])  # Outside the capture: loading the machine code is not allowed within.
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph() would collect garbage each time; a sweep captures thousands.
        with torch.cuda.stream(self._capture_stream):
            graph.capture_begin()
            try:
                for index in range(self._launches):
                    self._run(config, self._sets[index % len(self._sets)])
            finally:
                graph.capture_end()
        self._graphs[key] = graph
        while len(self._graphs) > _KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _replay_us(self, graphs: list[torch.cuda.CUDAGraph]) -> list[float]:
        """Microseconds a launch of each replay, queued without a gap.

        The first one hides the host's time to queue the others: it is no fair sample.
        """
        events = []
        for graph in graphs:
            start, end = self._events()
            start.record()
            graph.replay()
            end.record()
            events.append((start, end))
        self._torch.cuda.synchronize()
        return [float(start.elapsed_time(end)) * 1e3 / self._launches for start, end in events]

    def _events(self) -> tuple[Any, Any]:
        event = self._torch.cuda.Event
        return event(enable_timing=True), event(enable_timing=True)
