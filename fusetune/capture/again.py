"""Run a program again, as it is or with other configs: what is asked of its process, and what that answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import msgspec

from fusetune.capture.answers import how_it_ended, not_started, refuse_machine_s
from fusetune.capture.applying import Launched
from fusetune.capture.cases import Case
from fusetune.capture.changes import Change
from fusetune.capture.gpu_share import GpuTime
from fusetune.capture.programs import Program
from fusetune.capture.results import Difference
from fusetune.errors import MachineError


class AgainRequest(msgspec.Struct, frozen=True):
    """A program to run once more, with the changes or, without `apply`, as it is, and only looked at.

    Autotuners above the cases of `held` take what ran when these were captured. `texts` are files that have another
    text in that process, by their paths. `save` is where what it gives is written to, `against` a file of another run
    to compare it with. `reference` is how far that other run is off the program's own reference, where that is known: a
    run that gives the very same does not ask the reference once more. With `target` launches are compiled for that GPU
    and not made, and a function or a model is called once: what it gives says nothing. `profile` asks for the time of
    all kernels on the GPU, and for nothing else.
    """

    program: Program
    changes: tuple[Change, ...]
    apply: bool
    save: str | None = None
    against: str | None = None
    target: str | None = None
    held: tuple[Case, ...] = ()
    texts: dict[str, bytes] = {}
    profile: bool = False
    reference: Difference | None = None


class Ran(msgspec.Struct, frozen=True):
    """What one run came to.

    `failed` says how it ended, where that was not well, and `machine` why that says nothing of the program.
    `launched` has what became of each change, `launches` counts all Triton launches: those of one call of a
    function or a model, and of the whole script or module otherwise; `others` those of the changes' kernels that
    are no case of them.
    `gives` is whether there is a result to compare; `difference` is that to the run it is compared with, and `inputs`
    that of what its inputs then are, where it changes them. `reference` is the difference to the program's own
    reference, `no_reference` why that could not be asked. `forward_ms` is one call's time on the GPU, `kernels_ms` that
    of all Triton launches together, `wall_s` that of the whole process, `gpu` that of all kernels, where it was asked
    for.
    """

    failed: str | None = None
    machine: str | None = None
    launched: tuple[Launched, ...] = ()
    launches: int = 0
    others: int = 0
    gives: bool = False
    difference: Difference | None = None
    inputs: Difference | None = None
    reference: Difference | None = None
    no_reference: str | None = None
    forward_ms: float | None = None
    kernels_ms: float | None = None
    wall_s: float = 0.0
    gpu: GpuTime | None = None

    def ms(self) -> float | None:
        """The time that is compared: of a call where there is one, else of the launches."""
        return self.kernels_ms if self.forward_ms is None else self.forward_ms


def run_again(
    program: Program,
    changes: Sequence[Change],
    *,
    apply: bool,
    save: Path | None = None,
    against: Path | None = None,
    target: str | None = None,
    limit_s: float | None = None,
    reference: Difference | None = None,
) -> Ran:
    """Run a program in a fresh process, with the changes or as it is. See `FreshProcesses.run`."""
    with FreshProcesses() as processes:
        asked = request_of(
            program, changes, apply=apply, save=save, against=against, target=target, reference=reference
        )
        return processes.run(asked, limit_s)


def request_of(
    program: Program,
    changes: Sequence[Change],
    *,
    apply: bool,
    save: Path | None = None,
    against: Path | None = None,
    target: str | None = None,
    held: Sequence[Case] = (),
    texts: Mapping[str, bytes] | None = None,
    reference: Difference | None = None,
) -> AgainRequest:
    """What to ask of a process."""
    return AgainRequest(
        program,
        tuple(changes),
        apply,
        save=None if save is None else str(save),
        against=None if against is None else str(against),
        target=target,
        held=tuple(held),
        texts=dict(texts or {}),
        reference=reference,
    )


def gpu_time_of(program: Program, held: Sequence[Case], limit_s: float | None = None) -> GpuTime | str:
    """The GPU's time by all kernels of one call, or of a whole script; or why there is none.

    Autotuners above the cases of `held` take what ran.
    """
    try:
        with FreshProcesses() as processes:
            ran = processes.run(AgainRequest(program, (), apply=False, held=tuple(held), profile=True), limit_s)
    except MachineError as error:  # What was seen of the program stands all the same.
        return str(error)
    if ran.gpu is None or ran.gpu.triton_share is None:
        return ran.failed or "the profiler saw no kernel"
    return ran.gpu


class _Waiting(NamedTuple):
    """A process that waits for its request, and the environment that it was started in."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]


class FreshProcesses:
    """Runs a program in one process after the other, none of which has run anything before.

    With `ahead` the next one loads torch and triton while one runs, which takes seconds, and waits for its request. It
    is the first one of those that come later under `handed_on`.
    """

    _held: ClassVar[list[_Waiting] | None] = None
    """What waits for those that come later; None where nothing is handed on."""

    def __init__(self, *, ahead: bool = False) -> None:
        self._ahead = ahead
        self._waiting: _Waiting | None = None

    @classmethod
    @contextlib.contextmanager
    def handed_on(cls) -> Iterator[None]:
        """While it lasts, the process that waits when the one is done serves the next, where it runs with `ahead`."""
        cls._held = []
        try:
            yield
        finally:
            held, cls._held = cls._held, None
            for one in held:
                _end(one.process)

    def __enter__(self) -> FreshProcesses:
        if self._ahead and self._held:
            self._waiting = self._held.pop()
        return self

    def __exit__(self, *_: object) -> None:
        if self._waiting is not None and self._held is not None:
            self._held.append(self._waiting)
        elif self._waiting is not None:
            _end(self._waiting.process)
        self._waiting = None

    def _next(self) -> subprocess.Popen[bytes]:
        """The process that waits, where it was started in the environment of now; else a new one."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.environment == dict(os.environ):
            return waiting.process
        if waiting is not None:
            _end(waiting.process)
        return _started()

    def run(self, asked: AgainRequest, limit_s: float | None = None) -> Ran:
        """Run what is asked. What the program prints goes to stderr.

        A program that ends without a word, as by a fault or after `limit_s` seconds, has `failed`. Raises MachineError
        where no process could be started, or the machine ended it or lacked what it takes.
        """
        process = self._next()
        self._waiting = _Waiting(_started(), dict(os.environ)) if self._ahead else None
        with tempfile.TemporaryDirectory(prefix="fusetune-again-") as folder:
            request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
            request.write_bytes(msgspec.json.encode(asked))
            sys.stderr.flush()
            try:
                process.communicate(f"{request}\n{answer}\n".encode(), timeout=limit_s)
            except subprocess.TimeoutExpired:
                return Ran(failed=f"it did not end within {limit_s:g} s")
            finally:
                _end(process)
            if not answer.exists():
                return _unanswered(process.returncode)
            ran = msgspec.json.decode(answer.read_bytes(), type=Ran)
        if ran.machine is not None:
            raise MachineError(ran.machine)
        return ran


def _unanswered(code: int) -> Ran:
    """Of a process that ended without an answer. Raises MachineError where that was the machine's doing."""
    refuse_machine_s(code, "its process")
    return Ran(failed=f"its process ended with {how_it_ended(code)}")


def _started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fusetune.capture.again_child"]
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2)
    except OSError as error:
        raise not_started(error) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, whatever it does; nothing happens to one that has ended."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
