"""Imported last by the server that compiling processes are forked from: what each would find out, they inherit."""

from __future__ import annotations

import contextlib
import gc

from triton.runtime.cache import triton_key

with contextlib.suppress(OSError, ImportError):  # What is in the way is told by the first job that meets it.
    triton_key()  # It hashes Triton's library, which is half a gigabyte.
gc.freeze()  # Nothing of what is loaded is garbage, and memory that is not looked at stays shared.
