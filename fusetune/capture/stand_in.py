"""A GPU that is not there, for a program that asks for one: its launches are compiled for a Target, and none is run.

What a program sees: torch.cuda has one device with the Target's figures, and each tensor says that it is on it. What is
there: tensors on the CPU, on which PyTorch's own operators compute; a Triton kernel is compiled and writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fusetune.core.target import Target


@contextlib.contextmanager
def stand_in(target: Target) -> Iterator[None]:
    """Let programs in this process believe that `target` is their GPU; all is as before afterwards.

    It holds for the thread that enters it, and for those begun within. New tensors are zero where they would hold
    anything, and comparisons within a tolerance say that all is equal, since what kernels would have written is not
    there. Tensors on the CPU and on the GPU are the same ones: moving one gives itself. torch.compile gives what it was
    given. Raises MissingPackageError where torch or triton is not installed, UsageError under TRITON_INTERPRET=1.
    """
    from fusetune.errors import MissingPackageError

    try:
        from fusetune.capture import cuda_stand_in, tensor_stand_in, triton_stand_in
        from fusetune.capture.patching import Patches
    except ImportError as error:
        raise MissingPackageError(
            f"{error.name or error} is not installed; a capture needs torch and triton"
        ) from error

    with Patches() as patches:
        cuda_stand_in.install(patches, target)
        mode = tensor_stand_in.SeenOnGpu()
        tensor_stand_in.install(patches, mode)
        triton_stand_in.install(patches, target)
        with mode:
            yield
