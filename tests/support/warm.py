"""Python processes that find torch, triton and others loaded: whoever starts the command again and again need not wait.

`warm_python()` is what to start in place of sys.executable. A process of its own loads them once, and forks whatever it
is asked for: `-m`, `-c` or a script, in the caller's folder, with its environment and its three open files. What such a
process starts by its own sys.executable is forked too. Where the point is how a process starts, or what a signal does
to one, take sys.executable itself.
"""

from __future__ import annotations

import array
import ast
import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Callable
from multiprocessing import spawn
from pathlib import Path

_LOADED = ("torch", "click", "filelock", "libcst.metadata", "msgspec", "pebble", "rich.progress", "rich.table", "yaml")
"""What takes longest to load of what the commands use of other projects."""
_LENGTH = 8
_MOST_FILES = 200
_ASKING = """#!{python} -IS
import array, os, signal, socket, sys
words = sys.argv[1:]
if words[:1] == ["-B"]:  # What multiprocessing hands on where PYTHONDONTWRITEBYTECODE is set, as it is for the server.
    del words[0]
forked = words and (words[0] in ("-m", "-c") or words[0][0] != "-")
if not forked or os.environ.get("TRITON_INTERPRET") != {interpret!r}:
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({place!r})
files = array.array("i", (int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)))
files.remove(server.fileno())
asked = repr((words, os.getcwd(), dict(os.environ), list(files))).encode()
server.sendmsg([len(asked).to_bytes({length}, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
server.sendall(asked)
code = int.from_bytes(server.recv({length}), "little", signed=True)
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def warm_python() -> str:
    """The path of a `python` whose processes are forked from one that has loaded torch and triton."""
    folder = Path(tempfile.mkdtemp(prefix="fusetune-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    place, python = folder / "socket", folder / "python"
    interpret = os.environ.get("TRITON_INTERPRET")
    python.write_text(_ASKING.format(python=sys.executable, place=str(place), interpret=interpret, length=_LENGTH))
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        command = [sys.executable, __file__, str(listener.fileno()), str(python)]
        # It ends with its stdin, and so with this process.
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=environment)
    atexit.register(server.communicate)
    return str(python)


def _serve(listener: socket.socket) -> Callable[[], None]:
    """Fork what is asked for until the caller is gone; what is left to do, in the server and in each forked process."""
    list(map(importlib.import_module, _LOADED))
    from triton.runtime.cache import triton_key

    triton_key()  # It hashes half a gigabyte, once a process that compiles.
    gc.freeze()  # What is loaded is not copied by looking for what is to be freed.
    asked: dict[socket.socket, int] = {}
    ended, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    while True:
        ready = select.select([0, ended, listener, *asked], [], [])[0]
        if 0 in ready:
            for pid in asked.values():
                os.kill(pid, signal.SIGKILL)
            return lambda: None
        if ended in ready:
            os.read(ended, 4096)
            for connection, pid in list(asked.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(code.to_bytes(_LENGTH, "little", signed=True))
                    del asked[connection]
        for connection in set(asked) & set(ready):  # Whoever asked is gone.
            os.kill(asked[connection], signal.SIGKILL)
            os.waitpid(asked.pop(connection), 0)
            connection.close()
        if listener in ready:
            connection, _ = listener.accept()
            words, folder, environment, numbers, files = _received(connection)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's threads, of which none has anything to do.
                pid = os.fork()
            if pid:
                asked[connection] = pid
                for file in files:
                    os.close(file)
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (connection, listener, *asked):
                one.close()
            far = [fcntl.fcntl(file, fcntl.F_DUPFD, _MOST_FILES) for file in files]
            os.closerange(3, _MOST_FILES)
            for file, number in zip(far, numbers, strict=True):
                os.dup2(file, number)
                os.close(file)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            _open_streams()
            return functools.partial(_run, words)


def _received(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int], list[int]]:
    """What to run, where, with what environment, the numbers of its open files, and these."""
    head, sent, *_ = connection.recvmsg(_LENGTH, socket.CMSG_SPACE(4 * _MOST_FILES))
    files = array.array("i", sent[0][2]).tolist()
    length, text = int.from_bytes(head, "little"), b""
    while len(text) < length:
        text += connection.recv(length - len(text))
    words, folder, environment, numbers = ast.literal_eval(text.decode())
    return words, folder, environment, numbers, files


def _open_streams() -> None:
    """As Python opens its own: whether a stream can seek, or is a terminal, is another matter in each process."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        raw = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=name == "stderr" or raw.isatty())
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str]) -> None:
    """As `python WORDS` would, and then end without taking torch apart, which takes half a second."""
    code: object = None
    try:
        _run_words(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:  # noqa: BLE001
        frames = error.__traceback__
        traceback.print_exception(error.with_traceback(frames and frames.tb_next and frames.tb_next.tb_next))
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # It may be closed: multiprocessing's tracker closes its own.
            stream.flush()
    os._exit(code or 0)


def _run_words(words: list[str]) -> None:
    kind = words[0] if words[0] in {"-m", "-c"} else ""
    where = {"-m": str(Path.cwd()), "-c": "", "": str(Path(words[0]).resolve().parent)}[kind]
    more = os.environ.get("PYTHONPATH", "")
    sys.path[:1] = [where, *(more.split(os.pathsep) if more else ())]
    name = words[1] if kind else words[0]
    sys.argv = [name if kind != "-c" else "-c", *words[2 if kind else 1 :]]
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    sys.executable = sys.argv[2]
    spawn.set_executable(sys.executable)
    _serve(socket.socket(fileno=int(sys.argv[1])))()
