"""Many compilations at once, each in a process that may crash or hang without taking the sweep along."""

from __future__ import annotations

import contextlib
import io
import math
import threading
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from fusetune.compiler.processes import CompileProcesses, usable_cores
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble, full_place, trouble_of, trouble_of_exit
from fusetune.errors import CompileError, FusetuneError, UsageError
from fusetune.ops.spec import KernelSpec

R = TypeVar("R")

TIME_LIMIT_S = 60.0
"""A config that takes longer to compile is left out; typical ones take half a second."""
_LOOK_EVERY_S = 1.0
"""Whether the pool itself is still alive is looked up so often while nothing comes out of it."""
_SPARE: Final = 0.25
"""Beside what the processes are at, so much of that lies ready for who is done."""


Outcome = Resources | Rejection | Trouble
"""What the compiler made of a config, why the config cannot run, or what of the machine let nothing be found out."""


class Job(NamedTuple):
    """One config of one problem, to be compiled."""

    problem: Problem
    config: Config


class Compiled(NamedTuple):
    """A job with what the compiler made of it, or with why it made nothing: the config's reason, or the machine's."""

    job: Job
    result: Outcome


def compile_jobs(
    spec: KernelSpec,
    jobs: Sequence[Job],
    target: Target,
    *,
    workers: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    processes: CompileProcesses | None = None,
) -> CompileRun:
    """Begin to compile `jobs` for `target` in `workers` processes (default: one a core), or in those that are given.

    The work goes on in the background from here; iterating yields each job as it is done. A job that does not compile,
    or crashes the compiler, is yielded with a Rejection (`compile_error`, `compiler_crash`); one of which nothing is
    known, because of a full disk, a killed process or more than `time_limit_s` seconds, with a Trouble. Triton's cache
    on disk is shared by all. `processes` are left to the next run, and have one at a time. Raises MachineError where no
    processes can be had at all.
    """
    return CompileRun(spec, jobs, target, workers, time_limit_s, processes)


class CompileRun:
    """Compilations under way. Iterate once; `close` ends what has not begun.

    The processes are given little more than they can be at, so that the rest can be dropped; who is done is followed by
    the next without the caller, in a thread of the pool.
    """

    def __init__(
        self,
        spec: KernelSpec,
        jobs: Sequence[Job],
        target: Target,
        workers: int | None,
        time_limit_s: float,
        processes: CompileProcesses | None = None,
    ) -> None:
        self._spec, self._target, self._time_limit_s = spec, target, time_limit_s
        self._owns = processes is None
        self._processes = processes or CompileProcesses(max(1, min(workers or usable_cores(), len(jobs))))
        self._ended = False
        self._lock = threading.RLock()  # A job may be done at once, and then feeds the next.
        self._waiting: deque[Job] = deque(jobs)
        self._under_way: dict[Future[Any], Job] = {}
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()
        self._kinds: set[Hashable] = set()
        with self._lock:  # Who is done already waits until it is known which processes these are.
            self._feed(math.ceil(self._processes.workers * (1 + _SPARE)))
            self._number = self._processes.number

    def _feed(self, count: int) -> None:
        """Give the processes so many of the jobs that wait."""
        with self._lock:
            for _ in range(min(count, len(self._waiting))):
                job = self._waiting.popleft()
                # Launches of one signature share a launcher.
                kind = self._spec.signature(job.problem, job.config)
                arguments = self._spec, job, self._target, kind not in self._kinds
                self._kinds.add(kind)
                future = self._processes.schedule(_compile, arguments, self._time_limit_s)
                self._under_way[future] = job
                future.add_done_callback(self._next)

    def _next(self, done: Future[Any]) -> None:
        """Called by a thread of the pool; what is wrong with the processes is found out by who waits for them."""
        self._done.put(done)
        with self._lock:
            if not self._ended and not done.cancelled() and self._processes.answer(self._number):
                with contextlib.suppress(FusetuneError):
                    self._feed(1)

    def __iter__(self) -> Iterator[Compiled]:
        try:
            while self._under_way or self._waiting:
                try:
                    future = self._done.get(timeout=_LOOK_EVERY_S)
                except Empty:
                    if self._processes.answer(self._number):
                        continue
                    # They could not make another process, such as for want of memory, and answer nothing any more.
                    lost = Trouble("the processes that compile were lost; see what uses this machine's memory")
                    for job in (*self._under_way.values(), *self._waiting):
                        yield Compiled(job, lost)
                    return
                with self._lock:
                    job = self._under_way.pop(future)
                yield Compiled(job, outcome_of(future.result, self._time_limit_s))
        finally:
            # Also reached when the caller stops early: what has not begun is dropped. Nobody has to wait for the ends.
            self._begin_to_end()

    def keep(self, configs: Container[Config]) -> None:
        """Drop the jobs of all other configs, as far as they have not begun; what has begun still comes out."""
        with self._lock:
            self._waiting = deque(job for job in self._waiting if job.config in configs)

    def close(self) -> None:
        """Drop what has not begun, and end the processes that are at something; wait for those of this run alone."""
        self._begin_to_end()
        if self._owns:
            self._processes.wait()

    def _begin_to_end(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._waiting.clear()
            left = list(self._under_way)
        if self._owns or not all(future.done() for future in left):
            if self._owns or self._processes.answer(self._number):  # Others that came after them are not this run's.
                self._processes.end()
            for future in left:
                future.cancel()


def _compile(spec: KernelSpec, job: Job, target: Target, with_launchers: bool) -> Outcome:
    try:
        from fusetune.compiler.build import compile_config

        # Where ptxas fails, Triton prints the whole kernel; what of it is of use comes with the error.
        with contextlib.redirect_stdout(io.StringIO()):
            return compile_config(spec, job.problem, job.config, target, with_launchers=with_launchers)
    except CompileError as error:
        return Rejection("compile_error", str(error))
    except (FusetuneError, OSError, MemoryError, ImportError) as error:
        return trouble_of(error) or Trouble(str(error), is_setting=isinstance(error, UsageError))


def outcome_of(result: Callable[[], R], limit_s: float) -> R | Rejection | Trouble:
    """What a job gave, or what its end says of it: of the config, or of the machine."""
    from pebble import ProcessExpired

    try:
        return result()
    except FutureTimeoutError:
        return Trouble(f"took more than {limit_s:.0f} s to compile; is this machine busy?")
    except ProcessExpired as error:
        ended = trouble_of_exit(error.exitcode)
        if ended is not None:
            return Trouble(f"the compiler process {ended.detail}")
        full = full_place()
        if full is not None:
            return Trouble(f"the compiler process died with exit code {error.exitcode}, and there is no room in {full}")
        return Rejection("compiler_crash", f"the compiler process died with exit code {error.exitcode}")
    except (OSError, MemoryError, RuntimeError, CancelledError, EOFError) as error:
        return trouble_of(error) or Trouble(
            f"the process that compiled was lost, or killed ({str(error) or type(error).__name__})"
        )
