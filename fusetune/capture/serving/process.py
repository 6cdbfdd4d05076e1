"""One process that launches with tuned configs: from the import of triton to its end, which leaves what it served."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from fusetune.capture.answers import write_answer
from fusetune.capture.inductor import when_imported
from fusetune.capture.patching import Patches
from fusetune.capture.serving.served import Notes, Served, joined
from fusetune.capture.serving.settings import Settings, settings_of
from fusetune.core.brief import brief_error
from fusetune.errors import FusetuneError, MissingConfigError

if TYPE_CHECKING:
    from fusetune.capture.serving.serving import Serving

_SECONDS: Final = 0.1
"""Between two writings of what was served so far, at least."""


class ServedProcess:
    """Serves the launches of this process between `begin` and `end`, and of those that are forked from it.

    What was served so far lies in a file of `settings.folder` at all times, since a worker may be killed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.notes = Notes(settings.command, self._something_new)
        self._patches = Patches()
        self._serving: Serving | None = None
        self._begin_file()
        # A fork of it is not.
        self._first = os.getpid() if settings.parent and os.getppid() == settings.parent else 0

    def begin(self) -> None:
        """Serve as soon as triton is there; nothing is imported before."""
        self._patches.callback(when_imported("triton", self._serve))
        if self.settings.folder is not None:
            self._put(os, "_exit", self._leaving(os._exit))
        if self.settings.parent:
            self._put(sys, "excepthook", _in_one_line(sys.excepthook))

    def end(self) -> None:
        """Serve no longer; all of Triton is as it was."""
        self._patches.close()

    def served(self) -> Served:
        """What was served so far in this process."""
        return self.notes.served(_failure_of_main() if os.getpid() == self._first else None)

    def write(self) -> None:
        """Leave what was served, where there is anything to tell."""
        served = self.served()
        if self.settings.folder is None or not (served.kernels or served.by_inductor or served.notes or served.failed):
            return
        with contextlib.suppress(OSError):  # Whoever asked is gone, or the disk is full: no fault of the program.
            write_answer(Path(self.settings.folder, self.name), served)
        self._written = time.monotonic()

    def forked(self) -> None:
        """What was noted before is the parent's, and what was loaded onto the GPU."""
        self.notes.begin_anew()
        if self._serving is not None:
            self._serving.forked()
        self._begin_file()

    def _begin_file(self) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._written = 0.0

    def _something_new(self) -> None:
        from fusetune.runtime.launch_configs import is_capturing

        if time.monotonic() - self._written > _SECONDS and not is_capturing():
            self.write()

    def _serve(self, _triton: ModuleType) -> None:
        """Put Serving in the place of Triton's launches."""
        from fusetune.capture.serving.serving import OnMiss, Serving
        from fusetune.runtime.configs import forget_at_load, load
        from fusetune.runtime.launch_configs import LAUNCH_CONFIGS

        settings = self.settings
        try:
            if settings.configs is not None or settings.predicted:
                load(settings.configs, allow_predicted=settings.predicted)
            serving = Serving(LAUNCH_CONFIGS, self.notes, on_miss=cast(OnMiss, settings.on_miss))
            serving.install()
            self._serving = serving
        except (FusetuneError, AttributeError, ImportError) as error:  # A Triton that cannot be held, or no such files.
            self.notes.note(f"launches ran as they are: {brief_error(error)}")
            return
        self._patches.callback(forget_at_load(serving.forget))
        self._patches.callback(serving.remove)

    def _put(self, holder: Any, name: str, value: Any) -> None:
        """As Patches do, but what the program has put in its place since stays."""
        before = getattr(holder, name)
        setattr(holder, name, value)
        self._patches.callback(lambda: setattr(holder, name, before) if getattr(holder, name) is value else None)

    def _leaving(self, leave: Callable[[int], Any]) -> Callable[[int], Any]:
        def left(code: int) -> Any:
            self.write()
            return leave(code)

        return left


_current: ServedProcess | None = None


def current() -> ServedProcess | None:
    """What serves this process now."""
    return _current


def begin(settings: Settings) -> ServedProcess:
    """Serve this process from now on; who served it so far does no longer."""
    global _current  # noqa: PLW0603 - a process has one Triton
    stop()
    _current = ServedProcess(settings)
    _current.begin()
    return _current


def stop() -> ServedProcess | None:
    """Serve no longer; what did so far has left what it served."""
    global _current
    before, _current = _current, None
    if before is not None:
        before.end()
        before.write()
    return before


def begin_at_import(name: str) -> ModuleSpec | None:
    """Serve as the environment says, while `name` is about to be imported: the spec to import it by."""
    settings = settings_of(os.environ)
    if settings is None:
        return None
    begin(settings)
    for finder in sys.meta_path:
        spec = finder.find_spec(name, None, None)
        if spec is not None:
            return spec
    return None


def end() -> None:
    """The process ends: leave what it served, or that it failed."""
    settings = settings_of(os.environ)
    if _current is not None:
        _current.write()
    elif settings is not None:
        ServedProcess(settings).write()


def read_served(folder: Path, *, but: str = "") -> Served:
    """What all processes left in a folder, together; without the file of the name `but`."""
    found = []
    for path in sorted(one for one in folder.glob("*.json") if one.name != but):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Served))
    return joined(found)


def _after_fork() -> None:
    if _current is not None:
        _current.forked()


os.register_at_fork(after_in_child=_after_fork)


def _in_one_line(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A sys.excepthook that tells a config that is missing in one line, and leaves all else to another."""

    def told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if isinstance(error, MissingConfigError):
            print(f"Error: {error}", file=sys.stderr)
            return None
        return hook(kind, error, trace)

    return told


def _failure_of_main() -> str | None:
    """What the program's own main module ended with, where no one caught it; None where it did not.

    Others leave an error in sys.last_value, too: of Python's own its traceback begins where the process begins.
    """
    error, trace = getattr(sys, "last_value", None), getattr(sys, "last_traceback", None)
    if error is None or isinstance(error, SystemExit | KeyboardInterrupt):
        return None
    if trace is not None:
        code, around = trace.tb_frame.f_code, trace.tb_frame.f_globals
        of_script = code.co_name == "<module>" and around.get("__name__") == "__main__"
        of_module = code.co_name == "_run_module_as_main" and around.get("__name__") == "runpy"
        if not (of_script or of_module):
            return None
    elif not isinstance(error, SyntaxError):  # It has not even begun.
        return None
    return brief_error(error)
