"""Run a program again, as it is or with other configs: what is asked of its process, and what that answers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fusetune.capture.applying import Launched
from fusetune.capture.changes import Change
from fusetune.capture.programs import Program
from fusetune.capture.results import Difference
from fusetune.errors import MachineError


class AgainRequest(msgspec.Struct, frozen=True):
    """A program to run once more, with the changes or, without `apply`, as it is, and only looked at.

    `save` is where what it gives is written to, `against` a file of another run to compare it with. With `target`
    launches are compiled for that GPU and not made.
    """

    program: Program
    changes: tuple[Change, ...]
    apply: bool
    save: str | None = None
    against: str | None = None
    target: str | None = None


class Ran(msgspec.Struct, frozen=True):
    """What one run came to.

    `failed` says how it ended, where that was not well. `launched` has what became of each change, `launches` counts
    all Triton launches: those of one call of a function or a model, and of the whole script or module otherwise.
    `gives` is whether there is a result to compare; `difference` is that to the run it is compared with, `reference`
    that to the program's own reference, `no_reference` why that could not be asked. `forward_ms` is one call's time on
    the GPU, `kernels_ms` that of all Triton launches together, `wall_s` that of the whole process.
    """

    failed: str | None = None
    launched: tuple[Launched, ...] = ()
    launches: int = 0
    gives: bool = False
    difference: Difference | None = None
    reference: Difference | None = None
    no_reference: str | None = None
    forward_ms: float | None = None
    kernels_ms: float | None = None
    wall_s: float = 0.0

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
) -> Ran:
    """Run a program in a fresh process, with the changes or as it is. What it prints goes to stderr.

    A program that ends without a word, as by a signal or after `limit_s` seconds, has `failed`. Raises MachineError
    where no process could be started.
    """
    saved, other = (None if one is None else str(one) for one in (save, against))
    asked = AgainRequest(program, tuple(changes), apply, saved, other, target)
    with tempfile.TemporaryDirectory(prefix="fusetune-again-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_bytes(msgspec.json.encode(asked))
        command = [sys.executable, "-m", "fusetune.capture.again_child", str(request), str(answer)]
        sys.stderr.flush()
        try:
            done = subprocess.run(command, stdout=2, stdin=subprocess.DEVNULL, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Ran(failed=f"it did not end within {limit_s:g} s")
        except OSError as error:
            raise MachineError(f"no process for the program could be started: {error.strerror or error}") from error
        if not answer.exists():
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            return Ran(failed=f"its process ended with {how}")
        return msgspec.json.decode(answer.read_bytes(), type=Ran)
