"""On a GPU the share of a program's kernels is that of all kernels that it runs, a library's too."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.capture.look import look, with_gpu_time
from fusetune.capture.programs import parse_program

pytestmark = pytest.mark.timeout(300)

PROGRAM = """import torch
import triton
import triton.language as tl


@triton.jit
def twice(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


x = torch.randn(4096, 4096, device="cuda")
y = torch.empty_like(x)
for _ in range(4):
    twice[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024)
    x @ y
torch.cuda.synchronize()
"""


def test_a_kernel_beside_a_product_is_a_small_share_of_the_gpu_s_time(tmp_path: Path) -> None:
    path = tmp_path / "beside.py"
    path.write_text(PROGRAM, encoding="utf-8")
    program = parse_program([str(path)])
    looked = with_gpu_time(program, look(program, limit_s=120), limit_s=120)
    assert looked.no_gpu_time is None
    assert looked.gpu_time is not None
    (case,) = looked.cases
    assert case.us is not None
    # Four launches of what one case timed: the profile's figure and the events' are of the same kernels.
    assert looked.gpu_time.triton_us == pytest.approx(case.us, rel=0.5)
    assert 0 < looked.gpu_time.triton_share < 0.3  # type: ignore[operator]
