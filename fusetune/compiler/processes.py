"""The processes that compile: begun once, and kept for all the runs of a command, which come one after another."""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing import forkserver, resource_tracker
from types import TracebackType
from typing import Any

from fusetune.core.processes import deaf_to_interrupts
from fusetune.core.trouble import Trouble, machine_told, trouble_of

NICENESS = 10


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CompileProcesses:
    """So many processes that compile, which keep what they have loaded until `close`.

    They start with the first job, and are replaced where they crash, hang or are killed. `loads` names modules that the
    jobs need beside the compiler: they are loaded once, in the server from which all processes are forked. A program
    has one such server, so that the first to begin it says what it loads.
    """

    def __init__(self, workers: int | None = None, *, loads: Sequence[str] = ()) -> None:
        self._workers, self._loads = workers or usable_cores(), tuple(loads)
        self._pool: Any = None
        self._number = 0
        self._given: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._endings: list[threading.Thread] = []

    def __enter__(self) -> CompileProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def begin_to_load(self) -> None:
        """Start the server, which loads in the background what takes seconds; processes come with the first job.

        Raises MachineError where no process can be had.
        """
        with machine_told():
            _begin_server(self._loads)

    @property
    def workers(self) -> int:
        """How many compile at once."""
        return self._workers

    @property
    def number(self) -> int:
        """Which processes these are: those that were ended have another number than those after them."""
        return self._number

    def answer(self, number: int) -> bool:
        """Whether those of this number still give answers."""
        return self._pool is not None and self._number == number and bool(self._pool.active)

    def schedule(self, function: Callable[..., Any], arguments: Sequence[Any], time_limit_s: float) -> Future[Any]:
        """Have a function called with arguments, all of which can be pickled, in the next process that is free.

        The future raises TimeoutError after `time_limit_s` seconds of work, pebble's ProcessExpired where the process
        died. Raises MachineError or UsageError where no processes can be had.
        """
        if self._pool is not None and not self._pool.active:
            self.end()  # It broke while nothing was asked of it, such as when somebody killed an idle process.
        if self._pool is None:
            with machine_told():
                self._pool = _pool_of(self._workers, self._loads)
            self._number += 1
        try:
            future: Future[Any] = self._pool.schedule(function, args=arguments, timeout=time_limit_s)
        except (OSError, RuntimeError) as error:  # The pool starts here, and says so where it has broken since.
            self.end()
            told = f"processes that compile could not be had ({str(error) or type(error).__name__})"
            trouble = trouble_of(error) or Trouble(f"{told}; see `ulimit -n` and `ulimit -u`")
            raise trouble.error() from error
        self._given.add(future)
        return future

    def end(self) -> None:
        """Begin to end the processes, without waiting, and drop what they are at. The next job starts others."""
        if self._pool is not None:
            if all(future.done() for future in self._given):
                self._pool.close()  # Processes that are only now being started would complain about a stop.
            else:
                self._pool.stop()
            self._given.clear()
            self._begin_to_end()

    def wait(self) -> None:
        """Return when all processes that were to end are gone."""
        while self._endings:
            self._endings.pop().join()

    def close(self) -> None:
        """End the processes, and wait for it."""
        self.end()
        self.wait()

    def _begin_to_end(self) -> None:
        pool, self._pool = self._pool, None
        ending = threading.Thread(target=pool.join)
        try:
            ending.start()
        except RuntimeError:  # No memory for another thread: then it is waited for after all.
            pool.join()
        else:
            self._endings.append(ending)


def _begin_server(loads: Sequence[str]) -> Any:
    context = multiprocessing.get_context("forkserver")
    # Loaded once in the server from which the workers are forked, instead of once a worker.
    compiler = ("fusetune.compiler.quiet", "fusetune.compiler.build", "triton")
    context.set_forkserver_preload([*compiler, *loads, "fusetune.compiler.primed"])
    resource_tracker.ensure_running()  # It sees to itself, and would end the deafness of what is started after it.
    with deaf_to_interrupts():
        forkserver.ensure_running()
    return context


def _pool_of(count: int, loads: Sequence[str]) -> Any:
    from pebble import ProcessPool

    context = _begin_server(loads)
    # Whoever asks for compilations has something to do beside them, such as timing, that must not wait for a core.
    return ProcessPool(max_workers=count, context=context, initializer=os.nice, initargs=(NICENESS,))
