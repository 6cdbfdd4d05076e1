"""Kernels that name what may be kept, and one that names what may not."""

import math

import triton
import triton.language as tl
from triton.language import cdiv
from triton.language.extra import libdevice

from tests.support.kept_kernels import helpers
from tests.support.kept_kernels.helpers import shifted as moved

KIND = tl.float32
THREE = tl.constexpr(3)
PI = tl.constexpr(math.pi)
WIDE = tl.constexpr(1024)


class Settings:
    """Nothing that a file can hold."""

    block = 4


SETTINGS = Settings()


@triton.jit
def shifted(x):
    return x - THREE


@triton.jit(do_not_specialize=["n"])
def combined(x_ptr, n, BLOCK: tl.constexpr, LIMIT: tl.constexpr = WIDE):
    offsets = tl.arange(0, BLOCK)
    mask = offsets < cdiv(n, 1)
    x = tl.load(x_ptr + offsets, mask=mask).to(KIND)
    tl.store(x_ptr + offsets, shifted(moved(x)) + helpers.doubled(x) * PI, mask=mask)


@triton.jit
def with_library(x_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(x_ptr + offsets, libdevice.exp(tl.math.exp(tl.load(x_ptr + offsets))))


@tl.constexpr
def wider(dtype: tl.dtype) -> tl.dtype:
    return KIND if dtype.is_fp16() else dtype


@triton.jit
def in_wider(x_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    kind: tl.constexpr = wider(x_ptr.dtype.element_ty)
    tl.store(x_ptr + offsets, tl.load(x_ptr + offsets).to(kind) * 2)


@triton.jit
def with_settings(x_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(x_ptr + offsets, tl.load(x_ptr + offsets) * SETTINGS.block)


@triton.jit
def gathered(x_ptr, index_ptr, out_ptr, n, APPLY: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + tl.load(index_ptr + offsets, mask=mask, other=0), mask=mask)
    tl.store(out_ptr + offsets, APPLY(x) + tl.load(out_ptr + offsets, mask=mask), mask=mask)


def times(factor):
    """A kernel that closes over what it was made with."""
    FACTOR = tl.constexpr(factor)

    @triton.jit
    def inner(x):
        return x * FACTOR

    @triton.autotune(configs=[triton.Config({"BLOCK": 16})], key=[])
    @triton.jit
    def kernel(x_ptr, BLOCK: tl.constexpr):
        offsets = tl.arange(0, BLOCK)
        tl.store(x_ptr + offsets, inner(tl.load(x_ptr + offsets)))

    return kernel


@triton.jit
def doubled_in_place(x):
    return x + x
