"""What a signal does to a command: an orderly end, with the exit code that shells give for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Final

from fusetune.errors import EXIT_INTERRUPTED

_ENDING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_AGAIN_AFTER_S: Final = 0.05


class Terminated(SystemExit):
    """A signal asked for the end: `finally` blocks run, and the exit code is 128 plus its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into exceptions of the main thread, so that everything is cleaned up.

    One that is ignored, as SIGHUP is under nohup, stays ignored. `code` is what the first of them asks for, or None;
    `decided` the exit code of a command that has ended.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.decided: int | None = None
        self._of_a_thread: BaseException | None = None

    def install(self) -> None:
        """From here on until the process ends. Does nothing outside the main thread, where no handler can be set."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, *_ENDING):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._raise)

    def finish(self, code: int) -> None:
        """The exit code is decided, and nothing is left to be cleaned up: from here on a signal ends at once."""
        self.decided = code
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_ENDING):
                if signal.getsignal(number) == self._raise:
                    signal.signal(number, _end_at_once)

    def was_lost(self, error: BaseException | None) -> bool:
        """Whether a signal's exception came to nothing, as in a finalizer; then it is sent again in a moment."""
        if not isinstance(error, KeyboardInterrupt | Terminated):
            return False
        number = error.number if isinstance(error, Terminated) else signal.SIGINT
        again = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), number))
        again.daemon = True
        with contextlib.suppress(RuntimeError):  # Threads cannot be started any more: the process is ending anyway.
            again.start()
        return True

    def hand_over(self, error: BaseException) -> None:
        """Raise in the main thread what ended another one, since nobody may be left for whom it waits."""
        main, number = threading.main_thread(), signal.SIGTERM
        if self._of_a_thread is None and main.ident is not None and signal.getsignal(number) == self._raise:
            self._of_a_thread = error
            signal.pthread_kill(main.ident, number)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        error, self._of_a_thread = self._of_a_thread, None
        if error is not None:
            raise error
        if self.code is None:
            self.code = 128 + number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(number)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


assert EXIT_INTERRUPTED == 128 + signal.SIGINT
