"""Trap 8, kernels that change their inputs: a sum into its operand, gradients where the logits were, used-up indices.

A second launch doubles the sum, takes gradients for logits, and reads far outside of the table. Right: each launch gets
its inputs back, so that all three are tuned, nothing is a wrong result, and no launch faults.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def accumulate(total_ptr, x_ptr, alpha, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(total_ptr + at, mask=at < n) + alpha * tl.load(x_ptr + at, mask=at < n)
    tl.store(total_ptr + at, total, mask=at < n)


@triton.jit
def cross_entropy(logits_ptr, target_ptr, loss_ptr, classes, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + row * classes + at, mask=at < classes, other=float("-inf"))
    target = tl.load(target_ptr + row)
    most = tl.max(logits, axis=0)
    e = tl.exp(logits - most)
    total = tl.sum(e, axis=0)
    own = tl.sum(tl.where(at == target, logits, 0.0), axis=0)
    tl.store(loss_ptr + row, most + tl.log(total) - own)
    tl.store(logits_ptr + row * classes + at, e / total - tl.where(at == target, 1.0, 0.0), mask=at < classes)


@triton.jit
def look_up(index_ptr, table_ptr, out_ptr, n, used, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(index_ptr + at, mask=at < n, other=0)
    tl.store(out_ptr + at, tl.load(table_ptr + index, mask=at < n), mask=at < n)
    tl.store(index_ptr + at, index + used, mask=at < n)


def add_(total, x, alpha):
    accumulate[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](total, x, alpha, x.numel(), BLOCK=512)
    return total


def loss_and_gradient_(logits, target):
    rows, classes = logits.shape
    loss = torch.empty(rows, device=logits.device)
    cross_entropy[(rows,)](logits, target, loss, classes, BLOCK=triton.next_power_of_2(classes), num_warps=8)
    return loss


def taken_(index, table):
    out = torch.empty(index.shape, device=table.device)
    n = index.numel()
    look_up[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](index, table, out, n, 1 << 40, BLOCK=256)
    return out


def main():
    torch.manual_seed(0)
    total, x = torch.randn(100_000, device="cuda"), torch.randn(100_000, device="cuda")
    expected = total + 2.0 * x
    torch.testing.assert_close(add_(total, x, 2.0), expected)
    logits, target = torch.randn(256, 3000, device="cuda"), torch.randint(0, 3000, (256,), device="cuda")
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss_and_gradient_(logits, target), expected)
    table, index = torch.randn(4096, device="cuda"), torch.randint(0, 4096, (50_000,), device="cuda")
    expected = table[index]
    torch.testing.assert_close(taken_(index, table), expected)


if __name__ == "__main__":
    main()
