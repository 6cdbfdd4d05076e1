"""What `main` takes for its process, given back to the tests' own."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from fusetune.core.processes import DEBUG_VARIABLE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def process_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals, hooks, streams and the way warnings are shown are as they were after each test."""
    monkeypatch.setenv(DEBUG_VARIABLE, "")
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    hooks = sys.unraisablehook, threading.excepthook, warnings.showwarning
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks
