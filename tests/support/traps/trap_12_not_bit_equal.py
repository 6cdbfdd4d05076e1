"""Trap 12, what cannot be compared bit by bit: a random stream that follows the tile, and the order of atomics.

`drop` numbers its stream by programs, so that each BLOCK drops others. `sum_by_class` adds floats in any order, which
differs by rounding; `count_by_class` counts, which is the same in any order. `compact` gives out places by a counter:
no two runs agree. Right: BLOCK stays in `drop`; the sums and the counts can be tuned; `compact` is not checkable, and
that is said.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def drop(x_ptr, y_ptr, n, p, seed, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    keep = tl.rand(seed + program, tl.arange(0, BLOCK)) > p
    tl.store(y_ptr + at, tl.where(keep, x / (1.0 - p), 0.0), mask=at < n)


@triton.jit
def sum_by_class(x_ptr, class_ptr, sums_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.atomic_add(sums_ptr + tl.load(class_ptr + at, mask=at < n, other=0), x, mask=at < n)


@triton.jit
def count_by_class(class_ptr, counts_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(counts_ptr + tl.load(class_ptr + at, mask=at < n, other=0), 1, mask=at < n)


@triton.jit
def compact(x_ptr, out_ptr, counter_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.atomic_add(counter_ptr, BLOCK)
    tl.store(out_ptr + place + tl.arange(0, BLOCK), tl.load(x_ptr + at))


def dropped(x, p, seed):
    y = torch.empty_like(x)
    drop[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel(), p, seed, BLOCK=512)
    return y


def summed(x, classes, count):
    sums = torch.zeros(count, device=x.device)
    n = x.numel()
    sum_by_class[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, classes, sums, n, BLOCK=256)
    return sums


def counted(classes, count):
    counts = torch.zeros(count, dtype=torch.int32, device=classes.device)
    n = classes.numel()
    count_by_class[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](classes, counts, n, BLOCK=256)
    return counts


def compacted(x):
    out, counter = torch.empty_like(x), torch.zeros(1, dtype=torch.int32, device=x.device)
    compact[lambda meta: (x.numel() // meta["BLOCK"],)](x, out, counter, x.numel(), BLOCK=64)
    return out


def main():
    torch.manual_seed(0)
    x = torch.randn(1 << 18, device="cuda")
    kept = dropped(x, 0.25, 7) != 0
    torch.testing.assert_close(kept.float().mean(), torch.tensor(0.75, device="cuda"), rtol=0.0, atol=0.02)
    classes = torch.randint(0, 8, x.shape, device="cuda")
    expected = torch.zeros(8, device="cuda").index_add_(0, classes, x)
    torch.testing.assert_close(summed(x, classes, 8), expected, rtol=1e-3, atol=1e-1)
    torch.testing.assert_close(counted(classes, 8).long(), torch.bincount(classes, minlength=8))
    torch.testing.assert_close(compacted(x).sort().values, x.sort().values)


if __name__ == "__main__":
    main()
