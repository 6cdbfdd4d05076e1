"""The `fusetune` command: runs one command, and tells in one line whatever ends it, with the exit code for it.

Nothing but the interpreter's own modules is loaded here, so that a signal or a broken package finds the net in place.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from typing import Any, NoReturn

from fusetune.cli import streams
from fusetune.cli.signals import Signals, Terminated
from fusetune.core.processes import DEBUG_VARIABLE
from fusetune.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE

_GO_ON = ("sweep", "tune")
"""The commands whose journals another call takes up."""


def main() -> NoReturn:
    """Run the command line of this process, whose signals, warnings and streams are its own from here on.

    Ends in SystemExit, never in a traceback, unless --debug asks for it.
    """
    debug = "--debug" in sys.argv[1:]
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    signals = Signals()
    signals.install()
    if sys._getframe(1).f_globals.get("__name__") == "__main__":
        atexit.register(_leave, signals)  # First of all, and so the last to be called.
    streams.take_over()
    warnings.showwarning = _show_warning
    _be_quiet_elsewhere(signals, debug=debug)
    code = EXIT_INTERRUPTED
    try:
        code = _ended(debug=debug)
        failed = streams.flush()
        if failed is not None and code == EXIT_OK:  # Else another reason to end was told already, or this one.
            code = _code_of(failed, debug=debug)
    except (KeyboardInterrupt, Terminated):
        pass  # It came while the end was told; `signals` knows which it was.
    if signals.code is not None:  # Even where something on the way swallowed its exception.
        code = signals.code
    signals.finish(code)
    sys.exit(code)


def _leave(signals: Signals) -> None:
    """End a process that has nothing left to do.

    Python would take a tenth of a second to take torch and triton apart, and meanwhile a signal would end it with
    another exit code than the one that was decided.
    """
    if signals.decided is not None:
        streams.flush()
        os._exit(signals.decided)


def _ended(*, debug: bool) -> int:
    """The exit code of the command, once it has ended in whatever way and its last line is told."""
    try:
        return _run(sys.argv[1:])
    except SystemExit as stop:
        if isinstance(stop, Terminated):
            streams.say(f"Terminated; {_after_the_end()}")
        if isinstance(stop.__context__, BrokenPipeError):  # So rich ends a program that it cannot print for.
            return EXIT_BROKEN_PIPE
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or EXIT_OK
        streams.say(f"Error: {stop.code}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        streams.say(f"Interrupted; {_after_the_end()}")
        return EXIT_INTERRUPTED
    except BaseException as error:  # noqa: BLE001  The last net: nothing is above it but the interpreter.
        return _code_of(error, debug=debug)


def _after_the_end() -> str:
    """What holds after a signal: of a sweep, what it found out is in its journal."""
    named = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if named not in _GO_ON:
        return "nothing was half-written."
    ours = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    which = "without --fresh the same command" if "--fresh" in ours else "the same command"
    return f"nothing was half-written; {which} goes on where this one stopped."


def _run(arguments: list[str]) -> int:
    """As click would in its standalone mode, which has an opinion of its own on broken pipes and ends of files."""
    import click

    from fusetune.cli.commands import cli

    if "FUSETUNE_RUN" in os.environ:  # A program that `fusetune run` runs has started us: we launch what we are asked.
        from fusetune.capture.serving.settings import withdraw

        withdraw(os.environ)
    if "_FUSETUNE_COMPLETE" in os.environ:
        cli.main(prog_name="fusetune")
    try:
        with cli.make_context("fusetune", arguments) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return EXIT_OK


def _code_of(error: BaseException, *, debug: bool) -> int:
    """Tell an error on stderr; the exit code for it."""
    from fusetune.cli.last_net import net

    if isinstance(error, OSError) and streams.nobody_reads(error):
        streams.flush()
        return EXIT_BROKEN_PIPE
    told = net(error)
    if debug and not told.is_usage:
        streams.say(told.traceback())
    for line in told.lines:
        streams.say(line)
    return told.code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line, without the place in our code that Python would show, which says nothing to a user."""
    from fusetune.core.text import printable

    streams.say(f"warning: {printable(' '.join(str(message).split()))}")


def _be_quiet_elsewhere(signals: Signals, *, debug: bool) -> None:
    """No tracebacks from threads and finalizers either: the main thread ends with what ended another one."""

    def in_a_finalizer(lost: Any) -> None:
        if not signals.was_lost(lost.exc_value) and debug:
            sys.__unraisablehook__(lost)

    def in_a_thread(lost: Any) -> None:
        if lost.exc_value is not None and not isinstance(lost.exc_value, SystemExit):
            signals.hand_over(lost.exc_value)

    sys.unraisablehook = in_a_finalizer
    threading.excepthook = in_a_thread


def __getattr__(name: str) -> Any:
    if name == "cli":  # The commands as click has them, for whoever wants to call them without the net.
        from fusetune.cli.commands import cli

        return cli
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
