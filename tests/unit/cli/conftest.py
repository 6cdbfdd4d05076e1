"""What `main` takes for its process, given back to the tests' own."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def process_of_the_tests() -> Iterator[None]:
    """Signals, hooks and the way warnings are shown are as they were after each test."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    hooks = sys.unraisablehook, threading.excepthook, warnings.showwarning
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks
