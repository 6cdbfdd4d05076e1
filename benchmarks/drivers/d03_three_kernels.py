"""D3: two products and a logsumexp in one module, of our own, in the form of KernelBench level 2 problem 45."""

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def linear_sigmoid(
    x_ptr, w_ptr, b_ptr, y_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, K, BLOCK_K):
        at = first + k
        x = tl.load(x_ptr + m[:, None] * K + at[None, :], mask=(m[:, None] < M) & (at[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n[None, :] * K + at[:, None], mask=(n[None, :] < N) & (at[:, None] < K), other=0.0)
        total += tl.dot(x, w)
    total = tl.sigmoid(total + tl.load(b_ptr + n, mask=n < N, other=0.0)[None, :])
    tl.store(y_ptr + m[:, None] * N + n[None, :], total, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def linear(x_ptr, w_ptr, b_ptr, y_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, K, BLOCK_K):
        at = first + k
        x = tl.load(x_ptr + m[:, None] * K + at[None, :], mask=(m[:, None] < M) & (at[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n[None, :] * K + at[:, None], mask=(n[None, :] < N) & (at[:, None] < K), other=0.0)
        total += tl.dot(x, w)
    total += tl.load(b_ptr + n, mask=n < N, other=0.0)[None, :]
    tl.store(y_ptr + m[:, None] * N + n[None, :], total, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def row_logsumexp(x_ptr, y_ptr, N, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * N + at, mask=at < N, other=float("-inf"))
    most = tl.max(x, axis=0)
    tl.store(y_ptr + row, most + tl.log(tl.sum(tl.exp(x - most), axis=0)))


class Model(nn.Module):
    """The reference."""

    def __init__(self, input_size, hidden_size, output_size):
        super().__init__()
        self.linear1 = nn.Linear(input_size, hidden_size)
        self.linear2 = nn.Linear(hidden_size, output_size)

    def forward(self, x):
        return torch.logsumexp(self.linear2(torch.sigmoid(self.linear1(x))), dim=1)


class ModelNew(Model):
    """The same in three kernels, whose tiles are numbers of the wrapper."""

    def forward(self, x):
        M, K = x.shape
        hidden, N = self.linear1.out_features, self.linear2.out_features
        middle = torch.empty(M, hidden, device=x.device)
        grid = (triton.cdiv(M, 64), triton.cdiv(hidden, 64))
        linear_sigmoid[grid](
            x, self.linear1.weight, self.linear1.bias, middle, M, hidden, K, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32
        )
        last = torch.empty(M, N, device=x.device)
        grid = (triton.cdiv(M, 64), triton.cdiv(N, 64))
        linear[grid](
            middle, self.linear2.weight, self.linear2.bias, last, M, N, hidden, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32
        )
        y = torch.empty(M, device=x.device)
        row_logsumexp[(M,)](last, y, N, BLOCK=triton.next_power_of_2(N))
        return y


def get_inputs():
    return [torch.rand(16384, 2048)]


def get_init_inputs():
    return [2048, 4096, 1024]
