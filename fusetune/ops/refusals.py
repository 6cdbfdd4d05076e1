"""Which errors say that one config cannot be launched here, by Triton's and the driver's words for it.

Trouble of the GPU (an illegal access stays with a process until its end), of memory or of a disk is none of them.
"""

from __future__ import annotations

from typing import Final

from fusetune.core.brief import brief
from fusetune.errors import UnsupportedProblemError

_COMPILER: Final = (AssertionError, LookupError, NotImplementedError, TypeError, UnsupportedProblemError, ValueError)
"""What Triton, or a description of launches, raises of a config beside errors of its own."""
_PASS_FAILED: Final = "PassManager::run failed"
_DRIVER: Final = "Triton Error [CUDA]: "
_OF_A_KERNEL: Final = (
    "invalid argument",
    "too many resources requested for launch",
    "device kernel image is invalid",
    "no kernel image is available for execution on the device",
    "a PTX JIT compilation failed",
    "the provided PTX was compiled with an unsupported toolchain",
)
"""cuGetErrorString's words for a kernel that is too large for a GPU, or not made for it."""
_KILLED: Final = "failed with error code -"
"""An assembler that a signal ended: of the machine, as where memory is short."""


class CannotLaunchError(Exception):
    """A spec has no launches for a config and says so: its outcome is `unsupported`, which is no fault of a kernel."""


def is_refusal(error: Exception, *, compiling: bool) -> bool:
    """Whether an error says that this very kernel cannot be compiled, loaded or launched on this GPU.

    `compiling`: nothing but the compiler and the loader have run.
    """
    from triton.errors import TritonError

    if isinstance(error, TritonError):
        return _KILLED not in str(error)
    if type(error) is RuntimeError:
        text = str(error)
        return _PASS_FAILED in text or (_DRIVER in text and any(words in text for words in _OF_A_KERNEL))
    return compiling and isinstance(error, _COMPILER)


def is_of_one_config(error: Exception) -> bool:
    """Whether an error is one for which `@triton.autotune` leaves a config of its list out and takes another."""
    from triton.compiler.errors import CompileTimeAssertionFailure
    from triton.runtime.errors import OutOfResources, PTXASError

    left_out = isinstance(error, OutOfResources | CompileTimeAssertionFailure | PTXASError)
    return left_out and _KILLED not in str(error)


def told(error: Exception) -> str:
    """What happened, in half a line."""
    last = str(error).strip().splitlines()[-1:] or [""]
    return brief(f"{type(error).__name__}: {last[0]}")
