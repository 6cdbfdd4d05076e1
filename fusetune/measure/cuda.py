"""The real measurer: a worker process that owns the GPU, replaced whenever a candidate breaks it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fusetune.core.config import Config
from fusetune.core.environment import Environment
from fusetune.core.problem import Problem
from fusetune.core.target import Target, known_targets, slugify
from fusetune.errors import FusetuneError, MeasurementError, NoUsableGpuError, WrongResultError
from fusetune.kernels.spec import KernelSpec
from fusetune.measure.nvml import Monitor, visible_gpu
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts
from fusetune.measure.worker import Worker, WorkerLostError

if TYPE_CHECKING:
    from fusetune.measure.session import GpuSession

T = TypeVar("T")

OPEN_LIMIT_S = 180.0
"""Loading torch, allocating inputs and checking BASELINE must be done by then."""
CANDIDATE_LIMIT_S = 20.0
"""One check, sample or block must be done by then; a candidate that is not, hangs."""


def start_worker() -> Worker:
    """A process that begins at once to load torch and triton and to initialise CUDA, which takes seconds.

    It makes no CUDA context yet: a sweep that waits for another one on this GPU would be company on it to the others.
    """
    worker = Worker()
    worker.begin(_load_libraries)
    return worker


class CudaMeasurer:
    """Measures one problem on CUDA device 0 of this process's view, in a process of its own.

    A candidate that hangs, crashes or leaves a CUDA error behind costs the worker, never the sweep: the next call
    is answered by another one with the same seed. `worker` is one that `start_worker` made earlier.
    """

    def __init__(
        self,
        spec: KernelSpec,
        problem: Problem,
        *,
        cold: bool = True,
        time_limit_s: float = CANDIDATE_LIMIT_S,
        worker: Worker | None = None,
    ) -> None:
        self._spec, self._problem, self._cold, self._time_limit_s = spec, problem, cold, time_limit_s
        self._seed: int | None = None
        self._opened = False
        self._worker = worker or start_worker()
        self._spare: Worker | None = None

    def likely_target(self) -> Target | None:
        """The table's row for the GPU that NVML shows, before torch is even loaded; `facts` has the last word."""
        seen = visible_gpu()
        if seen is None:
            return None
        matching = [t for t in known_targets() if (slugify(t.name), t.capability) == (slugify(seen[0]), seen[1])]
        return matching[0] if len(matching) == 1 else None

    def facts(self) -> GpuFacts:
        """The GPU and the software; raises NoUsableGpuError where there is none that torch can use."""
        result = self._ask(_facts, self._spec)
        if isinstance(result, str):
            raise NoUsableGpuError(result)
        return result

    def company(self) -> tuple[str, ...]:
        """The other processes on the GPU now. The GPU is held from here on, so that our own contexts may be made."""
        others = self._ask(_company)
        for worker in (self._worker, self._spare):
            if worker is not None:
                with contextlib.suppress(WorkerLostError):  # Who needs it meets that again.
                    worker.begin(_create_context)
        return others

    def prepare(self, seed: int) -> SamplingFacts:
        """Begin anew in a fresh process.

        Raises WrongResultError where BASELINE itself does not come through, MeasurementError where it does not fit
        into the GPU's memory.
        """
        if self._seed is not None:
            self._replace_worker()
        self._seed = seed
        return self._open()

    def standby(self) -> None:
        """Start the process of the next `prepare`: it loads its libraries, makes its CUDA context, and then rests.

        It touches the GPU only after `company`. While it loads it may disturb what is timed, so that `settle` has to
        come before any decision.
        """
        if self._spare is None:
            self._spare = start_worker()

    def settle(self) -> None:
        """Return when the process that stands by has loaded everything and rests."""
        if self._spare is None:
            return
        try:
            self._spare.wait(OPEN_LIMIT_S)
        except WorkerLostError:
            self._spare = None  # The next `prepare` starts another one, and tells what is wrong if that fails too.

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
        for worker in (self._spare, self._worker):
            if worker is not None:
                worker.close()

    def _open(self) -> SamplingFacts:
        opened = self._ask(_open_session, self._spec, self._problem, self._seed, self._cold)
        if isinstance(opened, Failure):
            seen = f"BASELINE itself failed at {self._problem.describe()} ({opened.reason}: {opened.detail})"
            if opened.reason == "out_of_memory":
                raise MeasurementError(f"{seen}; free the GPU's memory or tune a smaller problem")
            raise WrongResultError(f"{seen}; nothing was tuned. Run `make test-gpu` and report what it says")
        self._opened = True
        return opened

    def _ask(self, work: Callable[..., T], *arguments: Any) -> T:
        """`work`, in which no candidate has a part: what kills the worker there ends the sweep."""
        try:
            return self._worker.call(work, *arguments, limit_s=OPEN_LIMIT_S)
        except WorkerLostError as lost:
            raise MeasurementError(f"the measuring process was lost ({lost}); run the command again") from None

    def _guarded(self, work: Callable[..., T | Failure], *arguments: Any) -> T | Failure:
        """`work` in an open session; what kills the worker comes back as a Failure and the next call opens another."""
        if not self._opened:
            self._open()
        try:
            result = self._worker.call(work, *arguments, limit_s=self._time_limit_s)
        except WorkerLostError as lost:
            self._replace_worker()
            return lost.failure
        if isinstance(result, Failure) and result.fatal:
            self._replace_worker()
        return result

    def _replace_worker(self) -> None:
        """End the worker; the one that stands by, or a new one, takes its place once the old one is gone."""
        self._opened = False
        self._worker.close()
        self._worker, self._spare = self._spare or start_worker(), None


# What follows runs inside the worker.

_session: GpuSession | None = None


def _load_libraries() -> None:
    """What every session needs. An error here comes again, and is told, in the task that needs the library."""
    beside = [threading.Thread(target=work, daemon=True) for work in (_initialise_driver, _prime_triton)]
    for thread in beside:
        thread.start()
    import torch

    for thread in beside:
        thread.join()
    import fusetune.measure.session  # noqa: F401

    if torch.cuda.is_available():
        torch.cuda.init()


def _initialise_driver() -> None:
    """What torch would do after its import; it waits for the driver and not for the interpreter."""
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1").cuInit(0)


def _prime_triton() -> None:
    """What Triton would do before its first launch: hash itself (its library is half a gigabyte), build its driver."""
    # These are no public names: where another Triton has others, the first launch does it.
    with contextlib.suppress(Exception):
        from triton.runtime.cache import triton_key

        triton_key()
    with contextlib.suppress(Exception):
        from triton.backends.nvidia.driver import CudaUtils

        CudaUtils()


def _create_context() -> None:
    """A CUDA context, and cuBLAS as the reference uses it."""
    import torch

    ones = torch.ones(16, 16, dtype=torch.float64, device="cuda")
    (ones @ ones).norm().item()


def _facts(spec: KernelSpec) -> GpuFacts | str:
    import torch
    import triton

    from fusetune.kernels.device import gpu_identity, local_target

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install the CUDA build of torch"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU; check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
    environment = Environment(
        triton=triton.__version__,
        kernel_hash=spec.source_hash(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        driver=_monitor().driver_version(),
        clocks="unlocked",
    )
    return GpuFacts(
        identity=gpu_identity(0),
        target=local_target(0),
        environment=environment,
        uuid=str(torch.cuda.get_device_properties(0).uuid),
    )


def _company() -> tuple[str, ...]:
    return tuple(_monitor().other_processes())


@functools.cache
def _monitor() -> Monitor:
    import torch

    return Monitor(str(torch.cuda.get_device_properties(0).uuid))


def _open_session(spec: KernelSpec, problem: Problem, seed: int, cold: bool) -> SamplingFacts | Failure:
    from fusetune.measure.session import GpuSession

    def begin() -> SamplingFacts | Failure:
        global _session  # noqa: PLW0603 - a worker holds one session; its tasks are plain functions
        _session = GpuSession(spec, problem, seed, _monitor(), cold=cold)
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
