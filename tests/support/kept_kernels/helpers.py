"""What kernels call, under names that other modules have too."""

import triton
import triton.language as tl

SCALE = tl.constexpr(2.0)
OFFSETS = tl.constexpr((1, 2))


@triton.jit
def doubled(x):
    return x * SCALE


@triton.jit
def shifted(x):
    return doubled(x) + OFFSETS[0]
