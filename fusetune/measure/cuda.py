"""The real measurer: a worker process that owns the GPU, replaced whenever a candidate breaks it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from fusetune.core.config import Config
from fusetune.core.environment import Environment
from fusetune.core.problem import Problem
from fusetune.core.target import Target, known_targets, slugify
from fusetune.errors import FusetuneError, MeasurementError, NoUsableGpuError, WrongResultError
from fusetune.kernels.spec import KernelSpec
from fusetune.measure.nvml import visible_gpu
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts

if TYPE_CHECKING:
    from pebble import ProcessPool

    from fusetune.measure.session import GpuSession

T = TypeVar("T")

OPEN_LIMIT_S = 180.0
"""Loading torch, allocating inputs and checking BASELINE must be done by then."""
CANDIDATE_LIMIT_S = 20.0
"""One check, sample or block must be done by then; a candidate that is not, hangs."""
_BROKEN_WORKER = 86


class CudaMeasurer:
    """Measures one problem on CUDA device 0 of this process's view, in a process of its own.

    A candidate that hangs, crashes or leaves a CUDA error behind costs the worker, never the sweep: the next call
    starts another one with the same seed.
    """

    def __init__(
        self, spec: KernelSpec, problem: Problem, *, cold: bool = True, time_limit_s: float = CANDIDATE_LIMIT_S
    ) -> None:
        self._spec, self._problem, self._cold, self._time_limit_s = spec, problem, cold, time_limit_s
        self._seed: int | None = None
        self._alive = False
        self._pool = _new_worker()
        self._spare: ProcessPool | None = None

    def likely_target(self) -> Target | None:
        """The table's row for the GPU that NVML shows, before torch is even loaded; `facts` has the last word."""
        seen = visible_gpu()
        if seen is None:
            return None
        matching = [t for t in known_targets() if (slugify(t.name), t.capability) == (slugify(seen[0]), seen[1])]
        return matching[0] if len(matching) == 1 else None

    def facts(self) -> GpuFacts:
        """The GPU and the software; raises NoUsableGpuError where there is none that torch can use."""
        result = self._call(_facts, self._spec, limit_s=OPEN_LIMIT_S)
        if isinstance(result, str):
            raise NoUsableGpuError(result)
        return result

    def prepare(self, seed: int) -> SamplingFacts:
        """Begin anew in a fresh process.

        Raises WrongResultError where BASELINE itself does not come through, MeasurementError where it does not fit
        into the GPU's memory.
        """
        if self._seed is not None:
            self._stop_worker()
        if self._spare is not None:
            self._pool.stop()
            self._pool.join()
            self._pool, self._spare = self._spare, None
        self._seed = seed
        return self._open()

    def standby(self) -> None:
        """Start the next worker and let it load torch and triton; it leaves the GPU alone until it is prepared."""
        if self._spare is None:
            self._spare = _new_worker()
            self._spare.schedule(_load_libraries)

    def check(self, config: Config) -> Checked | Failure:
        """Run once on poisoned outputs and compare with the reference."""
        return self._guarded(_check, config)

    def warm_up(self) -> None:
        """Run BASELINE until the clocks have settled."""
        self._guarded(_warm_up)

    def sample(self, config: Config) -> float | Failure:
        """Microseconds a launch, for screening."""
        return self._guarded(_sample, config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """One paired sample."""
        return self._guarded(_block, baseline, config, config_first)

    def close(self) -> None:
        """End the workers and give the GPU back."""
        for pool in (self._pool, self._spare):
            if pool is not None:
                pool.stop()
                pool.join()

    def _open(self) -> SamplingFacts:
        arguments = (self._spec, self._problem, self._seed, self._cold)
        opened = self._call(_open_session, *arguments, limit_s=OPEN_LIMIT_S)
        if isinstance(opened, Failure):
            seen = f"BASELINE itself failed at {self._problem.describe()} ({opened.reason}: {opened.detail})"
            if opened.reason == "out_of_memory":
                raise MeasurementError(f"{seen}; free the GPU's memory or tune a smaller problem")
            raise WrongResultError(f"{seen}; nothing was tuned. Run `make test-gpu` and report what it says")
        self._alive = True
        return opened

    def _guarded(self, work: Callable[..., T | Failure], *arguments: Any) -> T | Failure:
        """`work` in a live session; what kills the worker comes back as a Failure and the next call opens another."""
        if not self._alive:
            self._open()
        try:
            result = self._call(work, *arguments, limit_s=self._time_limit_s)
        except _WorkerLostError as lost:
            self._alive = False
            return lost.failure
        if isinstance(result, Failure) and result.fatal:
            self._stop_worker()
        return result

    def _stop_worker(self) -> None:
        self._alive = False
        try:
            self._call(os._exit, _BROKEN_WORKER, limit_s=self._time_limit_s)
        except _WorkerLostError:
            return  # That is what was asked for: the pool starts another process.

    def _call(self, work: Callable[..., T], *arguments: Any, limit_s: float) -> T:
        from pebble import ProcessExpired

        future = self._pool.schedule(work, args=arguments, timeout=limit_s)
        try:
            result: T = future.result()
        except FutureTimeoutError:
            raise _WorkerLostError(Failure("hang", f"not done after {limit_s:.0f} s")) from None
        except ProcessExpired as expired:
            raise _WorkerLostError(Failure("crash", f"the worker died with exit code {expired.exitcode}")) from None
        return result


def _new_worker() -> ProcessPool:
    from pebble import ProcessPool

    # spawn: a forked process cannot initialise CUDA if its parent ever did.
    return ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"))


class _WorkerLostError(MeasurementError):
    """The worker process is gone; `failure` says how it went."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the measuring process was lost ({failure.reason}: {failure.detail}); run the command again")
        self.failure = failure


# What follows runs inside the worker.

_session: GpuSession | None = None


def _load_libraries() -> None:
    import torch  # noqa: F401
    import triton  # noqa: F401


def _facts(spec: KernelSpec) -> GpuFacts | str:
    import torch
    import triton

    from fusetune.kernels.device import gpu_identity, local_target
    from fusetune.measure.nvml import Monitor

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install the CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU; check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    monitor = Monitor(uuid)
    environment = Environment(
        triton=triton.__version__,
        kernel_hash=spec.source_hash(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        driver=monitor.driver_version(),
        clocks="unlocked",
    )
    return GpuFacts(
        identity=gpu_identity(0),
        target=local_target(0),
        environment=environment,
        uuid=uuid,
        other_processes=tuple(monitor.other_processes()),
    )


def _open_session(spec: KernelSpec, problem: Problem, seed: int, cold: bool) -> SamplingFacts | Failure:
    import torch

    from fusetune.measure.nvml import Monitor
    from fusetune.measure.session import GpuSession

    monitor = Monitor(str(torch.cuda.get_device_properties(0).uuid))

    def begin() -> SamplingFacts | Failure:
        global _session  # noqa: PLW0603 - a worker holds one session; its tasks are plain functions
        _session = GpuSession(spec, problem, seed, monitor, cold=cold)
        return _session.begin()

    return _caught(begin)


def _check(config: Config) -> Checked | Failure:
    return _caught(lambda: _live().check(config))


def _warm_up() -> Failure | None:
    return _caught(lambda: _live().warm_up())


def _sample(config: Config) -> float | Failure:
    return _caught(lambda: _live().sample(config))


def _block(baseline: Config, config: Config, config_first: bool) -> BlockTimes | Failure:
    return _caught(lambda: _live().block(baseline, config, config_first=config_first))


def _live() -> GpuSession:
    assert _session is not None, "the session is opened first"
    return _session


def _caught(work: Callable[[], T]) -> T | Failure:
    """What a candidate does wrong, as a Failure; fatal when the CUDA context did not survive it."""
    import torch
    from triton.runtime.errors import OutOfResources

    try:
        return work()
    except FusetuneError:
        raise  # The machine's fault, not the candidate's.
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return Failure("out_of_memory", _first_line(error))
    except OutOfResources as error:
        return Failure("out_of_resources", _first_line(error))
    except Exception as error:  # noqa: BLE001 - whatever a candidate raises is its outcome, not the sweep's end
        return Failure("launch_error", _first_line(error), fatal=not _context_survives())


def _context_survives() -> bool:
    import torch

    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
