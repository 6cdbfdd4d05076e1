"""Many compilations at once, each in a process that may crash or hang without taking the sweep along."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import as_completed
from multiprocessing import forkserver, resource_tracker
from typing import NamedTuple

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.processes import deaf_to_interrupts
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.split import joins_summands
from fusetune.core.target import Target
from fusetune.errors import CompileError
from fusetune.kernels.spec import KernelSpec

NICENESS = 10
TIME_LIMIT_S = 60.0
"""A config that takes longer to compile is rejected; typical ones take half a second."""


class Job(NamedTuple):
    """One config of one problem, to be compiled."""

    problem: Problem
    config: Config


class Compiled(NamedTuple):
    """A job with what the compiler made of it, or with the reason why it made nothing."""

    job: Job
    result: Resources | Rejection


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compile_jobs(
    spec: KernelSpec,
    jobs: Sequence[Job],
    target: Target,
    *,
    workers: int | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> CompileRun:
    """Begin to compile `jobs` for `target` in `workers` processes (default: one a core).

    The work goes on in the background from here; iterating yields each job as it is done. A job that does not compile,
    crashes the compiler or takes more than `time_limit_s` seconds is yielded with a Rejection (`compile_error`,
    `compiler_crash`, `compile_timeout`). Triton's cache on disk is shared by all.
    """
    return CompileRun(spec, jobs, target, workers, time_limit_s)


class CompileRun:
    """Compilations under way. Iterate once; `close` ends what has not begun."""

    def __init__(
        self, spec: KernelSpec, jobs: Sequence[Job], target: Target, workers: int | None, time_limit_s: float
    ) -> None:
        from pebble import ProcessPool

        self._time_limit_s = time_limit_s
        self._ending: threading.Thread | None = None
        context = multiprocessing.get_context("forkserver")
        # Loaded once in the server from which the workers are forked, instead of once a worker.
        context.set_forkserver_preload(["fusetune.compiler.quiet", "fusetune.compiler.build", "triton"])
        resource_tracker.ensure_running()  # It sees to itself, and would end the deafness of what is started after it.
        with deaf_to_interrupts():
            forkserver.ensure_running()
        count = max(1, min(workers or usable_cores(), len(jobs)))
        # Whoever asks for compilations has something to do beside them, such as timing, that must not wait for a core.
        self._pool = ProcessPool(max_workers=count, context=context, initializer=os.nice, initargs=(NICENESS,))
        self._futures = {}
        kinds: set[tuple[str, bool, bool]] = set()
        for job in jobs:
            # The launches of a variant have one signature each, and so one launcher.
            kind = job.config.variant, job.config.SPLIT_K > 1, joins_summands(job.config, job.problem)
            future = self._pool.schedule(_compile, args=(spec, job, target, kind not in kinds), timeout=time_limit_s)
            kinds.add(kind)
            self._futures[future] = job

    def __iter__(self) -> Iterator[Compiled]:
        try:
            for future in as_completed(self._futures):
                yield Compiled(self._futures[future], _result_of(future.result, self._time_limit_s))
        finally:
            # Also reached when the caller stops early: what has not begun is dropped. Nobody has to wait for the ends.
            self._begin_to_end()

    def close(self) -> None:
        """Drop what has not begun, and end the processes."""
        self._begin_to_end().join()

    def _begin_to_end(self) -> threading.Thread:
        if self._ending is None:
            if all(future.done() for future in self._futures):
                self._pool.close()  # Processes that are only now being started would complain about a stop.
            else:
                for future in self._futures:
                    future.cancel()
                self._pool.stop()
            self._ending = threading.Thread(target=self._pool.join)
            self._ending.start()
        return self._ending


def _compile(spec: KernelSpec, job: Job, target: Target, with_launchers: bool) -> Resources | Rejection:
    from fusetune.compiler.build import compile_config

    try:
        return compile_config(spec, job.problem, job.config, target, with_launchers=with_launchers)
    except CompileError as error:
        return Rejection("compile_error", str(error))


def _result_of(result: Callable[[], Resources | Rejection], time_limit_s: float) -> Resources | Rejection:
    from pebble import ProcessExpired

    try:
        return result()
    except FutureTimeoutError:
        return Rejection("compile_timeout", f"took more than {time_limit_s:.0f} s to compile")
    except ProcessExpired as error:
        return Rejection("compiler_crash", f"the compiler process died with exit code {error.exitcode}")
