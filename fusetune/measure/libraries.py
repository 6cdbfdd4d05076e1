"""The server that those who measure are forked from, and what it loads. Importing this costs nothing."""

from __future__ import annotations

import contextlib
import gc
import threading

from fusetune.measure.fork_server import ForkServer


def start_server() -> ForkServer:
    """A process that begins at once to load torch and triton, which takes seconds, for those that measure."""
    return ForkServer(load_libraries)


def load_libraries() -> None:
    """What every session needs, without a word to CUDA: processes are forked after it.

    An error here comes again, and is told, in the task that needs the library.
    """
    gc.disable()  # Nothing of what is imported is garbage, and looking for some takes a tenth of the time.
    try:
        beside = threading.Thread(target=_prime_triton)
        beside.start()
        import torch  # noqa: F401

        beside.join()
        import fusetune.measure.session  # noqa: F401
    finally:
        gc.freeze()  # Nor is it later, while the host has to keep ahead of the GPU.
        gc.enable()


def _prime_triton() -> None:
    """What Triton would do before its first launch: hash itself (its library is half a gigabyte), build its driver."""
    # These are no public names: where another Triton has others, the first launch does it.
    with contextlib.suppress(Exception):
        from triton.runtime.cache import triton_key

        triton_key()
    with contextlib.suppress(Exception):
        from triton.backends.nvidia.driver import CudaUtils

        CudaUtils()
