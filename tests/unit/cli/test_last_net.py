"""Whatever ends a command is one line with the right exit code, and a traceback only for --debug."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from fusetune.cli import commands
from fusetune.cli.commands import COMMANDS, cli
from fusetune.cli.main import main
from fusetune.errors import MachineError


class Ran(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


class Mute(Exception):  # noqa: N818
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


def broken_pool() -> BrokenProcessPool:
    error = BrokenProcessPool("")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    return error


ENDS: dict[str, tuple[Callable[[], BaseException], int, str]] = {
    "a fault": (lambda: ValueError("odd"), 70, "fusetune has a fault: ValueError: odd (in fusetune/cli/"),
    "an assertion": (lambda: AssertionError("held"), 70, "fusetune has a fault: AssertionError: held"),
    "an end of a file": (EOFError, 70, "fusetune has a fault: EOFError"),
    "a recursion": (lambda: RecursionError("too deep"), 70, "fusetune has a fault: RecursionError"),
    "a long message": (lambda: KeyError("k" * 10**7), 70, "..."),
    "a message in lines": (lambda: ValueError("a\nb\x1b[2J\r::stop::"), 70, r"a b\x1b[2J \x3a:stop::"),
    "an error without words": (Mute, 70, "(its message cannot be read)"),
    "a group": (lambda: BaseException("base"), 70, "fusetune has a fault: BaseException: base"),
    "a full disk": (lambda: OSError(errno.ENOSPC, "No space left", "/f/x"), 3, "/f/x: No space left; make room"),
    "a failing device": (lambda: OSError(errno.EIO, "Input/output error", "/f"), 3, "/f: Input/output error"),
    "too many files": (lambda: OSError(errno.EMFILE, "Too many open files"), 3, "`ulimit -n`"),
    "too large a file": (lambda: OSError(errno.EFBIG, "File too large", "/f"), 3, "`ulimit -f`"),
    "too many processes": (lambda: BlockingIOError(errno.EAGAIN, "Resource unavailable"), 3, "`ulimit -u`"),
    "a closed door": (lambda: PermissionError(errno.EACCES, "Permission denied", "/f"), 3, "/f: Permission denied"),
    "a name with a newline": (lambda: OSError(errno.EIO, "Input/output error", "a\nb"), 3, r"a\x0ab: Input"),
    "a missing file": (lambda: FileNotFoundError(errno.ENOENT, "No such file", "/f"), 2, "/f: No such file"),
    "too long a name": (lambda: OSError(errno.ENAMETOOLONG, "File name too long", "n" * 9999), 2, "too long"),
    "somebody else's broken pipe": (lambda: BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "Broken pipe"),
    "no memory": (MemoryError, 3, "not enough memory"),
    "no memory for a library": (lambda: ImportError("x.so: failed to map segment"), 3, "not enough memory"),
    "no thread": (lambda: RuntimeError("can't start new thread"), 3, "`ulimit -u`"),
    "no processes": (broken_pool, 3, "no processes to work in: Too many open files"),
    "processes that ended": (lambda: BrokenProcessPool("All workers expired"), 3, "no processes to work in"),
    "a package that is missing": (lambda: ModuleNotFoundError("No module", name="torch"), 2, "pip install torch"),
    "a package that is another": (lambda: ImportError("cannot import name", name="triton.x"), 2, "triton is installed"),
    "an import of our own": (lambda: ImportError("cannot import name", name="fusetune.x"), 70, "has a fault"),
    "an error of ours": (lambda: MachineError("the disk\x1b is full"), 3, r"the disk\x1b is full"),
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The command inside this process, as the entry point runs it."""

    def call(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fusetune", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert isinstance(stop.value.code, int)
        return Ran(stop.value.code, *capsys.readouterr())

    return call


def command_that(end: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, name: str = "targets") -> None:
    """Have a command do this instead of its work, wherever it is."""

    def instead(**_: Any) -> None:
        raise end()

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    monkeypatch.setattr(command, "callback", instead)
    monkeypatch.setattr(command, "params", [p for p in command.params if commands.DEBUG in p.opts])


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_a_command_is_one_line_and_its_exit_code(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    make, code, told = ENDS[end]
    command_that(make, monkeypatch)
    ran = run("targets")
    assert (ran.code, ran.out) == (code, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("Error: ")
    assert told in line
    assert len(line) < 1000
    assert line.isprintable()
    assert ("please report it" in line) == (code == 70)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("end", ["a fault", "a full disk", "no memory", "an error of ours"])
def test_every_command_has_the_net_under_it(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    make, code, told = ENDS[end]
    command_that(make, monkeypatch, name)
    ran = run(name)
    assert ran.code == code
    assert "Traceback" not in ran.err
    if end != "a fault":
        assert told in ran.err


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("arguments", [("--debug", "targets"), ("targets", "--debug")])
def test_debug_shows_the_traceback_before_or_after_the_command_s_name(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, end: str, arguments: tuple[str, ...]
) -> None:
    make, code, _ = ENDS[end]
    command_that(make, monkeypatch)
    ran = run(*arguments)
    assert ran.code == code
    assert "Traceback (most recent call last):\n" in ran.err
    assert ran.err.splitlines()[-1].startswith("Error: ")
    assert ran.err.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_and_of_all_tells_of_debug(run: Callable[..., Ran], name: str) -> None:
    assert "--debug" in run(name, "--help").out
    assert "--debug" in run("--help").out


def test_the_help_tells_the_exit_codes_of_faults_and_interrupts(run: Callable[..., Ran]) -> None:
    words = " ".join(run("--help").out.split())
    for told in ("70 a fault of fusetune", "130 interrupted", "143", "141 nobody reads"):
        assert told in words


@pytest.mark.parametrize(("code", "given"), [(0, None), (0, 0), (7, 7), (2, "a text")])
def test_an_exit_code_that_a_command_chose_is_the_one_it_gets(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, code: int, given: Any
) -> None:
    command_that(lambda: SystemExit(given), monkeypatch)
    assert run("targets").code == code


def test_a_module_of_a_command_that_cannot_be_loaded_is_told_in_one_line(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(name: str) -> Any:
        raise OSError(f"libcudart.so.12: cannot open shared object file, for {name}")

    monkeypatch.setattr(commands, "import_module", cannot)
    ran = run("sweep", "--debug-not")
    (line,) = ran.err.splitlines()
    assert ran.code == 70
    assert "libcudart.so.12" in line


def test_an_installed_package_that_fails_while_it_is_loaded_is_named(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torchlike").mkdir()
    (tmp_path / "torchlike" / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open shared object')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("fusetune.cli.last_net.sysconfig.get_path", lambda kind: str(tmp_path))
    loads = type(sys)("fusetune.cli.loads")
    code = compile("import torchlike", str(Path(commands.__file__).parent / "loads.py"), "exec")
    command = cli.get_command(click.Context(cli), "targets")
    assert command is not None
    monkeypatch.setattr(command, "callback", lambda **_: exec(code, vars(loads)))
    ran = run("targets")
    assert ran.code == 2
    assert "torchlike is installed and cannot be loaded: OSError: libcudart.so.12" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_warning_is_one_line_without_a_place_in_our_code(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn() -> SystemExit:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = sys.modules["fusetune.cli.main"]._show_warning
            warnings.warn("an entry is not used:\n  its config\x1b is odd", RuntimeWarning, stacklevel=1)
        return SystemExit(0)

    command_that(warn, monkeypatch)
    assert run("targets") == Ran(0, "", "warning: an entry is not used: its config\\x1b is odd\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_runs_what_cleans_up_and_ends_with_128_and_its_number(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cleaned: list[int] = []

    def wait() -> SystemExit:
        try:
            os.kill(os.getpid(), number)
            threading.Event().wait(10)
        finally:
            cleaned.append(number)
        return SystemExit(0)

    command_that(wait, monkeypatch)
    ran = run("targets")
    assert ran.code == 128 + number
    assert cleaned == [number]
    assert len(ran.err.splitlines()) == 1


def test_a_signal_that_a_finalizer_swallowed_comes_again(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swallows:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.01)

    def wait() -> SystemExit:
        Swallows()
        threading.Event().wait(10)
        return SystemExit(0)

    command_that(wait, monkeypatch)
    ran = run("targets")
    assert ran.code == 130
    assert "Traceback" not in ran.err


def test_what_ends_a_thread_ends_the_command_that_would_wait_for_it_for_ever(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise OSError(errno.ENOSPC, "No space left", "/f")

    def wait() -> SystemExit:
        threading.Thread(target=fails).start()
        threading.Event().wait(10)
        return SystemExit(0)

    command_that(wait, monkeypatch)
    ran = run("targets")
    assert ran.code == 3
    assert ran.err == "Error: /f: No space left; make room there, or name another folder\n"


@pytest.mark.parametrize("named", ["own_op_fails:SPEC", "some/folder/own_op_fails.py:SPEC"])
def test_an_op_of_the_user_s_own_that_fails_is_no_fault_of_fusetune(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    (tmp_path / "own_op_fails.py").write_text("def f():\n    raise ValueError('mine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_op_fails  # type: ignore[import-not-found]

    command = cli.get_command(click.Context(cli), "targets")
    assert command is not None
    monkeypatch.setattr(command, "callback", lambda **_: own_op_fails.f())
    ran = run("targets", named)
    assert ran.code == 2
    assert "own_op_fails.py:2 failed with ValueError: mine" in ran.err
