"""Trouble of the machine, told from a fault of a kernel: by what was raised, what was said, or how a process ended.

A disk, memory, time, a killed process or a damaged file of a cache says nothing about a kernel. It is reported as what
it is, and no run, gate or pin remembers it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fusetune.errors import FusetuneError, MachineError, UsageError

_SMALL_BYTES: Final = 1 << 20
"""A file system with less room than this is full: one kernel's files in Triton's cache take a tenth of it."""

_ENDED_BY_MACHINE: Final = frozenset(
    getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGXFSZ", "SIGBUS", "SIGPIPE")
    if hasattr(signal, name)
)
"""Sent by a person, the kernel of the operating system or a limit. SIGBUS is what a file on a full disk gives, read as
memory. SIGSEGV, SIGABRT, SIGILL, SIGFPE and SIGTRAP are how a program ends by its own fault."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ADVICE: Final[dict[int, str]] = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "raise `ulimit -f`",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "close other programs' files",
    errno.ENOMEM: "free memory, or use fewer --workers",
    errno.EAGAIN: "raise `ulimit -u`, or use fewer --workers",
    errno.EIO: "check the disk",
}

_SAID: Final = re.compile(
    r"no space left on device|disk quota exceeded|file too large|file size limit|read-only file system"
    r"|too many open files|cannot allocate memory|memory allocation fail|out of memory|bad_alloc"
    r"|failed to map segment|input/output error|permission denied|resource temporarily unavailable"
    r"|stale file handle|no usable temporary directory|could not be opened|could not open|file \S+ is not readable"
    r"|can't start new thread|file too short|invalid elf header|could not create or locate cache dir|cannot find ptxas",
    re.IGNORECASE,
)
"""What the C library, the loader, LLVM, ptxas and Triton say of a machine, and of no kernel."""

_RECORDED: Final = re.compile(
    r"\[Errno \d+\]|KeyError: 'cubin'|kernel image is invalid|'InterpretedFunction' object has no attribute"
    r"|\bMemoryError\b|\bJSONDecodeError\b|\bUnicodeDecodeError\b|\bEOFError\b"
    r"|cuobjdump could not|the worker died with exit code (?:-9|-15|137|143)\b"
)
"""How an error of the operating system, or of a damaged file of the cache, reads in a journal of fusetune 0.1."""

_IMAGE: Final = re.compile(r"(?:device kernel image is invalid|invalid (?:device|kernel) image)")
"""What the driver says of machine code that it cannot read."""

_TOOL_EXIT: Final = re.compile(r"`?ptxas`? failed with error code (-?\d+)")


class Trouble(msgspec.Struct, frozen=True):
    """Why nothing can be said about a kernel, in a sentence that names the place and what to do.

    `is_setting`: it is what the user has set, such as TRITON_CACHE_DIR, and theirs to mend.
    """

    detail: str
    is_setting: bool = False

    def error(self) -> FusetuneError:
        """To be raised: UsageError for a setting, MachineError for everything else."""
        return UsageError(self.detail) if self.is_setting else MachineError(self.detail)


def trouble_of(error: BaseException) -> Trouble | None:
    """What of the machine an error, or one that caused it, comes from; None where it is not the machine's."""
    for one in _causes(error):
        if isinstance(one, FusetuneError):
            found = _trouble_raised(one)
        elif isinstance(one, MemoryError):
            found = Trouble("there is no memory left; free some, or use fewer --workers")
        elif isinstance(one, OSError):
            found = _of_system(one)
        elif isinstance(one, subprocess.CalledProcessError):
            found = Trouble(f"{_first(one.cmd)} could not be run here (exit code {one.returncode})")
        else:
            found = _of_text(one)
        if found is not None:
            return found
    return None


def damage_of(error: BaseException) -> Trouble | None:
    """Whether an error in a launch comes of a damaged file in Triton's cache: no kernel raises such ones."""
    for one in _causes(error):
        is_unread = isinstance(one, json.JSONDecodeError | UnicodeDecodeError | EOFError)
        if is_unread or (isinstance(one, KeyError) and one.args == ("cubin",)) or _IMAGE.search(str(one)):
            cache, _ = triton_cache_dir()
            told = f"Triton's cache {cache} holds a damaged file ({type(one).__name__}: {one})"
            return Trouble(f"{told[:400]}; remove that folder and run the command again")
    return None


@contextlib.contextmanager
def machine_told(*, launching: bool = False) -> Iterator[None]:
    """What the machine raises inside becomes MachineError, or UsageError for a setting; all else passes.

    `launching`: it is Triton that reads its cache inside, with nobody to compile anew what is damaged there.
    """
    try:
        yield
    except FusetuneError:
        raise
    except Exception as error:
        trouble = trouble_of(error) or (damage_of(error) if launching else None)
        if trouble is None:
            raise
        raise trouble.error() from error


def refuse_interpreter() -> None:
    """Raise UsageError where Triton is told to interpret kernels: it compiles nothing then, which is no kernel's fault.

    As Triton 3.6 to 3.9 read the variable.
    """
    if os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "on", "yes", "y"}:
        raise UsageError("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles none; unset it")


def trouble_of_exit(code: int) -> Trouble | None:
    """What ended a process, by its exit code (negative for a signal, or 128 and the signal as a shell has it).

    None where it ended by a fault of its own. Where memory is limited (`ulimit -v`), what looks like one is not: what
    cannot allocate aborts.
    """
    number = -code if code < 0 else code - 128
    if number <= 0 or number not in signal.valid_signals():
        return None
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in _ENDED_BY_MACHINE:
        hint = "; see dmesg: Linux kills so where memory runs out" if number == signal.SIGKILL else ""
        return Trouble(f"was ended by {name}{hint}")
    limit = _memory_limit()
    if limit is not None:
        return Trouble(f"was ended by {name} under {limit}, as what cannot allocate memory is; raise that limit")
    return None


def is_recorded_trouble(detail: str | None) -> bool:
    """Whether the detail that a journal gives for a failure is the machine's, as older versions wrote it."""
    if detail is None:
        return False
    found = _TOOL_EXIT.search(detail)
    if found is not None and trouble_of_exit(int(found[1])) is not None:
        return True
    return bool(_SAID.search(detail) or _RECORDED.search(detail))


def why_not_written(error: OSError, otherwise: str) -> str:
    """What a file system said as it refused, and what to do about it: `otherwise` where room is not what lacks."""
    return f"{error.strerror or error}; {_ADVICE.get(error.errno or 0, otherwise)}"


def triton_cache_dir() -> tuple[Path, str | None]:
    """The folder of Triton's cache, and the variable of the environment that names it, where one does."""
    for variable, below in (("TRITON_CACHE_DIR", ()), ("TRITON_HOME", (".triton", "cache"))):
        given = os.environ.get(variable)
        if given:
            return Path(given, *below), variable
    return Path(os.path.expanduser("~"), ".triton", "cache"), None  # noqa: PTH111 - a home that there is not is no error


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and not any(one is other for other in seen):
        yield one
        seen.append(one)
        one = one.__cause__


def _trouble_raised(error: FusetuneError) -> Trouble | None:
    return Trouble(str(error)) if isinstance(error, MachineError) else None


def _of_system(error: OSError) -> Trouble:
    if isinstance(error, shutil.Error):  # Of several files, each with its own reason, as a text.
        named = next(iter(error.args[0] if error.args and isinstance(error.args[0], list) else ()), ())
        return Trouble(f"{named[0]}: {named[-1]}"[:300] if len(named) > 1 else str(error)[:300])
    cache, variable = triton_cache_dir()
    what = error.strerror or str(error) or type(error).__name__
    given = (error.filename, error.filename2)
    names = [os.fsdecode(name) for name in given if isinstance(name, str | bytes | os.PathLike)]
    lacking = error.errno in _ADVICE
    in_cache = any(_is_below(name, cache) for name in names)
    if in_cache and variable is not None and not lacking:
        return Trouble(f"Triton's cache {cache} cannot be used ({names[0]}: {what}); mend {variable}", is_setting=True)
    if in_cache:
        advice = _ADVICE.get(error.errno or 0, "set TRITON_CACHE_DIR to a folder that you may write to")
        return Trouble(f"Triton's cache {cache} cannot be used ({what}); {advice}")
    if names:
        return Trouble(f"{names[0]}: {what}{f'; {_ADVICE[error.errno]}' if error.errno in _ADVICE else ''}")
    if error.errno in _FULL:
        return Trouble(f"{what}: {_full_place(cache)}; {_ADVICE[error.errno]}")
    return Trouble(f"{what}; {_ADVICE[error.errno]}" if error.errno in _ADVICE else what)


def _of_text(error: BaseException) -> Trouble | None:
    """By what is said. A compiler's report holds the source after it; only what comes first counts."""
    told = getattr(error, "error_message", None) or str(error)
    if any(kind.__name__ == "CompilationError" for kind in type(error).__mro__):
        return None  # Triton's front end objects to the kernel, in whatever words the kernel may have chosen.
    # Triton puts the command last, and its own words first; between them stands what ptxas said.
    told = str(told).split("Repro command:")[0][:2000]
    found = _TOOL_EXIT.search(told)
    if found is not None:
        ended = trouble_of_exit(int(found[1]))
        if ended is not None:
            return Trouble(f"ptxas {ended.detail}")
    if "SIGSEGV" in told and _memory_limit() is not None:
        return Trouble(f"ptxas was ended by SIGSEGV under {_memory_limit()}; raise that limit")
    said = _SAID.search(told)
    if said is None:
        return None
    line = next(line for line in told.splitlines() if _SAID.search(line)).strip()[:300]
    cache, _ = triton_cache_dir()
    if "cache dir" in said[0].lower():
        return Trouble(f"Triton's cache {cache} cannot be used ({line}); mend TRITON_CACHE_DIR", is_setting=True)
    at_cache = f"; see Triton's cache {cache}" if str(cache) in line else ""
    return Trouble(f"{type(error).__name__}: {line}{at_cache}")


def _full_place(cache: Path) -> str:
    """Which of the places that a compiler writes to has no room left; both, where neither says so."""
    temporary = _temporary_folder()
    places = {f"Triton's cache {cache}": cache, f"the temporary files in {temporary}": temporary}
    full = [told for told, path in places.items() if is_full(path)]
    return " and ".join(full) or " or ".join(places)


def is_full(path: Path) -> bool:
    """Whether the file system that a path lies on, or would lie on, has no room for another file."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        room = os.statvfs(path)
    except (OSError, AttributeError):
        return False
    return room.f_bavail * room.f_frsize < _SMALL_BYTES or (room.f_files > 0 and room.f_favail == 0)


def full_place() -> str | None:
    """The place, of those that a compiler writes to, that has no room left; None where both have."""
    cache, _ = triton_cache_dir()
    return _full_place(cache) if is_full(cache) or is_full(_temporary_folder()) else None


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _is_below(name: str | bytes, folder: Path) -> bool:
    """Whether a path lies in a folder, or is one that the folder lies in. Nothing of it need be there."""
    path, folder = _absolute(Path(os.fsdecode(name))), _absolute(folder)
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _memory_limit() -> str | None:
    """The limit on this process's memory, as its user set it; None without one."""
    try:
        import resource
    except ImportError:
        return None
    limits = (("RLIMIT_AS", "`ulimit -v`"), ("RLIMIT_DATA", "`ulimit -d`"))
    for name, told in limits:
        soft = resource.getrlimit(getattr(resource, name))[0]
        if soft != resource.RLIM_INFINITY:
            return f"{told} of {soft >> 10} KiB"
    return None


def _first(command: object) -> str:
    return str(command[0]) if isinstance(command, list | tuple) and command else str(command)


def _absolute(path: Path) -> Path:
    try:
        return Path.cwd() / path
    except OSError:  # The folder that we were started in is gone.
        return path
