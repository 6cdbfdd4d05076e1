"""The real measurer: a worker process that owns the GPU, replaced whenever a candidate breaks it."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fusetune.core.config import Config
from fusetune.core.decision import reference_name
from fusetune.core.environment import Environment
from fusetune.core.problem import Problem
from fusetune.core.target import Target, known_targets
from fusetune.core.text import slugify
from fusetune.core.trouble import damage_of, trouble_of
from fusetune.errors import FusetuneError, MeasurementError, NotCheckableError, NoUsableGpuError, WrongResultError
from fusetune.measure.fork_server import ForkServer
from fusetune.measure.libraries import start_server
from fusetune.measure.nvml import Monitor, visible_gpu
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts
from fusetune.measure.worker import Worker, WorkerLostError
from fusetune.ops.before import before_of
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import KernelSpec

if TYPE_CHECKING:
    from fusetune.measure.session import GpuSession

T = TypeVar("T")

OPEN_LIMIT_S = 180.0
"""Loading torch, allocating inputs and checking the reference must be done by then."""
CANDIDATE_LIMIT_S = 20.0
"""One check, sample or block must be done by then; a candidate that is not, hangs."""
ROOM_AHEAD = 4
"""A session is opened ahead where the GPU has so many times as much memory free as it takes."""


def start_worker(server: ForkServer) -> Worker:
    """A process that measures, which begins to initialise CUDA as soon as the server has loaded.

    It makes no CUDA context yet: a sweep that waits for another one on this GPU would be company on it to the others.
    """
    worker = Worker(server)
    worker.begin(_initialise)
    return worker


def likely_target() -> Target | None:
    """The table's row for the GPU that NVML shows, before torch is even loaded; None where it has no such row."""
    seen = visible_gpu()
    if seen is None:
        return None
    matching = [t for t in known_targets() if (slugify(t.name), t.capability) == (slugify(seen[0]), seen[1])]
    return matching[0] if len(matching) == 1 else None


class CudaMeasurer:
    """Measures one problem on CUDA device 0 of this process's view, in a process of its own.

    A candidate that hangs, crashes or leaves a CUDA error behind costs the worker, never the sweep: the next call
    is answered by another one with the same seed. `server` is the caller's own, which may serve several measurers.
    """

    def __init__(
        self,
        spec: KernelSpec,
        problem: Problem,
        *,
        cold: bool = True,
        time_limit_s: float = CANDIDATE_LIMIT_S,
        server: ForkServer | None = None,
    ) -> None:
        self._spec, self._problem, self._cold, self._time_limit_s = spec, problem, cold, time_limit_s
        self._seed: int | None = None
        self._next_seed: int | None = None
        self._opened = False
        self._sampling: SamplingFacts | None = None
        self._server = server or start_server()
        self._owns_server = server is None
        self._worker = start_worker(self._server)
        self._spare: Worker | None = None

    def likely_target(self) -> Target | None:
        """See `likely_target`; `facts` has the last word."""
        return likely_target()

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
                    worker.begin(_create_context, _drawn_dtype(self._spec, self._problem))
        return others

    def prepare(self, seed: int) -> SamplingFacts:
        """Begin anew in a fresh process, which times as the first one did.

        Raises WrongResultError where Before, or BASELINE, itself does not come through, MeasurementError where it does
        not fit into the GPU's memory.
        """
        if self._seed is None:
            self._seed = seed
            return self._open()
        self._seed = seed
        if not self._has_ahead(seed):
            self._replace_worker()
            return self._open()
        assert self._spare is not None, "a session was opened in it"
        old, self._worker, self._spare = self._worker, self._spare, None
        # It ends while the new one warms the GPU up, and is gone before anything is timed.
        old.kill()
        try:
            return self._open()
        finally:
            old.close()

    def standby(self, seed: int) -> None:
        """Start the process of the `prepare(seed)` after the next.

        It makes its CUDA context once `company` was asked for, and then rests. Until then it may disturb what is timed,
        so that `settle` has to come before any decision.
        """
        self._next_seed = seed
        if self._spare is None:
            self._spare = start_worker(self._server)

    def open_ahead(self) -> None:
        """Have the process that stands by draw its inputs and check a config, where both sessions fit into the GPU."""
        if self._spare is not None and self._sampling is not None:
            sets = self._sampling.input_sets
            with contextlib.suppress(WorkerLostError):  # `settle` meets that again.
                self._spare.begin(_open_ahead, self._spec, self._problem, self._next_seed, self._cold, sets)

    def settle(self) -> None:
        """Return when the process that stands by has loaded everything and rests."""
        self._has_ahead(None)

    def _has_ahead(self, seed: int | None) -> bool:
        """Whether the process that stands by rests with this seed's session open.

        One in which something went wrong is forgotten: the next `prepare` starts another, and tells if that fails too.
        """
        if self._spare is None:
            return False
        try:
            ahead = self._spare.call(_opened_ahead, limit_s=OPEN_LIMIT_S)
        except WorkerLostError:
            self._spare = None
            return False
        if isinstance(ahead, Failure):
            self._spare.close()
            self._spare = None
            return False
        return ahead is not None and ahead == seed

    def check(self, config: Config) -> Checked | Failure:
        """Run once on poisoned outputs and compare with the reference."""
        return self._guarded(_check, config)

    def warm_up(self) -> None:
        """Run the reference until the clocks have settled."""
        self._guarded(_warm_up)

    def sample(self, config: Config) -> float | Failure:
        """Microseconds a launch, for screening."""
        return self._guarded(_sample, config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """One paired sample."""
        return self._guarded(_block, baseline, config, config_first)

    def end(self) -> None:
        """Begin to end the workers, all at once: the driver takes its time over each."""
        for worker in self._workers():
            worker.kill()

    def close(self) -> None:
        """End the workers and give the GPU back."""
        self.end()
        for worker in self._workers():
            worker.close()
        if self._owns_server:
            self._server.close()

    def _workers(self) -> list[Worker]:
        return [worker for worker in (self._spare, self._worker) if worker is not None]

    def _open(self) -> SamplingFacts:
        opened = self._ask(_open_session, self._spec, self._problem, self._seed, self._cold, self._sampling)
        if isinstance(opened, Failure):
            name = reference_name(before_of(self._spec, self._problem))
            seen = f"{name} itself failed at {self._problem.describe()} ({opened.reason}: {opened.detail})"
            if opened.reason == "not_checkable":
                raise NotCheckableError(f"not checkable: {opened.detail}")
            if opened.reason == "out_of_memory":
                raise MeasurementError(f"{seen}; free the GPU's memory or tune a smaller problem")
            advice = ". Run `make test-gpu` and report what it says" if name == "BASELINE" else ""
            raise WrongResultError(f"{seen}; nothing was tuned{advice}")
        self._opened = True
        self._sampling = self._sampling or opened
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
        """End the worker; the one that stands by, or a new one, takes its place once the old one is gone.

        What the one that stands by has opened ahead is of another seed, and goes when its session is opened.
        """
        self._opened = False
        self._worker.close()
        self.settle()
        self._worker, self._spare = self._spare or start_worker(self._server), None


# What follows runs inside the worker.

_session: GpuSession | None = None
_broken: Failure | None = None
"""What went wrong as a session was opened ahead: nothing may be timed in this process."""


def _initialise() -> None:
    """CUDA without a context, and NVML. An error here comes again, and is told, in the task that needs it."""
    beside = threading.Thread(target=_initialise_nvml)
    beside.start()
    import torch

    if torch.cuda.is_available():
        torch.cuda.init()
    beside.join()


def _initialise_nvml() -> None:
    """What `Monitor` would do; the libraries count how often they were initialised."""
    with contextlib.suppress(Exception):  # A machine without NVML is told by what it does not answer.
        import pynvml

        pynvml.nvmlInit()


def _drawn_dtype(spec: KernelSpec, problem: Problem) -> str:
    """The dtype of an input that is drawn at random."""
    drawn = (operand.dtype for operand in spec.operands(problem) if operand.role == "input" and operand.is_drawn)
    return next(drawn, "float32")


def _create_context(dtype: str) -> None:
    """A CUDA context, and what a session needs of PyTorch and cuBLAS: each kernel is loaded when it is used first."""
    import torch

    generator = torch.Generator(device="cuda").manual_seed(0)
    drawn = torch.empty(16, 16, dtype=getattr(torch, dtype), device="cuda").normal_(0.0, 1.0, generator=generator)
    exact = drawn.double()
    reference = (exact @ exact.t() + exact[0]) * exact[0]
    difference = drawn.clone().fill_(math.nan).double() - reference
    for seen in (reference.norm(), difference.norm(), difference.abs().max()):
        float(seen)
    _monitor()


def _facts(spec: KernelSpec) -> GpuFacts | str:
    import torch
    import triton

    from fusetune.ops.device import gpu_identity, local_target, why_no_cuda

    why = why_no_cuda()
    if why is not None:
        return why
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


def _open_ahead(spec: KernelSpec, problem: Problem, seed: int, cold: bool, input_sets: int) -> None:
    """Do of `_open_session` what times nothing, where the session in use keeps enough memory for its candidates."""
    import torch

    from fusetune.measure.session import loaded_bytes

    global _broken  # noqa: PLW0603 - a worker holds one session; its tasks are plain functions
    free, _ = torch.cuda.mem_get_info()
    if ROOM_AHEAD * loaded_bytes(spec, problem, input_sets) > free:
        return
    _broken = Failure("launch_error", "the session was not opened to its end")
    _broken = _caught(lambda: _session_of(spec, problem, seed, cold).load())
    if _broken is not None:
        _forget_session()
    torch.cuda.empty_cache()


def _opened_ahead() -> int | Failure | None:
    """The seed of the session that is open, if one is."""
    return _broken or (_session.seed if _session else None)


def _open_session(
    spec: KernelSpec, problem: Problem, seed: int, cold: bool, like: SamplingFacts | None
) -> SamplingFacts | Failure:
    return _caught(lambda: _session_of(spec, problem, seed, cold).begin(like))


def _session_of(spec: KernelSpec, problem: Problem, seed: int, cold: bool) -> GpuSession:
    """The session of this seed, which may be open already."""
    from fusetune.measure.session import GpuSession

    global _session  # noqa: PLW0603
    if _session is None or _session.seed != seed:
        _forget_session()
        _session = GpuSession(spec, problem, seed, _monitor(), cold=cold)
    return _session


def _forget_session() -> None:
    """Give its memory back."""
    import torch

    global _session  # noqa: PLW0603
    if _session is not None:
        _session = None
        gc.collect()  # A session and its timers hold each other.
        torch.cuda.empty_cache()


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
    """What a candidate does wrong, as a Failure; fatal when the CUDA context did not survive it.

    Raises MachineError, or UsageError for what the user has set, where it is the machine that does not let it run.
    """
    import torch
    from triton.runtime.errors import OutOfResources

    try:
        return work()
    except FusetuneError:
        raise  # The machine's fault, not the candidate's.
    except CannotLaunchError as error:
        return Failure("unsupported", str(error))
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return Failure("out_of_memory", _first_line(error))
    except OutOfResources as error:
        return Failure("out_of_resources", _first_line(error))
    except Exception as error:
        # Whatever a candidate raises is its outcome and not the sweep's end, unless it is the machine's.
        if any(told in str(error) for told in _NO_GPU_MEMORY):
            return Failure("out_of_memory", _first_line(error), fatal=not _context_survives())
        trouble = trouble_of(error) or damage_of(error)
        if trouble is not None:
            raise trouble.error() from error
        return Failure("launch_error", _first_line(error), fatal=not _context_survives())


_NO_GPU_MEMORY: Final = ("[CUDA]: out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What Triton, PyTorch and cuBLAS say where memory lacks that PyTorch's allocator does not manage."""


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
