"""The process that tunes on one GPU: it is given one problem after another, and says where it is with each.

The GPU is the only one that it sees. What it loads, and the processes that compile and measure for it, last from one
problem to the next. It ends with whoever began it, whatever it is at.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NoReturn

import msgspec

from fusetune.compiler.processes import CompileProcesses
from fusetune.core.processes import DEBUG_VARIABLE
from fusetune.core.progress import Phase, Progress
from fusetune.errors import (
    FusetuneError,
    MachineError,
    MeasurementError,
    NoisyMachineError,
    NoUsableGpuError,
    WrongResultError,
)
from fusetune.fleet.sending import UnlikeError, received_request, received_spec
from fusetune.fleet.words import Answer, How, Work
from fusetune.measure import libraries
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import Measurer
from fusetune.ops.built_in import spec_modules
from fusetune.ops.spec import KernelSpec
from fusetune.store.paths import config_path
from fusetune.tune.request import SweepRequest, SweepResult

SAY_EVERY_S: Final = 0.25
CAPTURES_NEED: Final = ("torch", "fusetune.capture.spec")
_MAYBE_THE_GPU: Final = (NoUsableGpuError, MeasurementError, MachineError, WrongResultError)
"""What a GPU can be at fault for. A kernel that is wrong on two of them is wrong."""


class Begin(msgspec.Struct, frozen=True):
    """The first message. `runs` is the folder for journals; `sends_journals` where the client has another disk.

    `workers` is how many are likely to compile at once, and `captures` whether captures will come. `folder` is for what
    the process writes meanwhile: it goes with the process, or whoever began that removes it.
    """

    runs: str
    folder: str = ""
    sends_journals: bool = False
    workers: int = 1
    captures: bool = False


Measuring = Callable[[KernelSpec, SweepRequest, float], Measurer]
"""What measures a request, given the seconds for one candidate."""


class Lane:
    """What lasts from problem to problem: the processes that measure and compile."""

    def __init__(self, begin: Begin, say: Callable[[str, bool], None], measuring: Measuring | None = None) -> None:
        self._begin, self._say = begin, say
        self._server = libraries.start_server() if measuring is None else None
        self._measuring = measuring or self._on_gpu
        self._processes: CompileProcesses | None = None
        if self._server is not None:
            self._compiling(begin.workers)
        self._sent: list[Path] = []

    def perform(self, work: Work) -> Answer:
        """Tune one problem. Raises nothing: whatever ends it is the answer."""
        began = time.monotonic()
        self._say("Loading", False)
        self._forget_sent()

        def ended(how: How, why: str = "", **more: Any) -> Answer:
            return Answer(work.item, how, why, seconds=round(time.monotonic() - began, 2), **more)

        try:
            result = self._tuned(work)
        except UnlikeError as error:
            return ended("unfit", str(error))
        except NoisyMachineError as error:
            return ended("noisy", str(error), error=error)
        except _MAYBE_THE_GPU as error:
            return ended("threw", str(error), error=error)
        except FusetuneError as error:
            return ended("done", str(error), error=error)
        except Exception as error:  # noqa: BLE001 - the process goes on with another problem, and the client tells it
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exc()
            return ended("threw", f"{type(error).__name__}: {error}")
        file = None if result.file is None else result.file.read_text(encoding="utf-8")
        return ended("done", result=result, file=file, journal=self._journal_of(result))

    def close(self) -> None:
        """End what was begun."""
        if self._processes is not None:
            self._processes.end()
        if self._server is not None:
            self._server.close()

    def _tuned(self, work: Work) -> SweepResult:
        from fusetune.tune.sweep import sweep

        folder = Path(self._begin.folder)
        processes = self._compiling(work.workers)
        spec = received_spec(work.op, folder)
        fields, limit_s = received_request(work, spec)
        output = folder / "configs" / str(work.item)
        request = SweepRequest(
            **fields,
            output=output,
            runs=Path(self._begin.runs),
            workers=work.workers,
            processes=processes,
            since=work.since,
        )
        if work.existing is not None:
            path = config_path(output, work.gpu, spec.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(work.existing)
        with closing(self._measuring(spec, request, limit_s)) as measurer:
            return sweep(request, measurer, SaidProgress(self._say))

    def _on_gpu(self, spec: KernelSpec, request: SweepRequest, limit_s: float) -> Measurer:
        return CudaMeasurer(
            spec, request.problem, cold=request.cache == "cold", time_limit_s=limit_s, server=self._server
        )

    def _compiling(self, workers: int) -> CompileProcesses:
        """So many processes that compile: those that are there, unless the share of this GPU is another by now."""
        if self._processes is None or self._processes.workers != workers:
            if self._processes is not None:
                self._processes.end()
            self._processes = CompileProcesses(workers, loads=CAPTURES_NEED if self._begin.captures else spec_modules())
            if self._server is not None:
                self._processes.begin_to_load()
        return self._processes

    def _journal_of(self, result: SweepResult) -> tuple[str, bytes] | None:
        if not self._begin.sends_journals:
            return None
        self._sent.append(result.journal)
        return result.journal.name, result.journal.read_bytes()

    def _forget_sent(self) -> None:
        """The client has them: whoever asks for the next problem got the answer to the last."""
        while self._sent:
            self._sent.pop().unlink(missing_ok=True)


class SaidProgress(Progress):
    """Progress as short lines for whoever watches many GPUs: at most four a second, and every one a sign of life."""

    def __init__(self, say: Callable[[str, bool], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock, self._said = say, clock, float("-inf")

    @contextmanager
    def phase(self, title: str, total: int | None = None) -> Iterator[Phase]:
        """A phase, told as it begins and as it goes on."""
        yield _SaidPhase(self, title, total)

    def say(self, text: str) -> None:
        """Where it is, in words."""
        self.tell(text, at_once=True)

    def warn(self, text: str) -> None:
        """A line that the client passes on to the user."""
        self._say(text, True)

    def tell(self, text: str, *, at_once: bool = False) -> None:
        """Say it, unless something was said a moment ago."""
        now = self._clock()
        if at_once or now - self._said >= SAY_EVERY_S:
            self._said = now
            self._say(text, False)


class _SaidPhase:
    def __init__(self, progress: SaidProgress, title: str, total: int | None) -> None:
        self._progress, self._title, self._total, self._done = progress, title, total, 0
        progress.tell(title, at_once=True)

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self._tell()

    def update(self, *, total: int | None = None, detail: str | None = None) -> None:
        self._total = self._total if total is None else total
        self._tell()

    def _tell(self) -> None:
        of = f"/{self._total}" if self._total is not None else ""
        self._progress.tell(f"{self._title} {self._done}{of}")


# The process.


def main(descriptor: int, measuring: Measuring | None = None) -> None:
    """Serve on the socket of this number until its other end is gone."""
    channel = Connection(descriptor)
    lock = threading.Lock()

    def send(message: object) -> None:
        with lock:
            try:
                channel.send(message)
            except OSError:
                _end(begin, 1)

    begin: Begin = channel.recv()
    lane = Lane(begin, lambda text, warning: send((text, warning)), measuring)
    tasks: SimpleQueue[Work | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(channel, tasks, begin), daemon=True).start()
    while (work := tasks.get()) is not None:
        send(_portable(lane.perform(work)))
    lane.close()
    sys.stderr.flush()
    _end(begin, 0)


_ENDS_WITHIN_S: Final = 5.0


def _end(begin: Begin, code: int) -> NoReturn:
    """End at once: threads of what was loaded have nothing to say.

    Whoever began it may have been killed, so that nobody else removes the folder, in which captures may lie.
    """
    if begin.folder:
        shutil.rmtree(begin.folder, ignore_errors=True)
    os._exit(code)


def _listen(channel: Connection, tasks: SimpleQueue[Work | None], begin: Begin) -> None:
    """Take in what is asked for. Where nobody is there any more, end this process, whatever it is at.

    What it began sees its end, and ends, too.
    """
    while True:
        try:
            work = channel.recv()
        except (EOFError, OSError):
            tasks.put(None)
            time.sleep(_ENDS_WITHIN_S)
            _end(begin, 1)
        tasks.put(work)


def _portable(answer: Answer) -> Answer:
    """The answer as another process can read it: an error of a user's own class stays here, and its words go.

    The result goes as bytes, for the client: what passes it on has not loaded the op, whose own types may be in it.
    """
    import pickle

    if answer.result is not None:
        answer = msgspec.structs.replace(answer, result=pickle.dumps(answer.result))
    try:
        pickle.loads(pickle.dumps(answer.error))
    except Exception:  # noqa: BLE001 - pickle passes on whatever the error's own class raises
        return msgspec.structs.replace(answer, error=None)
    return answer
