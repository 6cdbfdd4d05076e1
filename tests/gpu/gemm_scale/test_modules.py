"""The fused modules and functions on silicon, beside nn.Linear, a product and nn.BatchNorm1d."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fusetune import ModelNew, fused_gemm_scale, fused_gemm_scale_batch_norm
from fusetune.nn import dispatch
from fusetune.nn.bound import forget_plans
from fusetune.ops.gemm_scale.config import BASELINE, Config

WHOLE = Config(BLOCK_M=128, BLOCK_N=16, BLOCK_K=64)
LIBRARY = Config(variant="library")
SPLIT = Config(variant="split_k", BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, SPLIT_K=4)
PERSISTENT = Config(variant="persistent", BLOCK_M=64, BLOCK_N=128, BLOCK_K=32, num_stages=3)
PERSISTENT_WHOLE = Config(variant="persistent", BLOCK_M=128, BLOCK_N=16, BLOCK_K=64, num_stages=3)
PERSISTENT_SPLIT = Config(variant="persistent", BLOCK_M=32, BLOCK_N=32, BLOCK_K=32, SPLIT_K=4, num_stages=3)
CONFIGS = [BASELINE, WHOLE, SPLIT, PERSISTENT, PERSISTENT_WHOLE, PERSISTENT_SPLIT, LIBRARY]

each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
each_variant = pytest.mark.parametrize("variant", CONFIGS, ids=Config.label)
each_dtype = pytest.mark.parametrize(
    ("dtype", "precision", "close"),
    [
        (torch.float32, "ieee", {"rtol": 1e-4, "atol": 1e-4}),
        (torch.float32, "tf32", {"rtol": 1e-2, "atol": 1e-2}),
        (torch.float16, None, {"rtol": 1e-2, "atol": 1e-2}),
        (torch.bfloat16, None, {"rtol": 6e-2, "atol": 6e-2}),
    ],
    ids=["ieee", "tf32", "float16", "bfloat16"],
)


@pytest.fixture
def use(monkeypatch):
    """Give every call this config, as if it had been tuned; the configs that were launched."""
    configs = []
    launches_of = dispatch.gemm_launches

    def recorded(problem, config, *rest, **options):
        configs.append(config)
        return launches_of(problem, config, *rest, **options)

    def choose(config, precision="tf32"):
        if config.variant == "persistent" and torch.cuda.get_device_capability() < (9, 0):
            pytest.skip("this GPU has no copy engine (TMA)")
        if config.variant == "persistent" and precision == "ieee":
            pytest.skip("ieee does not use the tensor cores that this variant feeds")
        forget_plans()
        monkeypatch.setattr(dispatch, "_config", lambda op, problem, x: config)
        monkeypatch.setattr(dispatch, "gemm_launches", recorded)
        return configs

    yield choose
    forget_plans()


class Plain(nn.Module):
    """What ModelNew is in PyTorch, with the same state."""

    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(part) for part in (fused.gemm, fused.scale, fused.bn))

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


def _draw(M=96, K=128, N=80, dtype=torch.float32, requires_grad=False):
    """x, weight, bias, scale, gamma, beta; then running_mean and running_var."""
    torch.manual_seed(0)
    x, weight = torch.randn(M, K), torch.randn(N, K) / max(K, 1) ** 0.5
    drawn = [x, weight, *(torch.randn(N) for _ in range(4))]
    running = [torch.randn(N), torch.rand(N) + 0.5]
    tensors = [tensor.to("cuda", dtype) for tensor in (*drawn, *running)]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors[:6]] + tensors[6:]


def _plain(tensors, training, momentum=0.1):
    """In float64: y, running_mean and running_var."""
    x, weight, bias, scale, gamma, beta, mean, var = (tensor.detach().double() for tensor in tensors)
    mean, var = mean.clone(), var.clone()
    y = nn.functional.linear(x, weight, bias) * scale
    return nn.functional.batch_norm(y, mean, var, gamma, beta, training, momentum), mean, var


@each_dtype
@each_variant
@each_mode
def test_every_variant_gives_pytorch_s_values_and_statistics(variant, training, dtype, precision, close, use):
    launched = use(variant, precision)
    tensors, counter = _draw(dtype=dtype), torch.tensor(4, device="cuda")
    expected = _plain(tensors, training)
    y = fused_gemm_scale_batch_norm(*tensors, training=training, num_batches_tracked=counter, precision=precision)
    for mine, theirs in zip((y, *tensors[6:]), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, **close)
    assert y.dtype == dtype
    assert int(counter) == 4 + training
    assert launched == [variant]


@each_variant
@each_dtype
def test_every_variant_computes_the_product_alone(variant, dtype, precision, close, use):
    launched = use(variant, precision)
    tensors = _draw(dtype=dtype)[:4]
    x, weight, bias, scale = (tensor.double() for tensor in tensors)
    y = fused_gemm_scale(*tensors, precision=precision)
    torch.testing.assert_close(y.double(), nn.functional.linear(x, weight, bias) * scale, **close)
    assert launched == [variant]


@each_mode
@pytest.mark.parametrize(("M", "K", "N"), [(96, 128, 77), (96, 127, 80)])
def test_what_the_copy_engine_cannot_take_is_computed_by_baseline(M, K, N, training, use):
    launched = use(PERSISTENT)
    tensors = _draw(M, K, N)
    expected, *_ = _plain(tensors, training)
    y = fused_gemm_scale_batch_norm(*tensors, training=training, precision="ieee")
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert launched == [BASELINE]


@each_mode
def test_strided_x_and_weight_are_read_in_place(training):
    tensors = _draw()
    expected, *_ = _plain(tensors, training)
    tensors[0] = tensors[0].T.contiguous().T
    tensors[1] = tensors[1].repeat_interleave(2, 1)[:, ::2]
    y = fused_gemm_scale_batch_norm(*tensors, training=training, precision="ieee")
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@each_mode
def test_gradients_are_pytorch_s(training):
    ours, plain = _draw(requires_grad=True), _draw(requires_grad=True)
    along = torch.randn(96, 80, device="cuda")
    fused_gemm_scale_batch_norm(*ours, training=training, precision="ieee").backward(along)
    x, weight, bias, scale, gamma, beta, mean, var = plain
    y = nn.functional.linear(x, weight, bias) * scale
    nn.functional.batch_norm(y, mean, var, gamma, beta, training).backward(along)
    for mine, theirs in zip(ours[:6], plain[:6], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("dtype", "close"),
    [(torch.float32, {"rtol": 2e-2, "atol": 2e-2}), (torch.float16, {"rtol": 5e-2, "atol": 5e-2})],
    ids=["float32", "float16"],
)
def test_model_new_trains_as_the_plain_module_does(dtype, close, momentum):
    torch.manual_seed(1)
    ours = ModelNew(96, 64, (64,), momentum=momentum).to("cuda", dtype)
    # Training does not depend on the scale but for eps: near zero its gradient is the noise of a cancellation.
    nn.init.uniform_(ours.scale, 0.5, 1.5)
    plain = Plain(ours)
    for _ in range(10):
        x = torch.randn(48, 96, device="cuda", dtype=dtype)
        along = torch.randn(48, 64, device="cuda", dtype=dtype)
        for module in (ours, plain):
            module.zero_grad()
        y, expected = ours(x), plain(x)
        torch.testing.assert_close(y, expected, **close)
        y.backward(along)
        expected.backward(along)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, **close)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, **close)
    assert int(ours.bn.num_batches_tracked) == 10
    x = torch.randn(7, 96, device="cuda", dtype=dtype)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x), **close)


def test_one_row_and_empty_inputs_are_treated_as_pytorch_treats_them():
    model = ModelNew(16, 8, (8,)).cuda()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(torch.randn(1, 16, device="cuda"))
    plain = Plain(model.eval())
    one = torch.randn(1, 16, device="cuda")
    torch.testing.assert_close(model(one), plain(one), rtol=1e-2, atol=1e-2)
    assert model(torch.empty(0, 16, device="cuda")).shape == (0, 8)
    for training in (True, False):
        tensors = _draw(4, 0, 8)
        expected, *_ = _plain(tensors, training)
        y = fused_gemm_scale_batch_norm(*tensors, training=training)
        torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


def test_training_is_captured_in_a_graph_and_counts_at_each_replay():
    model = ModelNew(96, 64, (64,)).cuda()
    x = torch.randn(48, 96, device="cuda")
    with torch.no_grad():
        model(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(x)
    for _ in range(3):
        graph.replay()
    assert int(model.bn.num_batches_tracked) == 4
