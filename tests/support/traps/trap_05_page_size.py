"""Trap 5, a tile that is the input's layout: pages of a cache behind a table, and chunks of a scan.

`PAGE_SIZE` tells by its name what it is; `BLOCK_T` of the scan does not, and the grid even follows it. Right: both
stay; where BLOCK_T is tried at all, every other value is a wrong result.
"""

import torch
import triton
import triton.language as tl

PAGE_SIZE, HEAD = 32, 64


@triton.jit
def mean_of_pages(cache_ptr, table_ptr, lengths_ptr, out_ptr, pages, PAGE_SIZE: tl.constexpr, HEAD: tl.constexpr):
    sequence = tl.program_id(0)
    length = tl.load(lengths_ptr + sequence)
    in_page, column = tl.arange(0, PAGE_SIZE), tl.arange(0, HEAD)
    total = tl.zeros((HEAD,), tl.float32)
    for number in range(0, tl.cdiv(length, PAGE_SIZE)):
        page = tl.load(table_ptr + sequence * pages + number).to(tl.int64)
        row = page * PAGE_SIZE + in_page
        there = number * PAGE_SIZE + in_page < length
        total += tl.sum(
            tl.load(cache_ptr + row[:, None] * HEAD + column[None, :], mask=there[:, None], other=0.0), axis=0
        )
    tl.store(out_ptr + sequence * HEAD + column, total / length)


@triton.jit
def sums_in_chunks(x_ptr, y_ptr, T, BLOCK_T: tl.constexpr):
    chunk, sequence = tl.program_id(0), tl.program_id(1)
    at = chunk * BLOCK_T + tl.arange(0, BLOCK_T)
    x = tl.load(x_ptr + sequence * T + at, mask=at < T, other=0.0)
    tl.store(y_ptr + sequence * T + at, tl.cumsum(x, axis=0), mask=at < T)


def paged_mean(cache, table, lengths):
    out = torch.empty(table.shape[0], HEAD, device=cache.device)
    mean_of_pages[(table.shape[0],)](cache, table, lengths, out, table.shape[1], PAGE_SIZE=PAGE_SIZE, HEAD=HEAD)
    return out


def chunk_cumsum(x, BLOCK_T=64):
    y = torch.empty_like(x)
    sequences, T = x.shape
    sums_in_chunks[(triton.cdiv(T, BLOCK_T), sequences)](x, y, T, BLOCK_T=BLOCK_T)
    return y


def main():
    torch.manual_seed(0)
    sequences, pages = 64, 8
    cache = torch.randn(sequences * pages, PAGE_SIZE, HEAD, device="cuda")
    table = torch.randperm(sequences * pages, device="cuda").view(sequences, pages).to(torch.int32)
    lengths = torch.full((sequences,), pages * PAGE_SIZE - 5, dtype=torch.int32, device="cuda")
    got = paged_mean(cache, table, lengths)
    rows = cache[table.long()].view(sequences, pages * PAGE_SIZE, HEAD)[:, :-5]
    torch.testing.assert_close(got, rows.mean(dim=1), rtol=1e-4, atol=1e-4)
    x = torch.randint(-4, 5, (128, 1024), device="cuda").float()
    torch.testing.assert_close(chunk_cumsum(x), x.view(128, -1, 64).cumsum(dim=-1).view_as(x))


if __name__ == "__main__":
    main()
