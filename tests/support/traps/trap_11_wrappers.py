"""Trap 11, what stands between a program and a kernel: a tuner of its own, heuristics that follow the tile, a launcher.

EVEN drops the masks where BLOCK divides n: with an EVEN that was found for another BLOCK, the kernel writes outside. A
Config's hook zeroes the counts before each launch. The launcher keeps a compiled kernel, and Triton's JIT sees its
first launch only. Right: no BLOCK is kept with an EVEN that does not go with it, counts do not add up, and launches
that could not be seen are told.
"""

from typing import ClassVar

import torch
import triton
import triton.language as tl
from triton.runtime import Autotuner

N = 5 * 1024


class ByTable(Autotuner):
    """Takes the config of a table where it has one, and times nothing."""

    table: ClassVar = {N: 0}

    def run(self, *args, **kwargs):
        found = self.table.get(kwargs.get("n", args[2] if len(args) > 2 else None))
        if found is None:
            return super().run(*args, **kwargs)
        return self.fn.run(*args, **kwargs, **self.configs[found].all_kwargs())


def by_table(configs, key):
    return lambda fn: ByTable(fn, fn.arg_names, configs, key, None, None)


@by_table(configs=[triton.Config({"BLOCK": 1024}), triton.Config({"BLOCK": 2048}, num_warps=8)], key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def negate(x_ptr, y_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(y_ptr + at, -tl.load(x_ptr + at))
    else:
        tl.store(y_ptr + at, -tl.load(x_ptr + at, mask=at < n), mask=at < n)


def zero_counts(args):
    args["counts_ptr"].zero_()


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": 256}, num_warps=4, pre_hook=zero_counts),
        triton.Config({"BLOCK": 512}, num_warps=8, pre_hook=zero_counts),
    ],
    key=["n"],
)
@triton.jit
def count_classes(class_ptr, counts_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(counts_ptr + tl.load(class_ptr + at, mask=at < n, other=0), 1, mask=at < n)


@triton.jit
def square(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * x, mask=at < n)


class Launcher:
    """Launches past the JIT from the second call on."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, None

    def __call__(self, grid, *args):
        if self.compiled is None:
            self.compiled = self.kernel[grid](*args)
        else:
            self.compiled[(*grid, 1, 1)](*args)


launch_square = Launcher(square)


def negated(x):
    y = torch.empty_like(x)
    negate[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel())
    return y


def counted(classes, count):
    counts = torch.full((count,), 7, dtype=torch.int32, device=classes.device)
    n = classes.numel()
    count_classes[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](classes, counts, n)
    return counts


def squared(x):
    y = torch.empty_like(x)
    launch_square((triton.cdiv(x.numel(), 512),), x, y, x.numel(), 512)
    return y


def main():
    torch.manual_seed(0)
    x = torch.randn(N, device="cuda")
    torch.testing.assert_close(negated(x), -x)
    classes = torch.randint(0, 16, (100_000,), device="cuda")
    torch.testing.assert_close(counted(classes, 16).long(), torch.bincount(classes, minlength=16))
    for _ in range(3):
        torch.testing.assert_close(squared(x), x * x)


if __name__ == "__main__":
    main()
