"""A driver of Triton's for a GPU that is not there: it loads nothing, and keeps what it is told to launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import wrap_handle_tensordesc
from triton.runtime import driver


class FakeUtils:
    """Takes the place of Triton's C code. `launched` are the calls of its C function, `by_jit` those of a launcher."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.by_jit: list[tuple[Any, ...]] = []
        self.encoded: list[tuple[Any, ...]] = []
        self.loaded = 0
        self.max_shared = 232448

    def get_device_properties(self, device):
        return {"max_shared_mem": self.max_shared}

    def load_binary(self, name, kernel, shared, device):
        self.loaded += 1
        return 1, 4242, 32, 0, 1024

    def unload_module(self, module):
        """As Triton 3.8 and later do with a kernel that is garbage."""

    def launch(self, *arguments):
        self.launched.append(arguments)

    def fill_tma_descriptor_tiled(self, pointer, *rest):
        self.encoded.append((pointer, *rest))
        return "map", pointer

    fill_tma_descriptor = fill_tma_descriptor_tiled


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32, skip: int = 0) -> torch.Tensor:
    """A tensor of zeros that says it is on a GPU, beginning `skip` elements behind a multiple of 16 bytes."""
    flat = torch.zeros(torch.Size(shape).numel() + skip, dtype=dtype)
    return flat[skip:].view(shape).as_subclass(OnGpu)


@contextmanager
def fake_gpu(kernels: Sequence[Any], capability: int = 90) -> Iterator[FakeUtils]:
    """Have Triton launch on an NVIDIA GPU that is not there; the JIT's caches of `kernels` are back afterwards."""
    fake = FakeUtils()

    class Launcher:
        arg_annotations, kernel_signature = "annotations", b"signature"
        launch_cooperative_grid = False

        def __init__(self, source, metadata):
            self.launch_pdl = metadata.launch_pdl
            signature = dict(enumerate(source.signature.values()))
            self.launch = wrap_handle_tensordesc(fake.launch, signature, getattr(metadata, "tensordesc_meta", None))

        def __call__(self, *arguments):
            fake.by_jit.append(arguments)

    class Driver:
        utils, launcher_cls = fake, Launcher

        def get_current_target(self):
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 7

    # Triton keeps what it compiles by device: a real GPU's kernels must not meet this one's.
    kept = [(kernel, kernel.device_caches.pop(0, None)) for kernel in kernels]
    before = driver._active
    driver.set_active(Driver())
    try:
        yield fake
    finally:
        driver._active = before
        for kernel, cache in kept:
            for compiled in kernel.device_caches.pop(0, [{}])[0].values():
                compiled.module = None  # there is no driver left to unload it
            if cache is not None:
                kernel.device_caches[0] = cache
