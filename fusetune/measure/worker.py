"""A process of its own for the GPU: it is given one task after the other, and killed where it does not answer.

A pool would poll for its workers' ends ten times a second; here their ends and their answers wake the caller at once.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, TypeVar

from fusetune.errors import MeasurementError
from fusetune.measure.protocol import Failure

T = TypeVar("T")

END_LIMIT_S = 60.0
"""A killed process that is not gone by then is stuck in the driver."""


class WorkerLostError(Exception):
    """The worker process is gone; `failure` says how it went. Whether that is a candidate's doing, the caller knows."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason}: {failure.detail}")
        self.failure = failure


class Worker:
    """A spawned process that works off tasks in order. Once lost or closed it stays so."""

    def __init__(self) -> None:
        # spawn: a forked process cannot initialise CUDA if its parent ever did.
        context = multiprocessing.get_context("spawn")
        self._tasks, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name="fusetune-worker", daemon=True)
        self._process.start()
        theirs.close()
        self._unanswered = 0

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def begin(self, work: Callable[..., object], *arguments: Any) -> None:
        """Have something done ahead of the next `call` without waiting for it.

        What it returns or raises is dropped: it must be such that the task that needs it would do it again.
        """
        self._give(work, arguments)
        self._unanswered += 1

    def wait(self, limit_s: float) -> None:
        """Until all that was begun is done. Raises WorkerLostError."""
        until = time.monotonic() + limit_s
        while self._unanswered:
            self._answer(until, limit_s)
            self._unanswered -= 1

    def call(self, work: Callable[..., T], *arguments: Any, limit_s: float) -> T:
        """What `work` returns in the process; raises what it raises, and WorkerLostError where no answer comes.

        The limit includes what was begun before and is not done.
        """
        began = time.monotonic()
        self._give(work, arguments)
        self.wait(limit_s)
        result: T
        result, error, told = self._answer(began + limit_s, limit_s)
        if error is not None:
            raise error from _InWorkerError(told)
        return result

    def close(self) -> None:
        """Kill the process and return when it is gone, and what it held of the GPU with it. Raises MeasurementError."""
        self._tasks.close()
        self._process.kill()
        self._process.join(END_LIMIT_S)
        if self._process.exitcode is None:
            raise MeasurementError(
                f"the measuring process {self._process.pid} was killed and does not end; see nvidia-smi, and dmesg"
            )

    def _give(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            self._tasks.send((work, arguments))
        except OSError:
            raise self._died() from None

    def _answer(self, until: float, limit_s: float) -> Any:
        ready = connection.wait([self._tasks, self._process.sentinel], max(0.0, until - time.monotonic()))
        if not ready:
            self.close()
            raise WorkerLostError(Failure("hang", f"not done after {limit_s:.0f} s"))
        try:
            if self._tasks in ready:
                return self._tasks.recv()
        except (EOFError, OSError):
            pass  # It died: its end of the pipe is seen before or together with its exit.
        raise self._died()

    def _died(self) -> WorkerLostError:
        self._process.join(END_LIMIT_S)
        return WorkerLostError(Failure("crash", f"the worker died with exit code {self._process.exitcode}"))


class _InWorkerError(Exception):
    """The traceback of an error that was raised in the worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _serve(tasks: connection.Connection) -> None:
    """The process: answers until its parent is gone."""
    # Ctrl-C reaches the whole process group, and it is the parent that decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            task = tasks.recv_bytes()
        except (EOFError, OSError):
            return
        answer = _answered(task)
        try:
            tasks.send(answer)
        except OSError:
            return


def _answered(task: bytes) -> tuple[Any, Exception | None, str]:
    """What the task returns, or what it raises and where."""
    try:
        work, arguments = pickle.loads(task)
        return work(*arguments), None, ""
    except Exception as error:  # noqa: BLE001 - raised again where the task was asked for
        return None, _portable(error), traceback.format_exc()


def _portable(error: Exception) -> Exception:
    """The error itself, where another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - pickle passes on whatever the error's own class raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
