"""A process of its own for the GPU: it is given one task after the other, and killed where it does not answer.

A pool would poll for its workers' ends ten times a second; here their ends and their answers wake the caller at once.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from fusetune.core.trouble import trouble_of_exit
from fusetune.errors import MeasurementError
from fusetune.measure.fork_server import ForkServer
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
    """A process, forked from a server that has loaded what it needs, that works off tasks in order.

    Once lost or closed it stays so. It ends with the caller at the latest.
    """

    def __init__(self, server: ForkServer) -> None:
        self._tasks, theirs = Pipe()
        with theirs:
            self._process = server.fork(serve, theirs.fileno())
        self._tasks.send(_main_module())
        self._unanswered = 0

    @property
    def pid(self) -> int:
        """The process's number, once the server has loaded."""
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

    def kill(self) -> None:
        """End the process without waiting for its end; `close` does that."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and return when it is gone, and what it held of the GPU with it. Raises MeasurementError.

        One that the server has not come to yet holds nothing, and is killed as soon as it is there.
        """
        self.kill()
        if not self._process.has_begun:
            self._tasks.close()
            return
        code = self._exit_code()
        self._tasks.close()  # Not before: a worker that sees this ends of its own accord, and as if all were well.
        if code is None:
            raise MeasurementError(
                f"the measuring process {self.pid} was killed and does not end; see nvidia-smi, and dmesg"
            )

    def _exit_code(self) -> int | None:
        """How it ended, waiting for that; None where it does not end."""
        return self._process.wait(END_LIMIT_S)

    def _give(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            self._tasks.send((work, arguments))
        except OSError:
            raise self._died() from None

    def _answer(self, until: float, limit_s: float) -> Any:
        try:
            if self._tasks.poll(max(0.0, until - time.monotonic())):
                return self._tasks.recv()
        except (EOFError, OSError):
            raise self._died() from None  # Nobody but the process has the other end of the pipe.
        self.close()
        raise WorkerLostError(Failure("hang", f"not done after {limit_s:.0f} s"))

    def _died(self) -> WorkerLostError:
        code = self._exit_code()
        ended = None if code is None else trouble_of_exit(code)
        if ended is not None:
            return WorkerLostError(Failure("killed", f"the worker {ended.detail}"))
        return WorkerLostError(Failure("crash", f"the worker died with exit code {code}"))


class _InWorkerError(Exception):
    """The traceback of an error that was raised in the worker."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _main_module() -> dict[str, str]:
    """Where a worker finds what the main module defines, such as a user's own KernelSpec."""
    from multiprocessing import spawn

    data = spawn.get_preparation_data("fusetune-worker")
    return {name: value for name, value in data.items() if name.startswith("init_main_from_")}


# What follows runs inside the worker.


def serve(descriptor: int) -> None:
    """The process: answers on the socket of this number until its caller is gone."""
    tasks = Connection(descriptor)
    main_module = tasks.recv()
    while True:
        try:
            task = tasks.recv_bytes()
        except (EOFError, OSError):
            return
        answer = _answered(task, main_module)
        try:
            tasks.send(answer)
        except OSError:
            return


def _answered(task: bytes, main_module: dict[str, str]) -> tuple[Any, Exception | None, str]:
    """What the task returns, or what it raises and where."""
    try:
        if main_module and b"__main__" in task:
            from multiprocessing import spawn

            spawn.prepare(main_module)  # Once it is there, this does nothing.
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
