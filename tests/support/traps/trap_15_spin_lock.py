"""Trap 15, the grid as a resource: persistent programs that wait for each other, and a lock around a sum.

`normalise` launches eight programs an SM, which meet in the middle: with 16 warps they cannot all be resident, and
those that are wait for ever. It writes one partial sum a program. Right: such a candidate is a hang and is ended, its
worker replaced; no more programs than today are launched; the lock and the counter are zero before each launch.
"""

import torch
import triton
import triton.language as tl

PROGRAMS_PER_SM = 8


@triton.jit
def normalise(x_ptr, y_ptr, partial_ptr, arrived_ptr, n, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for tile in range(program, tl.cdiv(n, BLOCK), tl.num_programs(0)):
        at = tile * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(partial_ptr + program, tl.sum(total, axis=0))
    tl.debug_barrier()
    tl.atomic_add(arrived_ptr, 1, sem="acq_rel")
    while tl.atomic_add(arrived_ptr, 0, sem="acquire") < tl.num_programs(0):
        pass
    tl.debug_barrier()
    partials = tl.arange(0, PROGRAMS)
    there = partials < tl.num_programs(0)
    mean = tl.sum(tl.load(partial_ptr + partials, mask=there, other=0.0, volatile=True), axis=0) / n
    for tile in range(program, tl.cdiv(n, BLOCK), tl.num_programs(0)):
        at = tile * BLOCK + tl.arange(0, BLOCK)
        tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) - mean, mask=at < n)


@triton.jit
def column_sums(x_ptr, sums_ptr, lock_ptr, rows, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, COLUMNS)
    x = tl.load(x_ptr + row[:, None] * COLUMNS + column[None, :], mask=row[:, None] < rows, other=0.0)
    own = tl.sum(x, axis=0)
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:
        pass
    tl.debug_barrier()
    tl.store(sums_ptr + column, tl.load(sums_ptr + column, volatile=True) + own)
    tl.debug_barrier()
    tl.atomic_xchg(lock_ptr, 0)


def centred(x):
    programs = PROGRAMS_PER_SM * torch.cuda.get_device_properties(x.device).multi_processor_count
    y, n = torch.empty_like(x), x.numel()
    partial = torch.empty(programs, device=x.device)
    arrived = torch.zeros(1, dtype=torch.int32, device=x.device)
    normalise[(programs,)](x, y, partial, arrived, n, PROGRAMS=triton.next_power_of_2(programs), BLOCK=256, num_warps=4)
    return y


def summed(x):
    rows, columns = x.shape
    sums = torch.zeros(columns, device=x.device)
    lock = torch.zeros(1, dtype=torch.int32, device=x.device)
    column_sums[lambda meta: (triton.cdiv(rows, meta["BLOCK_ROWS"]),)](
        x, sums, lock, rows, COLUMNS=columns, BLOCK_ROWS=32
    )
    return sums


def main():
    torch.manual_seed(0)
    x = torch.randint(-8, 9, (1 << 20,), device="cuda").float()
    torch.testing.assert_close(centred(x), x - x.mean())
    x = torch.randint(-8, 9, (4096, 128), device="cuda").float()
    torch.testing.assert_close(summed(x), x.sum(dim=0))


if __name__ == "__main__":
    main()
