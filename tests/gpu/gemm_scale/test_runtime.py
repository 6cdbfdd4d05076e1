"""Plans on silicon: direct launches under hooks, graphs, streams and threads; nothing grows or recompiles."""

from __future__ import annotations

import copy
import random
import threading
import time

import pytest
import torch
import triton
from torch import nn

import fusetune
from fusetune import FusedLinearScale, ModelNew, fused_gemm_scale
from fusetune.nn import dispatch
from fusetune.nn.bound import forget_plans
from fusetune.nn.linear_scale import BOUND
from fusetune.nn.plans import PLANS
from fusetune.ops import direct
from fusetune.ops.gemm_scale.config import BASELINE, Config

PERSISTENT = Config(variant="persistent", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3)
SPLIT = Config(variant="split_k", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, SPLIT_K=8)
JOINED = Config(variant="split_k", BLOCK_M=32, BLOCK_N=32, BLOCK_K=32, SPLIT_K=4)
PERSISTENT_JOINED = Config(variant="persistent", BLOCK_M=128, BLOCK_N=16, BLOCK_K=32, SPLIT_K=2, num_stages=3)
CLOSE = {"rtol": 1e-2, "atol": 1e-2}
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@pytest.fixture(params=[BASELINE, SPLIT, JOINED, PERSISTENT, PERSISTENT_JOINED], ids=Config.label)
def config(request, monkeypatch):
    """Every call gets this config, as if it had been tuned."""
    if request.param.variant == "persistent" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("this GPU has no copy engine (TMA)")
    forget_plans()
    monkeypatch.setattr(dispatch, "_config", lambda op, problem, x: request.param)
    yield request.param
    forget_plans()


@pytest.fixture(autouse=True)
def fresh():
    forget_plans()
    yield
    forget_plans()


def _draw(M=128, K=256, N=192, device="cuda", dtype=torch.float32):
    generator = torch.Generator().manual_seed(M)
    shapes = ((M, K), (N, K), (N,), (N,))
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def _expected(x, weight, bias, scale):
    return (x.double() @ weight.double().T + bias.double()) * scale.double()


def _assert_right(y, tensors):
    expected = _expected(*tensors)
    assert (y.double() - expected).norm() / expected.norm() < 1e-3


class Plain(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(part) for part in (fused.gemm, fused.scale, fused.bn))

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


def test_this_triton_is_launched_directly(config):
    fused_gemm_scale(*_draw())
    (plan,) = PLANS.made_for("gemm_scale")
    assert plan.launches is not None
    assert plan.config == config


def test_a_second_call_goes_the_short_way_and_gives_the_same(config, monkeypatch):
    tensors = _draw()
    first = fused_gemm_scale(*tensors)
    assert len(BOUND) == 1
    monkeypatch.setattr("fusetune.nn.linear_scale._launched", lambda *_: pytest.fail("the long way"))
    second = fused_gemm_scale(*tensors)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    others = [tensor.clone() for tensor in tensors]
    others[1] = tensors[1]
    others[0].mul_(2)
    _assert_right(fused_gemm_scale(*others), others)


def test_the_jit_s_own_way_gives_the_same(config, monkeypatch):
    tensors = _draw()
    directly = fused_gemm_scale(*tensors)
    forget_plans()
    monkeypatch.setattr(direct, "_layout", lambda: None)
    assert torch.equal(fused_gemm_scale(*tensors), directly)


def test_a_tensor_that_is_not_aligned_goes_the_long_way_and_is_right(config):
    tensors = _draw()
    for _ in range(2):
        fused_gemm_scale(*tensors)
    spread = torch.empty(tensors[0].numel() + 1, device="cuda")[1:].view_as(tensors[0]).copy_(tensors[0])
    for _ in range(2):
        given = [spread, *tensors[1:]]
        _assert_right(fused_gemm_scale(*given), given)


def test_memory_that_moved_is_seen_by_the_copy_engine_s_descriptors(config):
    tensors = _draw()
    kept = []
    for step in range(direct.MOST_TENSOR_MAPS + 5):
        x = tensors[0] + step
        y = fused_gemm_scale(x, *tensors[1:])
        kept.append((x, y))
    for x, y in kept[::9]:
        _assert_right(y, [x, *tensors[1:]])


def test_launch_hooks_see_every_kernel_and_none_is_called_without(config):
    tensors = _draw()
    fused_gemm_scale(*tensors)
    seen = []

    def hook(metadata):
        seen.append(metadata.get()["name"])

    chain = triton.knobs.runtime.launch_enter_hook
    chain.add(hook)
    try:
        fused_gemm_scale(*tensors)
    finally:
        chain.remove(hook)
    fused_gemm_scale(*tensors)
    first = "persistent_products" if config == PERSISTENT else "tiled_products"
    first = "joined_products" if config == PERSISTENT_JOINED else first
    assert seen == [first, *(["finish_split"] if config == SPLIT else [])]


@each_mode
def test_a_captured_graph_goes_on_after_other_calls_took_the_memory(config, training):
    torch.manual_seed(0)
    model = ModelNew(256, 192, (192,)).cuda().train(training)
    plain = Plain(model)
    x = torch.randn(128, 256, device="cuda")
    with torch.no_grad():
        model(x), plain(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        for _ in range(3):
            model(torch.randn(128, 256, device="cuda")) if not training else torch.empty(
                1 << 22, device="cuda"
            ).normal_()
            x.normal_()
            graph.replay()
            torch.testing.assert_close(y, plain(x), **CLOSE)
    torch.testing.assert_close(model.bn.running_var, plain.bn.running_var, **CLOSE)


def test_streams_do_not_mix(config):
    sets = [_draw(M) for M in (64, 128, 256, 512)]
    streams = [torch.cuda.Stream() for _ in sets]
    torch.cuda.synchronize()
    outputs = []
    for _ in range(20):
        for tensors, stream in zip(sets, streams, strict=True):
            with torch.cuda.stream(stream):
                outputs.append((fused_gemm_scale(*tensors), tensors))
    torch.cuda.synchronize()
    for y, tensors in outputs[-8:]:
        _assert_right(y, tensors)


def test_replays_on_two_streams_and_calls_on_a_third_share_nothing(config):
    """Where summands are joined each would count the others' arrivals."""
    sets = [_draw(M) for M in (64, 128, 128)]
    expected = [fused_gemm_scale(*tensors) for tensors in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    graphs, captured = [], []
    for tensors in sets[:2]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured.append([fused_gemm_scale(*tensors) for _ in range(20)])
        graphs.append(graph)
    torch.cuda.synchronize()
    for _ in range(50):
        for graph, stream in zip(graphs, streams, strict=False):
            with torch.cuda.stream(stream):
                graph.replay()
        with torch.cuda.stream(streams[2]):
            eager = [fused_gemm_scale(*sets[2]) for _ in range(20)]
        torch.cuda.synchronize()
        for outputs, right in zip((*captured, eager), expected, strict=True):
            for y in outputs:
                assert torch.equal(y, right)


def test_threads_may_make_and_use_plans_at_once(config):
    sets = [_draw(M) for M in (32, 64, 100, 128)]
    start, failures = threading.Barrier(8), []

    def work(number):
        start.wait()
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for step in range(40):
                    tensors = sets[(number + step) % len(sets)]
                    y = fused_gemm_scale(*tensors)
                    torch.cuda.current_stream().synchronize()
                    _assert_right(y, tensors)
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(PLANS.made_for("gemm_scale")) == len(sets)


def test_a_tensor_of_another_gpu_is_computed_there(config):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    first, second = _draw(device="cuda:0"), _draw(device="cuda:1")
    for _ in range(3):
        for tensors in (first, second):
            y = fused_gemm_scale(*tensors)
            assert y.device == tensors[0].device
            _assert_right(y, tensors)
    assert torch.cuda.current_device() == 0


def test_a_thousand_calls_over_fifty_shapes_neither_grow_nor_recompile():
    rng = random.Random(0)
    shapes = [(rng.randint(1, 512), rng.choice([64, 100]), rng.choice([64, 50])) for _ in range(50)]
    modules = {(K, N): ModelNew(K, N, (N,)).cuda().eval() for _, K, N in shapes}
    inputs = [torch.randn(M, K, device="cuda") for M, K, _ in shapes]
    compiled = []

    @torch.no_grad()
    def one_pass():
        for x, (_, K, N) in zip(inputs, shapes, strict=True):
            modules[K, N](x)
        torch.cuda.synchronize()

    one_pass()
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told["repr"])
    before = (torch.cuda.memory_allocated(), PLANS.count)
    try:
        for _ in range(20):
            one_pass()
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
    assert (torch.cuda.memory_allocated(), PLANS.count) == before
    assert not compiled


@pytest.mark.parametrize("op", ["gemm_scale", "gemm_scale_bn"])
def test_the_first_call_of_a_warmed_problem_is_short(op):
    torch.manual_seed(0)
    model = (ModelNew(512, 256, (256,)) if op == "gemm_scale_bn" else FusedLinearScale(512, 256, 256)).cuda().eval()
    x = torch.randn(96, 512, device="cuda")
    model.gemm(x)  # what PyTorch itself loads at its first call is not ours
    mode = {"mode": "eval"} if op == "gemm_scale_bn" else {}
    (warmed,) = fusetune.warmup([{"M": 96, "N": 256, "K": 512, "op": op, **mode}])
    assert warmed.config == BASELINE or warmed.ms > 0
    made = PLANS.count
    torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.no_grad():
        model(x)
    assert time.perf_counter() - began < 0.05
    assert PLANS.count == made, "the call found what was warmed"


@each_mode
def test_a_compiled_model_is_one_graph_and_trains_as_the_plain_one(training):
    torch._dynamo.reset()
    torch.manual_seed(0)
    ours = ModelNew(256, 192, (192,)).cuda().train(training)
    nn.init.uniform_(ours.scale, 0.5, 1.5)
    plain = Plain(ours)
    compiled = torch.compile(ours, fullgraph=True)
    for _ in range(3):
        x = torch.randn(128, 256, device="cuda")
        y, expected = compiled(x), plain(x)
        torch.testing.assert_close(y, expected, **CLOSE)
        for module, output in ((ours, y), (plain, expected)):
            module.zero_grad()
            output.square().mean().backward()
        torch.testing.assert_close(ours.gemm.weight.grad, plain.gemm.weight.grad, **CLOSE)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, **CLOSE)
    assert PLANS.made_for("gemm_scale_bn"), "a kernel computed it"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
@each_mode
def test_autocast_gives_the_dtypes_and_values_of_the_plain_modules(training, compiled, dtype):
    torch._dynamo.reset()
    torch.manual_seed(0)
    ours = ModelNew(256, 192, (192,)).cuda().train(training)
    nn.init.uniform_(ours.scale, 0.5, 1.5)
    plain = Plain(ours)
    x = torch.randn(128, 256, device="cuda")
    called = torch.compile(ours, fullgraph=True) if compiled else ours
    with torch.autocast("cuda", dtype=dtype):
        y, expected = called(x), plain(x)
        product = fused_gemm_scale(x, ours.gemm.weight, ours.gemm.bias, ours.scale)
        assert product.dtype == (ours.gemm(x) * ours.scale).dtype
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=5e-2, atol=5e-2)
    y.square().mean().backward()
    expected.square().mean().backward()
    assert ours.gemm.weight.grad.dtype == torch.float32
    torch.testing.assert_close(ours.gemm.weight.grad, plain.gemm.weight.grad, rtol=5e-2, atol=5e-3)


def test_a_bn_kept_in_float32_under_16_bit_inputs_is_fused_and_right():
    torch.manual_seed(0)
    ours = ModelNew(256, 192, (192,)).cuda().bfloat16().eval()
    ours.bn.float()
    plain = Plain(ours)
    x = torch.randn(128, 256, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        y = ours(x)
        assert y.dtype == plain(x).dtype
        torch.testing.assert_close(y, plain(x), rtol=6e-2, atol=6e-2)
    assert PLANS.made_for("gemm_scale_bn")


def test_opcheck_finds_nothing_on_a_gpu():
    tensors = [tensor.requires_grad_() for tensor in _draw(16, 32, 24)]
    found = torch.library.opcheck(torch.ops.fusetune.gemm_scale.default, tuple(tensors), rtol=1e-2, atol=1e-2)
    assert set(found.values()) == {"SUCCESS"}


@each_mode
def test_gradients_are_there_after_the_short_way_too(training):
    torch.manual_seed(0)
    ours = ModelNew(256, 192, (192,)).cuda().train(training)
    nn.init.uniform_(ours.scale, 0.5, 1.5)
    plain = Plain(ours)
    x = torch.randn(128, 256, device="cuda")
    for _ in range(3):
        for module in (ours, plain):
            module.zero_grad()
            module(x).square().mean().backward()
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert int(ours.bn.num_batches_tracked) == (3 if training else 0)


def test_the_repr_shows_the_config_in_use():
    model = FusedLinearScale(256, 192, 192).cuda()
    assert "not called yet" in repr(model)
    model(torch.randn(128, 256, device="cuda"))
    assert "M=128: " in repr(model)
