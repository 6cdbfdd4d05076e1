"""What is said of an error that reached `main`, and its exit code: a mistake, the machine's trouble, or our fault."""

from __future__ import annotations

import errno
import io
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

import fusetune
from fusetune.core.extras import extra_of, lacking
from fusetune.core.text import printable, printable_lines
from fusetune.errors import EXIT_INTERNAL, EXIT_USAGE, FusetuneError, MachineError

_PACKAGE: Final = Path(fusetune.__file__).parent
_MESSAGE_LENGTH: Final = 500
_TRACEBACK_FRAMES: Final = 200

_HINTS: Final = {
    errno.ENOSPC: "make room there, or name another folder",
    errno.EDQUOT: "make room there, or name another folder",
    errno.EFBIG: "files may be larger with a higher `ulimit -f`",
    errno.EMFILE: "a process may open more files with a higher `ulimit -n`",
    errno.ENFILE: "the machine has too many files open",
    errno.ENOMEM: "free some memory, or raise `ulimit -v`",
    errno.EAGAIN: "more processes may run with a higher `ulimit -u`",
    errno.EACCES: "ask for the right to, or name another place",
    errno.EPERM: "ask for the right to, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.EIO: "the device fails, or is gone",
}
_USERS: Final = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EEXIST,
)
"""Errors of a path as it was given, which another path would not have."""
_THREADS: Final = ("can't start new thread", "can't allocate lock")
_NO_MEMORY: Final = ("cannot allocate memory", "failed to map segment", "out of memory")


class Told(msgspec.Struct, frozen=True):
    """The lines for stderr, the exit code, and the error that they are about."""

    lines: tuple[str, ...]
    code: int
    error: BaseException
    is_usage: bool = False
    """Whether click found it on the command line, so that no traceback would tell more."""

    def traceback(self) -> str:
        """Python's own, with what no terminal should act upon spelled out; of a deep recursion its two ends."""
        lines = traceback.format_exception(self.error, limit=_TRACEBACK_FRAMES)
        return printable_lines("".join(lines).rstrip("\n"))


def net(error: BaseException) -> Told:
    """What to say of an error, whatever it is."""
    if isinstance(error, click.ClickException):
        return Told(_usage(error), error.exit_code, error, is_usage=True)
    if isinstance(error, FusetuneError):
        return Told((f"Error: {printable_lines(str(error))}",), error.exit_code, error)
    return _unforeseen(error)


def _usage(error: click.ClickException) -> tuple[str, ...]:
    text = io.StringIO()
    error.show(file=text)
    return tuple(printable_lines(text.getvalue().rstrip("\n")).split("\n"))


def _unforeseen(error: BaseException) -> Told:
    frames = list(_frames(error))
    line = _of_memory_or_processes(error)
    if line is not None:
        return Told((f"Error: {line}",), MachineError.exit_code, error)
    package = _broken_package(error, frames)
    if package is not None:
        return Told((f"Error: {_of_package(package, error)}",), EXIT_USAGE, error)
    if isinstance(error, OSError) and error.errno is not None:
        is_users = error.errno in _USERS and error.filename is not None
        return Told((f"Error: {_of_machine(error)}",), EXIT_USAGE if is_users else MachineError.exit_code, error)
    return _of_a_fault(error, frames)


def _of_memory_or_processes(error: BaseException) -> str | None:
    """A sentence where the machine, or a limit of the shell, had no more memory, threads or processes to give."""
    from concurrent.futures import BrokenExecutor

    message = _message(error)
    if isinstance(error, BrokenExecutor):
        why = error.__cause__
        if isinstance(why, OSError) and why.errno is not None:
            return f"no processes to work in: {_of_machine(why)}"
        return f"no processes to work in: {message or 'they ended'}; memory, `ulimit -n` or `-u` may be short"
    runs_out = isinstance(error, ImportError | OSError) and any(words in message.lower() for words in _NO_MEMORY)
    if isinstance(error, MemoryError) or runs_out:
        told = f" ({message})" if message else ""
        return f"there is not enough memory{told}; free some, or raise `ulimit -v`"
    if isinstance(error, RuntimeError) and any(words in message for words in _THREADS):
        return f"{message}; more may run with a higher `ulimit -u`"
    return None


def _of_a_fault(error: BaseException, frames: Sequence[traceback.FrameSummary]) -> Told:
    """Ours, or that of the op that the user wrote: whose code is the innermost."""
    message, theirs = _message(error), _files_asked_for()
    place = next((frame for frame in reversed(frames) if _is_ours(frame.filename) or frame.filename in theirs), None)
    if place is not None and place.filename in theirs:
        line = f"{printable(place.filename)}:{place.lineno} failed with {type(error).__name__}: {message}"
        return Told((f"Error: {line}; --debug shows the traceback",), EXIT_USAGE, error)
    where = f" (in {_PACKAGE.name}/{Path(place.filename).relative_to(_PACKAGE)}:{place.lineno})" if place else ""
    line = (
        f"fusetune has a fault: {type(error).__name__}: {message}{where}; run again with --debug for the "
        "traceback, and please report it"
    )
    return Told((f"Error: {line}",), EXIT_INTERNAL, error)


def _message(error: BaseException) -> str:
    """The error's own words on one line of bounded length, even where they cannot be had."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001  An error that cannot even say what it is must not be the end of this one.
        return "(its message cannot be read)"
    words = printable(" ".join(words[: 4 * _MESSAGE_LENGTH].split()))
    return words if len(words) <= _MESSAGE_LENGTH else f"{words[:_MESSAGE_LENGTH]}..."


def _of_machine(error: OSError) -> str:
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{printable(' -> '.join(named)[:_MESSAGE_LENGTH])}: " if named else ""
    hint = _HINTS.get(error.errno or 0, "--debug shows where")
    return f"{where}{printable(error.strerror or str(error))}; {hint}"


def _of_package(package: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or package).partition(".")[0]
        found = extra_of(missing)
        if found is not None:
            return lacking("this", [found[1]], found[0])
        return f"{missing} is needed here and not installed; `pip install {missing}`"
    return f"{package} is installed and cannot be loaded: {type(error).__name__}: {_message(error)}; install it anew"


def _broken_package(error: BaseException, frames: Sequence[traceback.FrameSummary]) -> str | None:
    """The installed package that an import of ours did not get, or None where it was nothing of the kind."""
    if isinstance(error, ImportError) and error.name:
        name = error.name.partition(".")[0]
        return None if name == _PACKAGE.name else name
    last = max((place for place, frame in enumerate(frames) if _is_ours(frame.filename)), default=None)
    if last is None:
        return None
    loaded = next((frame for frame in frames[last + 1 :] if not frame.filename.startswith("<frozen")), None)
    return _package_of(loaded.filename) if loaded is not None and loaded.name == "<module>" else None


def _package_of(filename: str) -> str | None:
    """What lies among Python's own modules or the installed ones under this name; None for a file elsewhere."""
    for kind in ("purelib", "platlib", "stdlib", "platstdlib"):  # The last two hold the first two.
        folder = Path(sysconfig.get_path(kind))
        if folder in Path(filename).parents:
            return Path(filename).relative_to(folder).parts[0].removesuffix(".py")
    return None


def _files_asked_for() -> set[str]:
    """The modules that the command line names, as in `--op module:attribute`, or whose files, as far as loaded."""
    places = {argument.rpartition("=")[2].rpartition(":")[0] for argument in sys.argv[1:] if ":" in argument}
    names = {Path(place).stem if place.endswith(".py") else place for place in places}
    return {str(sys.modules[name].__file__) for name in names if name in sys.modules}


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """Where the error passed through, outermost first, without reading any source."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        yield traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)


def _is_ours(filename: str) -> bool:
    return _PACKAGE in Path(filename).parents
