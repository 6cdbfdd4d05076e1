"""How fast the command is there. Measured here, since these tests run with no other beside them."""

import subprocess
import sys
import time

HELP_LIMIT_S = 0.3
EMPTY_S = 0.05
"""What an empty interpreter takes to start and end at most, on a machine that is neither slow nor busy."""


def seconds(*arguments: str) -> float:
    """The wall time of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - start


def test_help_is_there_in_under_300_ms() -> None:
    """The fastest of five; on a slow or busy machine in as much more as an empty interpreter takes just before."""
    pairs = [(max(1.0, seconds("-c", "pass") / EMPTY_S), seconds("-m", "fusetune", "--help")) for _ in range(5)]
    assert min(help_s / slower for slower, help_s in pairs) < HELP_LIMIT_S
