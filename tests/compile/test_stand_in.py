"""Programs that ask for CUDA run to their end without a GPU, and every launch is compiled for the Target."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from fusetune.capture.stand_in import stand_in
from fusetune.core.target import Target, find_target
from fusetune.errors import UsageError
from tests.support.warm import warm_python

pytestmark = pytest.mark.compile

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, sys
from pathlib import Path
from fusetune.capture.programs import parse_program, run_program
from fusetune.capture.stand_in import stand_in
from fusetune.core.target import find_target
from triton.runtime.jit import JITFunction

target, args, told, *words = sys.argv[1:]
launches, own = [], JITFunction.run
with stand_in(find_target(target)):
    compiling = JITFunction.run
    def run(self, *args, **kwargs):
        kernel = compiling(self, *args, **kwargs)
        data = kernel.metadata
        assert kernel.asm["cubin"][:4] == b"\\x7fELF"
        told_of = {"name": self.__name__, "sm": data.target.arch, "warps": data.num_warps, "trial": kwargs["warmup"]}
        launches.append(told_of)
        return kernel
    JITFunction.run = run
    try:
        run_program(parse_program(words, args=args or None))
    finally:
        JITFunction.run = compiling
        Path(told).write_text(json.dumps(launches))
assert JITFunction.run is own
"""
ADD = """
import torch, triton, triton.language as tl

@triton.jit
def add(x, y, z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(z + i, tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)

def summed(x, y):
    assert x.is_cuda and y.is_cuda and x.device == y.device
    z = torch.empty_like(x)
    add[(triton.cdiv(x.numel(), 256),)](x, y, z, x.numel(), BLOCK=256)
    return z
"""


@pytest.fixture
def rtx_4090() -> Target:
    return find_target("rtx4090")


class Run:
    """A program's end: what it printed, its exit code, its launches and trials."""

    def __init__(self, tmp_path: Path, words: list[str], target: str = "rtx4090", args: str = "") -> None:
        told = tmp_path / "told.json"
        self.cache = tmp_path / "triton"
        done = subprocess.run(
            [warm_python(), "-c", DRIVER, target, args, str(told), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TRITON_CACHE_DIR": str(self.cache),
                "CUDA_VISIBLE_DEVICES": "",
            },
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        launches: list[dict[str, Any]] = json.loads(told.read_text()) if told.exists() else []
        self.launches = [launch for launch in launches if not launch.pop("trial")]

    def ended_well(self) -> Run:
        assert self.code == 0, self.out + self.err
        return self

    def compiled(self) -> int:
        return len(list(self.cache.rglob("*.cubin")))


def script(tmp_path: Path, text: str, **keywords: Any) -> Run:
    (tmp_path / "bench.py").write_text(text, encoding="utf-8")
    return Run(tmp_path, ["bench.py"], **keywords)


def test_an_autotuned_script_with_a_callable_grid_is_compiled_once_for_the_target(tmp_path: Path) -> None:
    autotuned = ADD.replace(
        "@triton.jit",
        "configs = [triton.Config({'BLOCK': 128 * w}, num_warps=w) for w in (2, 4, 8)]\n"
        "@triton.autotune(configs, key=['n'], cache_results=True)\n@triton.jit",
    )
    use = """
DEVICE = triton.runtime.driver.active.get_active_torch_device()
x, y = torch.rand(1000, device=DEVICE), torch.rand(1000, device="cuda")
grids = []
def grid(meta):
    grids.append((triton.cdiv(meta["n"], meta["BLOCK"]),))
    return grids[-1]
z = torch.empty_like(x)
add[grid](x, y, z, 1000)
assert torch.allclose(z, x + y)
print(grids, triton.testing.do_bench(lambda: add[grid](x, y, z, n=1000), quantiles=[0.5, 0.2]))
"""
    run = script(tmp_path, autotuned + use).ended_well()
    assert run.launches == [{"name": "add", "sm": 89, "warps": 2}] * 2
    assert run.out == "[(4,), (4,)] [1.0, 1.0]\n"
    assert run.compiled() == 1
    assert not list(run.cache.rglob("*.autotune.json")), "a GPU would believe these times later"


DOT = """
import torch, triton, triton.language as tl

@triton.autotune([triton.Config({"K": k}, num_stages=5) for k in SIZES], key=[])
@triton.jit
def dot(x, z, steps, K: tl.constexpr):
    i, k = tl.arange(0, 128), tl.arange(0, K)
    acc = tl.zeros((128, 128), tl.float32)
    for step in range(steps):
        a = tl.load(x + i[:, None] * 4096 + k[None, :] + step * K)
        acc = tl.dot(a, tl.load(x + i[None, :] * 4096 + k[:, None] + step * K), acc)
    tl.store(z + i[:, None] * 128 + i[None, :], acc)

x = torch.rand(128, 4096, device="cuda", dtype=torch.float16)
z = torch.empty(128, 128, device="cuda")
dot[(1,)](x, z, 8)
print(dot.best_config.kwargs)
"""


def test_a_config_that_does_not_fit_the_target_is_passed_over(tmp_path: Path) -> None:
    run = script(tmp_path, "SIZES = (128, 32, 16)\n" + DOT).ended_well()
    assert run.out == "{'K': 32}\n"
    assert run.compiled() == 2


def test_a_launch_that_does_not_fit_the_target_ends_the_program_as_on_the_gpu(tmp_path: Path) -> None:
    run = script(tmp_path, "SIZES = (128,)\n" + DOT)
    assert run.code == 1
    assert "OutOfResources: out of resource: shared memory" in run.err


def test_a_hook_gives_a_descriptor_its_block_before_the_config_is_compiled(tmp_path: Path) -> None:
    text = """
import torch, triton, triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

def shape(args): args["d"].block_shape = [args["B"], 64]

@triton.autotune([triton.Config({"B": 32}, pre_hook=shape), triton.Config({"B": 64}, pre_hook=shape)], key=[])
@triton.jit
def copy(d, z, B: tl.constexpr):
    i, k = tl.arange(0, B), tl.arange(0, 64)
    tl.store(z + i[:, None] * 64 + k[None, :], d.load([0, 0]))

x = torch.rand(128, 64, device="cuda")
copy[(1,)](TensorDescriptor.from_tensor(x, [1, 1]), torch.empty_like(x))
"""
    assert script(tmp_path, text, target="h100").ended_well().launches == [{"name": "copy", "sm": 90, "warps": 4}]


@pytest.mark.parametrize(("model", "ends"), [("pynvml._nvmlCheckReturn(12)", 0), ("1 / 0", 1)])
def test_a_model_of_times_that_asks_the_driver_is_done_without(tmp_path: Path, model: str, ends: int) -> None:
    text = ADD.replace(
        "@triton.jit",
        "import pynvml\ndef times(**_): return " + model + "\n"
        "def pruned(configs, args, **_): return configs[1:]\n"
        "@triton.autotune([triton.Config({'BLOCK': 64 * w}, num_warps=w) for w in (1, 2, 4, 8)], ['n'],\n"
        "    prune_configs_by={'perf_model': times, 'top_k': 1, 'early_config_prune': pruned})\n@triton.jit",
    )
    run = script(tmp_path, text + "x = torch.rand(64).cuda()\nadd[(1,)](x, x, x, 64)\n")
    assert run.code == ends, run.err
    assert [launch["warps"] for launch in run.launches] == ([] if ends else [2])


def test_a_model_beside_its_reference_is_run_forward(tmp_path: Path) -> None:
    text = """
class Model(torch.nn.Module): ...

class ModelNew(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(size))
    def forward(self, x):
        assert self.weight.is_cuda
        return summed(x, self.weight)

def get_inputs(): return [torch.rand(300)]
def get_init_inputs(): return [300]
"""
    (tmp_path / "new.py").write_text(ADD + text)
    run = Run(tmp_path, ["new.py"]).ended_well()
    assert run.launches == [{"name": "add", "sm": 89, "warps": 4}]


def test_a_pytest_node_is_run(tmp_path: Path) -> None:
    text = """
import pytest
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n", [64, 1000])
def test_sum(n):
    x = torch.rand(n).cuda()
    torch.testing.assert_close(summed(x, x), 2 * x)
def test_other(): assert 0
"""
    (tmp_path / "test_mine.py").write_text(ADD + text)
    run = Run(tmp_path, ["-m", "pytest", "-q", "test_mine.py::test_sum"], target="a100-40gb").ended_well()
    assert [launch["sm"] for launch in run.launches] == [80, 80]
    assert "2 passed" in run.out


def test_a_function_is_called_with_tensors_that_are_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ADD)
    args = "torch.rand(64, device='cuda'), y=torch.rand(64).to('cuda', non_blocking=True)"
    run = Run(tmp_path, ["mine:summed"], args=args).ended_well()
    assert [launch["name"] for launch in run.launches] == ["add"]


def test_kernels_of_forward_and_of_backward_are_seen(tmp_path: Path) -> None:
    text = """
@triton.jit
def scale(g, out, n, s, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(g + i, i < n) * s, i < n)

class Sum(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, x, y):
        return summed(x, y)
    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, g):
        assert g.is_cuda and g.device.type == "cuda"
        out = torch.zeros(g.shape, device=g.device)
        with torch.cuda.device(g.device):
            scale[lambda meta: (triton.cdiv(g.numel(), meta["BLOCK"]),)](g, out, g.numel(), 2.0, BLOCK=64, num_warps=2)
        return out, None

x = torch.rand(100, device="cuda", requires_grad=True)
with torch.autocast("cuda", dtype=torch.bfloat16):
    Sum.apply(x, x.detach()).sum().backward()
assert x.grad.is_cuda
"""
    run = script(tmp_path, ADD + text).ended_well()
    assert [(launch["name"], launch["warps"]) for launch in run.launches] == [("add", 4), ("scale", 2)]


def test_a_program_that_times_itself_on_a_grid_of_the_gpu_s_size_reads_the_target(tmp_path: Path) -> None:
    text = """
torch.set_default_device("cuda")
torch.cuda.manual_seed_all(0)
generator = torch.Generator(device="cuda")
generator.manual_seed(0)
x, z = torch.randn(1000, generator=generator), torch.empty(1000)
properties = torch.cuda.get_device_properties(x.device)
theirs = triton.runtime.driver.active.utils.get_device_properties(x.device.index)
kernel = add.warmup(x, x, z, 1000, BLOCK=128, grid=(1,))
kernel._init_handles()
assert 0 < kernel.n_regs < 255 and kernel.n_spills == 0 and kernel.metadata.shared == 0
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
with torch.cuda.stream(torch.cuda.Stream()):
    start.record()
    kernel = add[(properties.multi_processor_count, 1, 1)](x, x, z, 1000, BLOCK=128)
    end.record()
torch.cuda.synchronize()
print(properties.multi_processor_count, theirs["multiprocessor_count"], theirs["max_shared_mem"], properties.name)
print(torch.cuda.get_device_capability(), start.elapsed_time(end), torch.cuda.current_stream().cuda_stream)
print(x.device, torch.get_default_device(), z.tolist() == [0.0] * 1000)
"""
    run = script(tmp_path, ADD + text, target="rtx4090").ended_well()
    assert run.out.splitlines() == [
        "128 128 101376 NVIDIA GeForce RTX 4090",
        "(8, 9) 1.0 0",
        "cuda:0 cuda:0 True",
    ]
    assert len(run.launches) == 1


def test_an_operator_that_is_registered_for_cuda_alone_is_found(tmp_path: Path) -> None:
    text = """
@torch.library.custom_op("mine::summed", mutates_args=(), device_types="cuda")
def op(x: torch.Tensor) -> torch.Tensor: return summed(x, x)

library = torch.library.Library("mine2", "DEF")
library.define("twice(Tensor x) -> Tensor")
library.impl("twice", lambda x: x + x, "CPU")
library.impl("twice", lambda x: summed(x, x), "CUDA")
@op.register_kernel("cpu")
def on_cpu(x): return x + x
x = torch.rand(64, device="cuda")
op(x)
torch.ops.mine2.twice(x)
torch.compile(summed, fullgraph=True)(x, x)
"""
    assert len(script(tmp_path, ADD + text).ended_well().launches) == 3


def test_a_thread_of_the_program_is_on_the_gpu_too(tmp_path: Path) -> None:
    text = """
import threading
thread = threading.Thread(target=lambda: summed(torch.rand(64, device="cuda"), torch.rand(64).cuda()))
thread.start()
thread.join()
"""
    assert len(script(tmp_path, ADD + text).ended_well().launches) == 1


def test_a_program_that_fails_fails_by_itself(tmp_path: Path) -> None:
    run = script(tmp_path, ADD + "summed(torch.rand(9).cuda(), torch.rand(9).cuda())\nraise KeyError('mine')\n")
    assert run.code == 1
    assert run.err.splitlines()[-1] == "KeyError: 'mine'"
    assert len(run.launches) == 1


def test_a_kernel_that_does_not_compile_raises_as_triton_does(tmp_path: Path) -> None:
    run = script(
        tmp_path, ADD.replace("tl.arange(0, BLOCK)", "tl.arange(0, 3)") + "x = torch.rand(9).cuda()\nsummed(x, x)"
    )
    assert run.code == 1
    assert "triton.compiler.errors.CompilationError" in run.err
    assert "arange's range must be a power of 2" in run.err


def test_a_cuda_graph_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run = script(tmp_path, "import torch\ngraph = torch.cuda.CUDAGraph()\n")
    assert run.code == 1
    assert "CUDA graphs cannot be captured without a GPU" in run.err


@pytest.mark.parametrize("fails", [False, True])
def test_torch_and_triton_are_as_before_afterwards(fails: bool) -> None:
    import torch
    import triton.testing
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    places = [torch, torch.cuda, torch.cuda.nvtx, torch.cuda.profiler, torch.accelerator, torch.version, torch.testing]
    places += [torch._C, torch.Tensor, torch.nn.Module, torch.library, torch.library.Library, torch.amp.autocast_mode]
    places += [
        threading.Thread,
        torch.autograd.graph.saved_tensors_hooks,
        torch.autograd,
        torch.autograd.graph,
        torch.amp.autocast_mode.autocast,
    ]
    places += [torch._library.custom_ops.CustomOpDef]
    places += [triton.testing, JITFunction, Autotuner, driver]
    with stand_in(find_target("rtx4090")):
        pass  # Modules that are loaded on first use are there now.
    before = [dict(vars(place)) for place in places]
    with pytest.raises(KeyError) if fails else stand_in(find_target("h100")), stand_in(find_target("rtx4090")):
        torch.set_default_device("cuda")
        assert torch.zeros(2).is_cuda
        assert torch.cuda.is_available()
        assert vars(JITFunction)["run"] is not before[places.index(JITFunction)]["run"]
        if fails:
            raise KeyError
    for place, held in zip(places, before, strict=True):
        now = vars(place)
        changed = {name for name in {*now, *held} if now.get(name) is not held.get(name)}
        assert not changed, f"{place}: {changed}"
    assert not torch.zeros(2).is_cuda
    assert torch.zeros(2).device.type == "cpu"
    assert torch.get_default_device().type == "cpu"


def test_memory_that_nothing_filled_is_zero_of_any_size(rtx_4090: Target) -> None:
    import torch

    with stand_in(rtx_4090):
        for size in (16, 2**20, 2**25):
            used = torch.ones(size, device="cuda")
            del used
            assert not torch.empty(size, device="cuda").any()
            assert not torch.ones(size).new_empty((size,)).any()


def test_billions_of_random_floats_are_not_drawn_since_no_kernel_reads_them(rtx_4090: Target) -> None:
    import torch

    with stand_in(rtx_4090):
        layer = torch.nn.Linear(2**14, 2**14, device="cuda")
        large = [torch.randn(2**28, device="cuda"), torch.rand_like(layer.weight), torch.rand(2**26, dtype=torch.half)]
        for one in (layer.weight, *large):
            assert one.is_cuda
            assert not one[:1].any()
        assert large[0].shape == (2**28,)
        assert large[2].dtype == torch.half
        assert torch.nn.Linear(64, 64).weight.any()
        generator = torch.Generator("cuda").manual_seed(1)
        drawn = torch.randn(64, generator=generator, device="cuda", requires_grad=True)
        assert drawn.any()
        assert drawn.requires_grad
        assert torch.rand(8, out=torch.empty(8)).any()


def test_modules_checkpoints_and_random_states_are_as_on_a_gpu(rtx_4090: Target) -> None:
    import torch
    from torch.utils.checkpoint import checkpoint

    with stand_in(rtx_4090):
        layer = torch.nn.Linear(4, 4).to(0).half()
        assert next(layer.parameters()).get_device() == 0
        x = torch.ones(2, 4, device=torch.device("cuda", 0), dtype=torch.float16, requires_grad=True)
        seen = []
        x.register_hook(lambda gradient: seen.append(gradient.is_cuda))

        def part(values: torch.Tensor) -> torch.Tensor:
            seen.append(values.is_cuda)
            return layer(values)

        for reentrant in (False, True):
            checkpoint(part, x, use_reentrant=reentrant).sum().backward()
        assert seen == [True] * 6
        with torch.random.fork_rng(), torch.amp.autocast("cuda"):
            torch.cuda.manual_seed(1)
            assert torch.is_autocast_enabled("cuda")
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float16
        scaler = torch.amp.GradScaler("cuda")
        optimizer = torch.optim.AdamW(torch.nn.Linear(4, 4, device="cuda").parameters())
        scaler.scale(torch.ones((), device="cuda", requires_grad=True) * 2).backward()
        optimizer.step()
        assert x.type() == "torch.cuda.HalfTensor"
        assert x.pin_memory() is x
        assert "cuda" not in repr(x.cpu().detach().numpy())


def test_what_a_warm_up_compiled_can_be_launched_and_does_nothing(tmp_path: Path) -> None:
    text = """
x = torch.zeros(64).cuda()
kernel = add.warmup(x, x, x, 64, BLOCK=64, grid=(1,))
kernel[(1, 1, 1)](x, x, x, 64, 64)
"""
    assert script(tmp_path, ADD + text).ended_well().launches == []


def test_an_interpreting_triton_is_refused(rtx_4090: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    available = torch.cuda.is_available
    with pytest.raises(UsageError, match="unset it"), stand_in(rtx_4090):
        pass
    assert torch.cuda.is_available is available


def test_kernels_and_choices_of_before_are_there_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import torch

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "autotuned_add.py").write_text(
        ADD.replace(
            "@triton.jit", "@triton.autotune([triton.Config({'BLOCK': b}) for b in (64, 128)], ['n'])\n@triton.jit"
        )
    )
    add = importlib.import_module("autotuned_add").add
    caches = add.fn.device_caches
    for target, sm in {"rtx4090": 89, "h100": 90}.items():
        with stand_in(find_target(target)):
            x = torch.rand(64, device="cuda")
            assert add[(1,)](x, x, x, 64).metadata.target.arch == sm
            assert len(add.cache) == 1
        assert add.fn.device_caches is caches
        assert (caches, add.cache) == ({}, {})


def test_the_gpu_s_generator_has_a_seed_and_an_offset_that_a_program_may_move():
    import torch

    with stand_in(find_target("rtx4090")):
        torch.manual_seed(7)
        (generator,) = torch.cuda.default_generators
        seed, offset = generator.get_state().view(torch.int64)
        assert (int(seed), int(offset)) == (7, 0)
        generator.set_state(torch.tensor([7, 64]).view(torch.uint8))
        kept = torch.cuda.get_rng_state()
        assert (generator.get_offset(), generator.initial_seed()) == (64, 7)
        torch.cuda.manual_seed_all(9)
        assert torch.cuda.initial_seed() == 9
        torch.cuda.set_rng_state(kept)
        assert generator.get_offset() == 64
        torch.manual_seed(2**64 - 1)
        assert torch.cuda.get_rng_state().view(torch.int64).tolist() == [-1, 0]
    assert not torch.cuda.default_generators or torch.cuda.is_available()
