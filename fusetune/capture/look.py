"""Look at a program: run it once, in a process of its own, and read what it launched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from fusetune.capture.again import gpu_time_of
from fusetune.capture.answers import how_it_ended, not_started, refuse_machine_s
from fusetune.capture.cases import Looked
from fusetune.capture.child import MISNAMED, QUOTA_BYTES, TROUBLE, Request
from fusetune.capture.keeping import MOST_CASES
from fusetune.capture.programs import Program
from fusetune.core.trouble import Trouble, refuse_interpreter
from fusetune.errors import EXIT_PROGRAM, ProgramError, UsageError


def look(
    program: Program,
    *,
    target: str | None = None,
    limit_s: float | None = None,
    keep: Path | None = None,
    exact: bool = False,
    quota_bytes: int = QUOTA_BYTES,
    most: int = MOST_CASES,
) -> Looked:
    """What a program launches. It runs in the current folder; what it prints goes to stderr.

    With `target` nothing is run on a GPU: launches are compiled for that one. With `keep`, a folder that is not there
    yet, cases are kept in it: at most `most`, with storages of `quota_bytes` together, of which large ones of floats
    are kept by their distribution unless `exact`. A program that fails by itself is told in `failed`, and its traceback
    has been printed. Raises UsageError where a function that is named, or its module, is not there, or its arguments
    cannot be evaluated, ProgramError where the program ended without a word, as by a fault or after `limit_s` seconds,
    and MachineError where no process could be started, or the machine ended it, has no room for what was seen, or kept
    a kernel of the program from being compiled (UsageError where that is a setting, as of Triton's cache).
    """
    refuse_interpreter()
    asked = Request(program, target, None if keep is None else str(keep.absolute()), exact, quota_bytes, most)
    with tempfile.TemporaryDirectory(prefix="fusetune-capture-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_bytes(msgspec.json.encode(asked))
        command = [sys.executable, "-m", "fusetune.capture.child", str(request), str(answer)]
        sys.stderr.flush()
        try:
            done = subprocess.run(command, stdout=2, stdin=subprocess.DEVNULL, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise ProgramError(f"the program did not end within {limit_s:g} s; give it less to do") from error
        except OSError as error:
            raise not_started(error) from error
        misnamed = answer.with_suffix(MISNAMED)
        if misnamed.exists():
            raise UsageError(misnamed.read_text(encoding="utf-8"))
        trouble = answer.with_suffix(TROUBLE)
        if trouble.exists():
            raise msgspec.json.decode(trouble.read_bytes(), type=Trouble).error()
        if not answer.exists():
            refuse_machine_s(done.returncode, "the program's process")
            how = how_it_ended(done.returncode)
            raise ProgramError(f"the program's process ended with {how}, and nothing could be seen of its launches")
        looked = msgspec.json.decode(answer.read_bytes(), type=Looked)
    if looked.failed is None and done.returncode not in {0, EXIT_PROGRAM}:
        return msgspec.structs.replace(looked, failed=f"its process ended with {how_it_ended(done.returncode)}")
    return looked


def with_gpu_time(program: Program, looked: Looked, *, limit_s: float | None = None) -> Looked:
    """The same, with the time of all kernels, for which the program runs once more where a GPU was used."""
    if looked.gpu is None or looked.failed is not None or not looked.cases:
        return looked
    found = gpu_time_of(program, [case for case in looked.cases if case.proposals], limit_s)
    if isinstance(found, str):
        return msgspec.structs.replace(looked, no_gpu_time=found)
    return msgspec.structs.replace(looked, gpu_time=found)
