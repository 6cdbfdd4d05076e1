"""Kernels from a user's source as it is now, without running the program: each in a folder, as a capture has it.

A process of its own takes from each file the kernel and what that needs (needed.py), and writes it down with all that
it calls (exported.py). So neither the program nor its modules are loaded here, and two revisions of one module can be
launched side by side.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fusetune.capture.answers import how_it_ended, not_started
from fusetune.capture.exported import load_kernel
from fusetune.core.target import Target
from fusetune.core.trouble import full_place, machine_told, refuse_interpreter, trouble_of_exit
from fusetune.errors import EXIT_INCONCLUSIVE, FusetuneError, MachineError, UsageError

LIMIT_S: Final = 300.0
"""To load torch, and whatever the user's modules load, takes seconds."""


class KernelPlace(msgspec.Struct, frozen=True):
    """A kernel by `module:qualname` and the file that it stands in, as a file of configs names it."""

    kernel: str
    file: str


class KernelSource(msgspec.Struct, frozen=True):
    """A kernel as its file has it now: in `folder`, as a capture keeps it.

    `source_hash` is that of its code and of what it calls.
    """

    folder: str
    module: str
    name: str
    source_hash: str

    def load(self) -> Any:
        """The `@triton.jit` function, the same object each time. Raises CaptureError."""
        return load_kernel(Path(self.folder), self.module, self.name)


class NoKernel(msgspec.Struct, frozen=True):
    """Why a kernel could not be had, as a sentence that begins with its file.

    `gone`: the file, or a kernel of that name in it, is not there any more. `never`: it stands where no import reaches.
    """

    why: str
    gone: bool = False
    never: bool = False


class SourceRequest(msgspec.Struct, frozen=True):
    """The kernels that are wanted, the folder to write them to, one by one, and the GPU that their modules see."""

    wanted: tuple[KernelPlace, ...]
    folder: str
    target: str


class SourceAnswer(msgspec.Struct, frozen=True):
    """What was found, in order.

    `machine` says why the machine kept it from being looked at, `usage` what has to be mended for that.
    """

    kernels: tuple[KernelSource | None, ...] = ()
    reasons: tuple[NoKernel | None, ...] = ()
    machine: str | None = None
    usage: str | None = None


def kernels_from_source(
    wanted: Sequence[KernelPlace], folder: Path, target: Target, *, limit_s: float = LIMIT_S
) -> dict[KernelPlace, KernelSource | NoKernel]:
    """The kernels that files have now, written below `folder`; the files are imported, as `target` were the GPU here.

    Raises MachineError where the machine did not let them be looked at, UsageError where importing them ended the
    process, and under TRITON_INTERPRET=1.
    """
    if not wanted:
        return {}
    refuse_interpreter()
    asked = SourceRequest(tuple(dict.fromkeys(wanted)), str(folder.absolute()), target.name)
    with machine_told(), tempfile.TemporaryDirectory(prefix="fusetune-source-") as place:
        request, answer = Path(place, "request.json"), Path(place, "answer.json")
        request.write_bytes(msgspec.json.encode(asked))
        ended = _run(asked, [str(request), str(answer)], limit_s)
        if not answer.exists():
            raise _unanswered(asked, ended)
        found = msgspec.json.decode(answer.read_bytes(), type=SourceAnswer)
    if found.machine is not None:
        raise MachineError(found.machine)
    if found.usage is not None:
        raise UsageError(found.usage)
    pairs = zip(asked.wanted, found.kernels, found.reasons, strict=True)
    return {one: kernel or why or NoKernel(one.file) for one, kernel, why in pairs}


def _run(asked: SourceRequest, arguments: Sequence[str], limit_s: float) -> int:
    """The exit code of the process that imports."""
    command = [sys.executable, "-m", "fusetune.capture.from_source_child", *arguments]
    sys.stderr.flush()
    try:
        return subprocess.run(command, stdout=2, stdin=subprocess.DEVNULL, check=False, timeout=limit_s).returncode
    except subprocess.TimeoutExpired as error:
        told = f"{_files(asked)} could not be imported within {limit_s:g} s; is this machine busy?"
        raise MachineError(told) from error
    except OSError as error:
        raise not_started(error) from error


def _unanswered(asked: SourceRequest, code: int) -> FusetuneError:
    """Of a process that ended without an answer: by the machine, or by what it imported."""
    ended = trouble_of_exit(code)
    if ended is not None:
        return MachineError(f"the process that imported {_files(asked)} {ended.detail}")
    full = full_place()
    if full is not None or code == EXIT_INCONCLUSIVE:
        return MachineError(
            f"what {_files(asked)} have could not be written down; is there room in {full or asked.folder}?"
        )
    return UsageError(f"importing {_files(asked)} ended its process with {how_it_ended(code)}; what ends it has to go")


def _files(asked: SourceRequest) -> str:
    return ", ".join(dict.fromkeys(one.file for one in asked.wanted))
