"""Imported last by the server that compiling processes are forked from: what each would find out, they inherit."""

from __future__ import annotations

import contextlib
import gc
from importlib import import_module

from triton.runtime.cache import triton_key

from fusetune.compiler.tools import triton_release

# Triton loads these as it compiles its first kernel, for a tenth of a second in each process. Private parts, as of
# Triton 3.6 to 3.9: where there is no such module, that is what happens.
for _name in ("triton.compiler.code_generator", "triton.experimental.gluon", "triton.language.extra.libdevice"):
    with contextlib.suppress(ImportError):
        import_module(_name)
triton_release()  # By the metadata of the installed package, which is found once.
with contextlib.suppress(OSError, ImportError):  # What is in the way is told by the first job that meets it.
    triton_key()  # It hashes Triton's library, which is half a gigabyte.
gc.freeze()  # Nothing of what is loaded is garbage, and memory that is not looked at stays shared.
