"""Trap 14, arguments of every kind, and a table of pointers.

`combine` takes None, flags, a dtype, a word, tuples, a function, ones, what is not to be specialised, one tensor twice
and two views of one storage. `add_to_all` adds through the pointers that an int64 tensor holds: to copy its arguments
copies nothing, and each launch adds once more to the program's own tensors. Right: `combine` is tuned and right in each
of its forms; `add_to_all` is skipped, and why is told.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def add(x, y):
    return x + y


@triton.jit
def largest(x, y):
    return tl.maximum(x, y)


@triton.jit(do_not_specialize=["n", "step"])
def combine(
    x_ptr,
    y_ptr,
    bias_ptr,
    out_ptr,
    n,
    step,
    factor,
    weights,
    OP: tl.constexpr,
    TYPE: tl.constexpr,
    SHIFTS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr = False,
    KIND: tl.constexpr = "plain",
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at * step, mask=at < n).to(TYPE)
    found = OP(x, tl.load(y_ptr + at * step, mask=at < n).to(TYPE)) * factor * weights[0] + weights[1]
    for number in tl.static_range(len(SHIFTS)):
        found += SHIFTS[number]
    if HAS_BIAS:
        found += tl.load(bias_ptr + at, mask=at < n)
    if KIND == "relu":
        found = tl.maximum(found, 0.0)
    tl.store(out_ptr + at * step, found, mask=at < n)


@triton.jit
def add_to_all(table_ptr, x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y_ptr = tl.load(table_ptr + tl.program_id(1)).to(tl.pointer_type(tl.float32))
    y = tl.load(y_ptr + at, mask=at < n) + tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, y, mask=at < n)


def combined(x, y, out, op, shift=None, kind="plain"):
    n = out.numel()
    combine[(triton.cdiv(n, 256),)](
        x, y, shift, out, n, 1, 1, (2.0, 1), op, tl.float32, (1, 2), 256, HAS_BIAS=shift is not None, KIND=kind
    )
    return out


def add_to_each(outs, x):
    table = torch.tensor([out.data_ptr() for out in outs], dtype=torch.int64, device=x.device)
    add_to_all[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]), len(outs))](table, x, x.numel(), BLOCK=256)


def main():
    torch.manual_seed(0)
    storage = torch.randn(3, 5000, device="cuda")
    first, second, out = storage.unbind()
    expected = (first + second) * 2 + 4
    torch.testing.assert_close(combined(first, second, out, add), expected)
    same = torch.randn(5000, device="cuda")
    expected = torch.relu(same * 2 + 4 + first)
    torch.testing.assert_close(combined(same, same, same, largest, shift=first, kind="relu"), expected)
    outs = [torch.zeros(3000, device="cuda") for _ in range(3)]
    x = torch.randn(3000, device="cuda")
    add_to_each(outs, x)
    for one in outs:
        torch.testing.assert_close(one, x)


if __name__ == "__main__":
    main()
