"""The server that those who measure are forked from, and what it loads. Importing this costs nothing."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from typing import Final

from fusetune.measure.fork_server import ForkServer

_SWITCH_S: Final = 1e-4
"""How long a thread that reads waits until the one that imports lets go of Python's lock, for microseconds.

With Python's own 5 ms the hash of Triton, which waits twice a megabyte, was done no sooner than torch had loaded.
"""


def start_server() -> ForkServer:
    """A process that begins at once to load torch and triton, which takes seconds, for those that measure."""
    return ForkServer(load_libraries)


def load_libraries() -> None:
    """What every session needs, without a word to CUDA: processes are forked after it.

    An error here comes again, and is told, in the task that needs the library.
    """
    gc.disable()  # Nothing of what is imported is garbage, and looking for some takes a tenth of the time.
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        beside = threading.Thread(target=_prime_triton)
        beside.start()
        import torch  # noqa: F401

        import fusetune.measure.session  # noqa: F401

        beside.join()
    finally:
        sys.setswitchinterval(usual_s)
        gc.freeze()  # Nor is it later, while the host has to keep ahead of the GPU.
        gc.enable()


def _prime_triton() -> None:
    """What Triton would do before its first launch: hash itself, build its driver, at the same time.

    The driver is built by a C compiler where Triton's cache does not have it, for most of a second.
    """
    hashing = threading.Thread(target=_hash_triton)
    # These are no public names: where another Triton has others, the first launch does it.
    with contextlib.suppress(Exception):
        from triton.backends.nvidia.driver import CudaUtils

        hashing.start()
        CudaUtils()
    with contextlib.suppress(RuntimeError):  # It never started, as without that driver, or without a thread to be had.
        hashing.join()


def _hash_triton() -> None:
    """Its library is half a gigabyte."""
    with contextlib.suppress(Exception):
        from triton.runtime.cache import triton_key

        triton_key()
