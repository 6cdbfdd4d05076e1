"""Marks tests by the folder they lie in, and says why those are skipped that cannot run here."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Where a core has a process of its own, more threads only wait for each other. What is started from here has as many.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A machine that does something else too is no fault of what is tested.
settings.register_profile("fusetune", deadline=None)
settings.load_profile("fusetune")

# Under nohup, or behind a script's `&`, signals are ignored, and so by every child; a handler is not handed down. The
# tests of what a signal does need it to arrive, and the run itself still survives it.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

# Where ops are that a user named is written down in the user's state folder: here in one of the tests' own.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="fusetune-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

_FOLDERS = ("compile", "interpret", "gpu", "e2e")
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_HERE).parts[0]
        if folder in _FOLDERS:
            item.add_marker(getattr(pytest.mark, folder))
        reason = _why_not(folder)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    # pytest listens at each logger that does not propagate, and where somebody listens at this one, PyTorch's compiler
    # writes down all that it does: a fifth of its time.
    trace = logging.getLogger("torch.__trace")
    trace.propagate = True
    trace.handlers.clear()


def _why_not(folder: str) -> str | None:
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    if folder == "interpret" and not interpreting:
        return "needs TRITON_INTERPRET=1 from the start of the process; `make test` sets it"
    if folder in {"compile", "gpu", "e2e"} and interpreting:
        return "needs the compiler, and TRITON_INTERPRET=1 is set"
    if folder == "gpu" and not _gpu():
        return "needs an NVIDIA GPU and a CUDA build of torch"
    return None


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()
