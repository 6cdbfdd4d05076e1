"""The forward pass of attention under @triton.autotune, with 108 configs."""

import itertools

import torch
import triton
import triton.language as tl

HEADS, LENGTH, WIDTH = 32, 2048, 64
CONFIGS = [
    triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
    for m, n, warps, stages in itertools.product((32, 64, 128), (32, 64, 128), (2, 4, 8), (1, 2, 3, 4))
]


@triton.autotune(configs=CONFIGS, key=["length"])
@triton.jit
def kernel(
    q_ptr, k_ptr, v_ptr, y_ptr, length, scale, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    head = tl.program_id(1).to(tl.int64) * length * WIDTH
    m, d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, WIDTH)
    q = tl.load(q_ptr + head + m[:, None] * WIDTH + d[None, :], mask=m[:, None] < length, other=0.0)
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    y = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    for first in range(0, length, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + head + n[None, :] * WIDTH + d[:, None], mask=n[None, :] < length, other=0.0)
        scores = tl.where(n[None, :] < length, tl.dot(q, k) * scale, float("-inf"))
        larger = tl.maximum(most, tl.max(scores, axis=1))
        old = tl.exp(most - larger)
        p = tl.exp(scores - larger[:, None])
        v = tl.load(v_ptr + head + n[:, None] * WIDTH + d[None, :], mask=n[:, None] < length, other=0.0)
        total = total * old + tl.sum(p, axis=1)
        y = y * old[:, None] + tl.dot(p.to(tl.float16), v)
        most = larger
    y = (y / total[:, None]).to(tl.float16)
    tl.store(y_ptr + head + m[:, None] * WIDTH + d[None, :], y, mask=m[:, None] < length)


def inputs(heads=HEADS, length=LENGTH):
    """Queries, keys and values."""
    return {name: torch.randn(heads, length, WIDTH, device="cuda", dtype=torch.float16) for name in ("q", "k", "v")}


def launch(launched, q, k, v, **config):
    """Attention by the kernel, with its own config or a given one."""
    y, (heads, length, _) = torch.empty_like(q), q.shape
    launched[lambda meta: (triton.cdiv(length, meta["BLOCK_M"]), heads)](
        q, k, v, y, length, WIDTH**-0.5, WIDTH=WIDTH, **config
    )
    return y


def reference(q, k, v):
    """The same by PyTorch."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


if __name__ == "__main__":
    torch.manual_seed(0)
    launch(kernel, **inputs())
