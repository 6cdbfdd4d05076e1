"""`fusetune run` and `fusetune.install` on a GPU: results unchanged, entries applied, nothing timed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.runtime.launch_configs import current_identity
from tests.support.captured_entries import write_captured
from tests.support.launch_entries import write_tuned
from tests.support.programs import served as program

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "tests" / "support" / "programs" / "served.py")
TUNED = NamedConfig(BLOCK=64, num_warps=1, num_stages=2)
TENSORS = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096}
LIGER = """
from liger_kernel.ops.rms_norm import LigerRMSNormFunction
x = torch.randn(2, 2048, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
w = torch.randn(4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
y = LigerRMSNormFunction.apply(x, w, 1e-6, 0.0, "llama", True)
y.float().sum().backward()
results = [y, x.grad, w.grad]
"""
FLA = """
from fla.ops.utils.softmax import softmax_fwd
results = [softmax_fwd(torch.randn(4096, 4096, device="cuda"))]
"""
TORCHAO = """
from torchao.prototype.common.triton.matmul import matmul
a = torch.randn(64, 8192, device="cuda", dtype=torch.float16)
b = torch.randn(8192, 512, device="cuda", dtype=torch.float16)
results = [matmul(a, b)]
"""
SAVED = """import torch
torch.manual_seed(0)
{}
torch.save([one.detach().cpu() for one in results], "out.pt")
"""


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """Where both kernels of the program have an entry for this GPU, as a script's and as a module's."""
    monkeypatch.chdir(tmp_path)
    identity = current_identity()
    assert identity is not None
    folder = tmp_path / "configs"
    own = NamedConfig(BLOCK=512, num_warps=4, num_stages=3)
    first = NamedConfig(BLOCK=1024, num_warps=2, num_stages=3)
    write_tuned(folder, program.add, {**TENSORS, "EVEN": True, "grid_0": 4}, TUNED, before=first, identity=identity)
    write_tuned(folder, program.double, {**TENSORS, "grid_0": 8}, TUNED, before=own, identity=identity)
    for path in list(folder.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8").replace("tests.support.programs.served", "served")
        text = text.replace("tests_support_programs_", "")
        path.with_name(path.name.replace("tests_support_programs_", "")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def installed(configs):
    fusetune.install(configs, on_miss="error", children=False)
    yield
    fusetune.uninstall()


def run(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """How the program ended, and the report."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "fusetune", "run", "--report", "served.json", *words]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "served.json").read_text(encoding="utf-8"))


def applied(report: dict[str, Any]) -> dict[str, int]:
    """Launches with a tuned config by kernel; there are no others."""
    assert all(not kernel["missed"] and not kernel["left"] for kernel in report["kernels"]), report
    return {kernel["name"]: sum(one["launches"] for one in kernel["applied"]) for kernel in report["kernels"]}


def test_a_program_and_what_it_starts_launch_their_entries_and_time_nothing(configs, tmp_path):
    _, report = run(tmp_path, "--on-miss", "error", SCRIPT, "here,process,spawn", "4096")
    assert applied(report) == {"add": 3, "double": 3}
    assert (report["trials"], report["processes"]) == (0, 3)
    _, report = run(tmp_path, "--on-miss", "tune", SCRIPT, "here", "5000")
    assert report["trials"] > 0, "so that what is timed would be seen"


def test_ranks_of_torchrun_launch_their_entries(configs, tmp_path):
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    _, report = run(tmp_path, *ranks, SCRIPT, "here", "4096")
    assert applied(report) == {"add": 2, "double": 2}
    assert report["trials"] == 0


def test_a_cuda_graph_holds_the_tuned_launches_and_reads_no_disk(installed, monkeypatch):
    x = torch.arange(4096, dtype=torch.float32, device="cuda")
    y = torch.zeros_like(x)

    def launch() -> None:
        program.add[lambda meta: (triton.cdiv(4096, meta["BLOCK"]),)](x, y, 4096)

    launch()
    torch.cuda.synchronize()
    monkeypatch.setattr("fusetune.runtime.configs.open_config_file", None)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    y.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, x + 1)
    (kernel,) = fusetune.served().kernels
    assert [(one.launches, one.constants) for one in kernel.applied] == [(2, {"BLOCK": 64})]


def test_launches_that_came_before_are_not_looked_up_and_have_the_same_results(installed, monkeypatch):
    program.added(4096)
    program.doubled(4096)
    monkeypatch.setattr("fusetune.capture.serving.answers.kind_of", None)  # by which all that is looked up is known
    for _ in range(3):
        program.added(4096)
        program.doubled(4096)
    applied = {one.name: [row.launches for row in one.applied] for one in fusetune.served().kernels}
    assert applied == {"add": [4], "double": [4]}


def test_a_launch_that_torch_compile_made_is_as_it_was_and_counted(installed):
    @torch.compile(fullgraph=True)
    def doubled(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        program.double[(8,)](x, y, 4096, BLOCK=512)
        return y

    x = torch.randn(4096, device="cuda")
    assert torch.equal(doubled(x), 2 * x)
    assert sum(fusetune.served().by_inductor.values()) >= 1


def test_an_autotuner_that_torch_compile_traces_takes_its_entry_and_nothing_is_timed(installed, monkeypatch):
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    timed: list[Any] = []
    own = CachingAutotuner.bench

    def bench(tuner: Any, *args: Any, **named: Any) -> Any:
        timed.append(tuner)
        return own(tuner, *args, **named)

    monkeypatch.setattr(CachingAutotuner, "bench", bench)

    @torch.compile(fullgraph=True, dynamic=False)
    def added(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        program.add[lambda meta: (triton.cdiv(4096, meta["BLOCK"]),)](x, y, 4096)
        return y

    x = torch.randn(4096, device="cuda")
    assert torch.equal(added(x), x + 1)
    assert timed == []
    served = fusetune.served()
    assert any("add: torch.compile has looked its configs up" in note for note in served.notes)
    assert sum(served.by_inductor.values()) >= 1


@triton.jit
def product(a_ptr, b_ptr, c_ptr, K, SIZE: tl.constexpr, TILE: tl.constexpr):
    row, column = tl.arange(0, SIZE), tl.arange(0, TILE)
    acc = tl.zeros((SIZE, SIZE), tl.float32)
    for k in range(0, K, TILE):
        a = tl.load(a_ptr + row[:, None] * K + k + column[None, :])
        b = tl.load(b_ptr + (k + column[:, None]) * SIZE + row[None, :])
        acc = tl.dot(a, b, acc, input_precision="tf32")
    tl.store(c_ptr + row[:, None] * SIZE + row[None, :], acc)


def test_more_shared_memory_than_there_is_falls_back_with_one_warning(configs):
    identity = current_identity()
    assert identity is not None
    problem = {"a_ptr": "float32", "b_ptr": "float32", "c_ptr": "float32", "K": 4096, "SIZE": 64}
    huge = NamedConfig(TILE=64, num_warps=4, num_stages=10)  # 320 KiB, and no GPU has more than 227
    before = NamedConfig(TILE=64, num_warps=4, num_stages=2)
    write_tuned(configs, product, problem, huge, before=before, identity=identity)
    a, b, c = (torch.randn(shape, device="cuda") for shape in ((64, 4096), (4096, 64), (64, 64)))
    fusetune.install(configs, children=False)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                product[(1,)](a, b, c, 4096, SIZE=64, TILE=64, num_warps=4, num_stages=2)
        assert ["cannot be launched here" in str(one.message) for one in told] == [True]
        (kernel,) = fusetune.served().kernels
    finally:
        fusetune.uninstall()
    assert (kernel.launches, kernel.left[0].refused, "OutOfResources" in kernel.left[0].why) == (2, True, True)
    torch.testing.assert_close(c, (a.double() @ b.double()).float(), rtol=1e-2, atol=0.5)


@pytest.mark.parametrize(
    ("package", "text", "warps", "tolerance"),
    [("liger_kernel", LIGER, 4, 2e-2), ("fla", FLA, 4, 1e-5), ("torchao", TORCHAO, 8, 2e-2)],
    ids=["liger", "fla", "torchao"],
)
def test_kernels_of_a_library_launch_their_entries_with_the_same_results(
    package, text, warps, tolerance, tmp_path, monkeypatch
):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: it is for this test alone")
    monkeypatch.chdir(tmp_path)
    bench = tmp_path / "bench.py"
    bench.write_text(SAVED.format(text), encoding="utf-8")
    identity = current_identity()
    assert identity is not None
    written = write_captured(bench, tmp_path / "configs", identity, warps=warps)
    before = torch.load(tmp_path / "out.pt")
    (tmp_path / "out.pt").unlink()
    _, report = run(tmp_path, "--on-miss", "error", "bench.py")
    assert set(applied(report)) == set(written)
    assert all(one["options"]["num_warps"] == warps for kernel in report["kernels"] for one in kernel["applied"])
    assert report["trials"] == 0
    for one, other in zip(torch.load(tmp_path / "out.pt"), before, strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance * other.float().abs().max())
