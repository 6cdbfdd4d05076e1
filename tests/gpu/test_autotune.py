"""`@fusetune.autotune` on silicon: eager, compiled, in graphs, under autograd, in threads; right, and as tuned."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.ops.device import gpu_identity
from fusetune.runtime import direct_calls
from tests.support.launch_entries import write_tuned


@triton.jit
def scaled(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr, ROUNDS: tl.constexpr = 1):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    for _ in range(ROUNDS):
        x = (x * factor).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, x, mask=at < n)


@triton.jit
def evenly(x_ptr, y_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at) if EVEN else tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, 2 * x, mask=at < n)


@triton.jit
def product(a_ptr, b_ptr, c_ptr, K, SIZE: tl.constexpr, BLOCK_D: tl.constexpr):
    row, column = tl.arange(0, SIZE), tl.arange(0, BLOCK_D)
    acc = tl.zeros((SIZE, SIZE), tl.float32)
    for k in range(0, K, BLOCK_D):
        a = tl.load(a_ptr + row[:, None] * K + k + column[None, :])
        b = tl.load(b_ptr + (k + column[:, None]) * SIZE + row[None, :])
        acc = tl.dot(a, b, acc, input_precision="tf32")
    tl.store(c_ptr + row[:, None] * SIZE + row[None, :], acc)


ROOT = Path(__file__).parents[2]
CONFIGS = [triton.Config({"BLOCK": 256}, num_warps=4, num_stages=3), triton.Config({"BLOCK": 64}, num_warps=2)]
BEFORE = NamedConfig(BLOCK=256, num_warps=4, num_stages=3)
TUNED = NamedConfig(BLOCK=1024, num_warps=8, num_stages=2)
N = 4096
pytestmark = pytest.mark.filterwarnings("ignore:fusetune has no tuned config")


@pytest.fixture
def configs(tmp_path: Path) -> Iterator[Path]:
    """A folder with an entry of `scaled` for N numbers on this GPU."""
    folder = tmp_path / "configs"
    folder.mkdir()
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": N, "factor": 2.0, "ROUNDS": 1, "grid_0": 16}
    write_tuned(folder, scaled, problem, TUNED, before=BEFORE, identity=gpu_identity(0))
    fusetune.load(folder)
    yield folder
    fusetune.load()


@pytest.fixture
def kernel(configs: Path) -> Any:
    return fusetune.autotune(configs=CONFIGS, key=["n"])(scaled)


@contextlib.contextmanager
def launches_by_jit() -> Iterator[list[str]]:
    """The launches that go through Triton's JIT meanwhile."""
    from triton.runtime.jit import JITFunction

    found: list[str] = []
    run = JITFunction.run

    def counted(self: Any, *args: Any, **named: Any) -> Any:
        found.append(self.__name__)
        return run(self, *args, **named)

    JITFunction.run = counted
    try:
        yield found
    finally:
        JITFunction.run = run


def grid(meta: Any) -> tuple[int, ...]:
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


def doubled(kernel: Any, x: torch.Tensor, **more: Any) -> torch.Tensor:
    y = torch.empty_like(x)
    n = x.numel()
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, 2.0, **more)
    return y


WHOLE = {"ROUNDS": 1}
"""To torch.compile all constants are given: what torch 2.11 writes leaves a kernel's defaults out, whoever tunes it."""


def test_eager_launches_are_right_and_as_tuned_and_go_past_the_jit(kernel):
    for n in (N, N - 16, 1000, 1, N):
        x = torch.randn(n, device="cuda")
        for _ in range(3):
            assert torch.equal(doubled(kernel, x), 2 * x), n
        assert kernel.best_config.num_warps == (8 if n > 2048 else 4)
    (direct,) = kernel._direct.made.values()
    assert len(direct.known) == 4
    fired = []
    bound = next(iter(direct.known.values()))
    launch = bound.launch
    bound.launch = lambda *given: fired.append(launch(*given))
    x = torch.randn(N, device="cuda")
    assert torch.equal(doubled(kernel, x), 2 * x)
    assert len(fired) == 1


def test_another_dtype_alignment_and_stream_are_right(kernel):
    x = torch.randn(N + 1, device="cuda")
    stream = torch.cuda.Stream()
    for _ in range(2):
        assert torch.equal(doubled(kernel, x[1:]), 2 * x[1:])
        half = x[:N].half()
        assert torch.equal(doubled(kernel, half), 2 * half)
        assert torch.equal(doubled(kernel, x[:0]), x[:0])
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            on_stream = doubled(kernel, x[:N])
        stream.synchronize()
        assert torch.equal(on_stream, 2 * x[:N])
    with pytest.raises(ValueError, match="cpu tensor"):
        kernel[(1,)](torch.zeros(N), x, N, 2.0)
    with pytest.raises(ValueError, match="cpu tensor"):
        kernel[(1,)](torch.zeros(N), x, N, 2.0)


def test_proton_and_whoever_listens_to_launches_hears_each(kernel):
    x = torch.randn(N, device="cuda")
    doubled(kernel, x)
    doubled(kernel, x)
    heard = []
    chain = triton.knobs.runtime.launch_enter_hook

    def hook(metadata: Any) -> None:
        heard.append(metadata.get()["name"])

    chain.add(hook)
    try:
        for _ in range(3):
            doubled(kernel, x)
    finally:
        chain.remove(hook)
    assert heard == ["scaled"] * 3


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_without_a_break_it_is_right_and_as_tuned(kernel, dynamic):
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: doubled(kernel, x, **WHOLE) + 1, fullgraph=True, dynamic=dynamic)
    x = torch.randn(N, device="cuda")
    found, code = run_and_get_code(compiled, x)
    assert torch.equal(found, 2 * x + 1)
    assert "num_warps=8" in code[0].replace(" ", "").replace("'num_warps':", "num_warps=")
    for n in (N - 16, N - 32, 1024) if dynamic else (1024,):
        x = torch.randn(n, device="cuda")
        assert torch.equal(compiled(x), 2 * x + 1), n
    torch._dynamo.reset()


def test_a_cuda_graph_replays_it(kernel):
    x, y = torch.randn(N, device="cuda"), torch.empty(N, device="cuda")
    kernel[grid](x, y, N, 2.0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel[grid](x, y, N, 2.0)
    x.fill_(3.0)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, torch.full_like(y, 6.0))


def test_a_first_launch_while_a_graph_is_captured_reads_no_disk(kernel):
    x, y = torch.randn(N, device="cuda"), torch.empty(N, device="cuda")
    scaled[16,](x, y, N, 2.0, BLOCK=256, num_warps=4, num_stages=3)  # what a capture could not compile and load
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel[grid](x, y, N, 2.0)
    assert kernel.best_config is CONFIGS[0]
    y.zero_()
    graph.replay()
    assert torch.equal(y, 2 * x)
    kernel[grid](x, y, N, 2.0)
    assert kernel.best_config.num_warps == 8, "nothing was remembered"


def test_gradients_flow_through_a_function_that_launches_it_eager_and_compiled(kernel):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return doubled(kernel, x, **WHOLE)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return doubled(kernel, gradient.contiguous(), **WHOLE)

    def applied(x: torch.Tensor) -> torch.Tensor:
        return Doubled.apply(x)

    torch._dynamo.reset()
    for function in (applied, torch.compile(applied, fullgraph=True, dynamic=False)):
        x = torch.randn(N, device="cuda", requires_grad=True)
        function(x).sum().backward()
        assert torch.equal(x.grad, torch.full_like(x, 2.0))
    torch._dynamo.reset()


def test_threads_launch_at_once_on_streams_of_their_own(kernel):
    failed: list[BaseException] = []
    start = threading.Barrier(2)

    def work(first: int) -> None:
        try:
            start.wait()
            with torch.cuda.stream(torch.cuda.Stream()):
                for number in range(200):
                    x = torch.randn(first + 16 * (number % 7), device="cuda")
                    y = doubled(kernel, x)
                    torch.cuda.current_stream().synchronize()
                    assert torch.equal(y, 2 * x)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (1024, N - 64)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed


def test_each_of_two_gpus_has_its_own_kernel(kernel):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for _ in range(3):
        for device in (0, 1):
            with torch.cuda.device(device):
                x = torch.randn(N, device="cuda")
                assert torch.equal(doubled(kernel, x), 2 * x), device


def test_heuristics_below_are_computed_for_the_tuned_config(configs):
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": 1536, "EVEN": True, "grid_0": 6}
    write_tuned(configs, evenly, problem, NamedConfig(BLOCK=512, num_warps=8), before=BEFORE, identity=gpu_identity(0))
    fusetune.reload()
    below = triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})(evenly)
    kernel = fusetune.autotune(configs=CONFIGS, key=["n"])(below)
    for n in (1536, 1520, 100):
        x, y = torch.randn(n, device="cuda"), torch.empty(n, device="cuda")
        kernel[grid](x, y, n)
        assert torch.equal(y, 2 * x), n


def test_a_config_that_takes_more_than_there_is_falls_back_with_a_warning_and_stays_refused(configs):
    problem = {"a_ptr": "float32", "b_ptr": "float32", "c_ptr": "float32", "K": 4096, "SIZE": 64}
    huge = NamedConfig(BLOCK_D=128, num_warps=4, num_stages=8)
    before = NamedConfig(BLOCK_D=32, num_warps=4, num_stages=3)
    write_tuned(configs, product, problem, huge, before=before, identity=gpu_identity(0))
    fusetune.reload()
    kernel = fusetune.autotune(configs=[triton.Config({"BLOCK_D": 32}, num_warps=4)], key=["K"])(product)
    a, b, c = (torch.randn(shape, device="cuda") for shape in ((64, 4096), (4096, 64), (64, 64)))
    with pytest.warns(RuntimeWarning, match="OutOfResources"):
        kernel[1,](a, b, c, 4096, SIZE=64)
    for _ in range(2):
        kernel[1,](a, b, c, 4096, SIZE=64)
        assert kernel.best_config.kwargs == {"BLOCK_D": 32}
    torch.testing.assert_close(c, (a.double() @ b.double()).float(), rtol=1e-2, atol=0.5)


def test_a_thousand_launches_of_fifty_shapes_compile_nothing_and_keep_no_memory(kernel):
    shapes = [16 * (number + 2) for number in range(50)]
    buffers = [(torch.randn(n, device="cuda"), torch.empty(n, device="cuda")) for n in shapes]

    def one_pass() -> None:
        for n, (x, y) in zip(shapes, buffers, strict=True):
            kernel[grid](x, y, n, 2.0)

    one_pass()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    compiled: list[Any] = []
    hook = triton.knobs.runtime.jit_post_compile_hook
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told)
    try:
        for _ in range(20):
            one_pass()
    finally:
        triton.knobs.runtime.jit_post_compile_hook = hook
    torch.cuda.synchronize()
    assert not compiled
    assert torch.cuda.memory_allocated() == before
    assert len(next(iter(kernel._direct.made.values())).known) == 50


AHEAD = """
import sys

import torch
import triton

import fusetune
from tests.gpu.test_autotune import CONFIGS, N, WHOLE, doubled, scaled

path, tuned = sys.argv[1], sys.argv[2] == "tuned"
kernel = (fusetune if tuned else triton).autotune(configs=CONFIGS, key=["n"])(scaled)


class Module(torch.nn.Module):
    def forward(self, x):
        return doubled(kernel, x, **WHOLE) + 1


x = torch.randn(N, device="cuda")
exported = torch.export.export(Module(), (x,), strict=True)
torch._inductor.aoti_compile_and_package(exported, package_path=path)
print("packaged", flush=True)
assert torch.equal(torch._inductor.aoti_load_package(path)(x), 2 * x + 1)
print("right", flush=True)
"""


def packaged(folder: Path, configs: Path, which: str) -> subprocess.CompletedProcess[str]:
    """A process that packages a kernel ahead of time, loads it and compares its result."""
    return in_a_process(AHEAD, configs, str(folder / f"{which}.pt2"), which)


def in_a_process(code: str, configs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FUSETUNE_CONFIGS": str(configs)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.timeout(400)
def test_an_ahead_of_time_package_has_the_tuned_config(configs, tmp_path):
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    done = packaged(tmp_path, configs, "tuned")
    assert "packaged" in done.stdout, done.stderr
    with zipfile.ZipFile(tmp_path / "tuned.pt2") as package:
        texts = [package.read(name).decode() for name in package.namelist() if name.endswith(".cpp")]
    # A launch of the written C++: the kernel, a grid of three, warps, shared memory, arguments, stream.
    launches = re.findall(r"launchKernel\(([^;]*)\);", "\n".join(texts))
    warps = [int(parts[4]) for parts in (launch.split(",") for launch in launches) if "scaled" in parts[0]]
    assert set(warps) == {TUNED.num_warps}
    if done.returncode < 0 and packaged(tmp_path, configs, "control").returncode == done.returncode:
        pytest.skip("this torch crashes as it loads any package, @triton.autotune's too: its result was not compared")
    assert "right" in done.stdout, done.stderr


PARSED = """
import sys

import torch
import tritonparse.structured_logging

import fusetune
from tests.gpu.test_autotune import CONFIGS, N, doubled, scaled

kernel = fusetune.autotune(configs=CONFIGS, key=["n"])(scaled)
x = torch.randn(N, device="cuda")
doubled(kernel, x)
tritonparse.structured_logging.init(sys.argv[1], enable_trace_launch=True)
for _ in range(3):
    doubled(kernel, x)
torch.cuda.synchronize()
"""


def test_tritonparse_traces_each_launch(configs, tmp_path):
    pytest.importorskip("tritonparse")
    done = in_a_process(PARSED, configs, str(tmp_path / "traces"))
    assert done.returncode == 0, done.stderr
    lines = [line for file in (tmp_path / "traces").rglob("*.ndjson") for line in file.read_text().splitlines()]
    launches = [event for event in map(json.loads, lines) if event.get("event_type") == "launch"]
    assert [event["name"] for event in launches] == ["scaled"] * 3


def test_this_triton_is_one_that_is_launched_directly(kernel):
    x, y = torch.randn(N, device="cuda"), torch.empty(N, device="cuda")
    compiled = scaled[16,](x, y, N, 2.0, BLOCK=256)
    assert direct_calls.firing_of(compiled) is not None
    doubled(kernel, x)
    with launches_by_jit() as seen:  # whoever puts a function there sees every launch
        doubled(kernel, x)
    assert seen == ["scaled"]
