"""What an op's own members raise is told with the op's and the member's name, and where in its file it was."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fusetune.core.brief import brief_error
from fusetune.core.trouble import trouble_of
from fusetune.errors import FusetuneError, OpError
from fusetune.ops.refusals import CannotLaunchError

TOLD_BY_NAME: Final = frozenset(
    {
        *(
            "problem",
            "check",
            "operands",
            "tolerance",
            "kind",
            "flops",
            "bytes",
            "bound",
            "baseline",
            "candidates",
            "reject",
        ),
        *("before", "neighbours", "listed", "examples"),
        *("estimate", "parse_config", "unlaunchable", "references", "workspace", "signature", "twins", "deterministic"),
        "source_hash",
    }
)
"""Members that compute with numbers and words alone. Who calls the others, which launch or call PyTorch, says where
trouble of the machine is no mistake of the op's: `naming`."""

_OF_THE_GPU: Final = ("cuda", "cublas", "cudnn", "cusolver", "nccl", "out of memory")
"""What a RuntimeError of PyTorch speaks of where no Python code is at fault."""


def told_by_name(member: Any) -> Any:
    """The member of a KernelSpec, such that what it raises names the op and the member."""
    if not callable(member):
        return member

    @functools.wraps(member)
    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return member(self, *arguments, **named)
        except (FusetuneError, CannotLaunchError, OSError, MemoryError):
            raise
        except Exception as error:
            raise _named(self, member.__name__, error) from error

    return called


@contextmanager
def naming(spec: Any, member: str) -> Iterator[None]:
    """What a member that may launch or call PyTorch raises of a mistake in it becomes an OpError; all else passes."""
    try:
        yield
    except Exception as error:
        if not is_mistake(error):
            raise
        raise _named(spec, member, error) from error


def is_mistake(error: Exception) -> bool:
    """Whether an error is one of an op's Python code, and none of the machine, the GPU, its libraries or a compiler."""
    if isinstance(error, FusetuneError | CannotLaunchError | OSError | MemoryError) or trouble_of(error) is not None:
        return False
    if type(error).__module__.partition(".")[0] == "triton":
        return False
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError | RecursionError):
        # PyTorch raises it of shapes that do not fit, and of all that a GPU may suffer; there it has kinds of its own.
        return type(error) is RuntimeError and not any(word in str(error).lower() for word in _OF_THE_GPU)
    return True


def _named(spec: Any, member: str, error: Exception) -> OpError:
    return OpError(f"op {spec.name}: its {member}() fails: {brief_error(error)}{_place(spec, error)}")


def _place(spec: Any, error: Exception) -> str:
    """The line of the op's own file that the error passed last, in brackets; nothing where it has no part in it."""
    try:
        file = inspect.getfile(type(spec))
    except (TypeError, OSError):  # Of a class that was typed in.
        return ""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f" ({Path(file).name}:{lines[-1]})" if lines else ""
