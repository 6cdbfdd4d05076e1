"""The live gate of a program's kernel: unchanged it holds; wrong, without its gain or slower than HEAD it does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fusetune.capture.from_source import KernelPlace, KernelSource, kernels_from_source
from fusetune.capture.look import look
from fusetune.capture.programs import parse_program
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment
from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.gate.findings import Finding
from fusetune.gate.live import LiveOptions, live_gate
from fusetune.gate.replays import Replays
from fusetune.gate.source_revision import SourceRevision
from fusetune.measure.cuda import CudaMeasurer
from fusetune.ops.device import gpu_identity
from fusetune.store.schema import ConfigFile, Entry, Times

KERNEL = """import triton
import triton.language as tl


@triton.jit
def twice(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    for _ in range(64):
        x = x * 0.5 + 1.0
    tl.store(y_ptr + at, x, mask=at < n)
"""
"""64 steps come to 2 in float32, whatever x is, and so do more."""
BENCH = """import torch
import triton
from norms import twice

n = 1 << 22
x = torch.randn(n, device="cuda")
y = torch.empty_like(x)
twice[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=32, num_warps=8)
"""
"""256 threads for 32 elements: any larger tile is many times as fast."""
WRONG = KERNEL.replace("tl.store(y_ptr + at, x,", "tl.store(y_ptr + at, x + (1.0 if BLOCK > 512 else 0.0),")
NO_GAIN = KERNEL.replace("range(64)", "range(64 if BLOCK <= 512 else 64000)")
SLOWER = KERNEL.replace("range(64)", "range(640)")
PATH = Path("norms_twice.yaml")


class Program:
    """The program in a folder, captured once, and an entry that keeps a larger tile for its kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "norms.py").write_text(KERNEL, encoding="utf-8")
        (folder / "bench.py").write_text(BENCH, encoding="utf-8")
        looked = look(parse_program([str(folder / "bench.py")]), keep=folder / "captures")
        assert looked.failed is None, looked.failed
        (case,) = looked.cases
        assert case.kept is not None, case.findings
        self.capture = Path(case.kept)
        spec = CapturedSpec(self.capture)
        problem = spec.captured_problem()
        before = spec.before(problem)
        assert isinstance(before, NamedConfig)
        entry = Entry(
            problem=problem,
            before=before,
            config=NamedConfig(**{**dict(before), "BLOCK": 1024, "num_warps": 4}),
            evidence="measured",
            verdict="keep",
            reason="gain_confirmed",
            environment=Environment(triton="3.7.1", kernel_hash=spec.source_hash()),
            run="20261129T101500-3f9a",
            date="2026-11-29",
            gain=Gain(median=0.5, low=0.49, high=0.51, confidence=0.95, min_gain=0.02, blocks=50),
            time_us=Times(before=20.0, config=10.0),
        )
        self.file = ConfigFile(schema=2, op=spec.name, kernel="norms:twice", target=gpu_identity(0), entries=(entry,))

    def source(self, name: str, text: str) -> KernelSource:
        """The kernel of another text of its file."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "norms.py").write_text(text, encoding="utf-8")
        place = KernelPlace("norms:twice", str(folder / "norms.py"))
        found = kernels_from_source([place], folder, find_target("h200"))[place]
        assert isinstance(found, KernelSource), found
        return found

    def gate(
        self,
        here: Mapping[Path, KernelSource] | None = None,
        there: Mapping[Path, KernelSource] | None = None,
    ) -> list[Finding]:
        options = LiveOptions(
            replays=Replays([self.capture], here, there), against=SourceRevision("HEAD") if there else None
        )
        return live_gate([(PATH, self.file)], CudaMeasurer, SilentProgress(), options)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("program"))


def test_what_is_unchanged_still_gains_and_is_as_fast_as_at_head(program: Program) -> None:
    same = program.source("same", KERNEL)
    gained, against = program.gate({PATH: same}, {PATH: same})
    assert gained.status == "holds", gained.detail
    assert against.status in {"holds", "slower"}, against.detail


def test_a_kernel_that_is_wrong_with_the_kept_tile_alone_gives_a_wrong_result(program: Program) -> None:
    (finding,) = program.gate({PATH: program.source("wrong", WRONG)})
    assert finding.status == "wrong_result", finding.detail


def test_a_kept_tile_without_its_gain_is_a_regression(program: Program) -> None:
    (finding,) = program.gate({PATH: program.source("no_gain", NO_GAIN)})
    assert finding.status == "regression", finding.detail
    assert finding.gain is not None
    assert finding.gain.high < 0.02


def test_a_kernel_that_is_slower_than_head_s_is_a_regression(program: Program) -> None:
    there = {PATH: program.source("head", KERNEL)}
    slower = program.gate({PATH: program.source("slower", SLOWER)}, there)[1]
    assert (slower.check, slower.status) == ("against", "regression"), slower.detail
