"""What a program launches while triton.testing times it: its own where it has nothing else, and else only timed."""

from __future__ import annotations

from pathlib import Path

from fusetune.capture.look import look
from fusetune.capture.programs import Program
from fusetune.capture.seen import BENCHMARKED

PROGRAM = """import torch
import triton
import triton.language as tl


@triton.jit
def alone(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def both(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.autotune([triton.Config({"BLOCK": size}) for size in (128, 256)], key=[])
@triton.jit
def tuned(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 3 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


x, y = torch.rand(1000, device="cuda"), torch.empty(1000, device="cuda")
for size in (128, 256):
    for kernel in (alone, both):
        triton.testing.do_bench(lambda: kernel[(triton.cdiv(1000, size),)](x, y, 1000, BLOCK=size))
both[(1,)](x, y, 1000, BLOCK=1024)
x, y = torch.rand(3000, device="cuda"), torch.empty(3000, device="cuda")
triton.testing.do_bench(lambda: both[(3,)](x, y, 3000, BLOCK=1024))
x, y = x[:1000], y[:1000]
triton.testing.do_bench(lambda: tuned[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, y, 1000))
"""


def test_what_is_benchmarked_alone_is_the_program_s_and_else_only_timed(tmp_path: Path) -> None:
    file = tmp_path / "bench.py"
    file.write_text(PROGRAM, encoding="utf-8")
    looked = look(Program("script", str(file)), target="rtx4090", keep=tmp_path / "kept")
    assert looked.failed is None
    found = {(case.kernel.name, case.values["n"], case.constants["BLOCK"]): case for case in looked.cases}
    sizes = {
        ("alone", 1000, 128),
        ("alone", 1000, 256),
        ("both", 1000, 1024),
        ("both", 3000, 1024),
        ("tuned", 1000, 128),
    }
    assert set(found) == sizes, "other tiles for what both is launched for only compare"
    for (name, size, _), case in found.items():
        assert case.kept is not None
        assert case.launches == 1
        assert (BENCHMARKED in case.findings) == ((name, size) != ("both", 1000))
    assert looked.trials >= 2, "the other launches of both, and what the autotuner tried"
    assert len(list((tmp_path / "kept").glob("[0-9]*"))) == 5, "what only timed is not kept"
