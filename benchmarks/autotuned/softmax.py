"""A softmax over long rows in two passes under @triton.autotune, with 112 configs."""

import itertools

import torch
import triton
import triton.language as tl

ROWS, COLUMNS = 1024, 65536
CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps, num_stages=stages)
    for block, warps, stages in itertools.product(
        (256, 512, 1024, 2048, 4096, 8192, 16384), (2, 4, 8, 16), (1, 2, 3, 4)
    )
]


@triton.autotune(configs=CONFIGS, key=["columns"])
@triton.jit
def kernel(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, columns, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row + at, mask=at < columns, other=-1e30)
        larger = tl.maximum(most, x)
        total = total * tl.exp(most - larger) + tl.exp(x - larger)
        most = larger
    peak = tl.max(most, axis=0)
    total = tl.sum(total * tl.exp(most - peak), axis=0)
    for first in range(0, columns, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row + at, mask=at < columns)
        tl.store(y_ptr + row + at, tl.exp(x - peak) / total, mask=at < columns)


def inputs(rows=ROWS, columns=COLUMNS):
    """The rows."""
    return {"x": torch.randn(rows, columns, device="cuda")}


def launch(launched, x, **config):
    """The softmax by the kernel, with its own config or a given one."""
    y = torch.empty_like(x)
    launched[(x.shape[0],)](x, y, x.shape[1], **config)
    return y


def reference(x):
    """The same by PyTorch."""
    return torch.softmax(x, dim=-1)


if __name__ == "__main__":
    torch.manual_seed(0)
    launch(kernel, **inputs())
