"""The fused modules and functions by their kernels on the CPU, beside nn.Linear, a product and nn.BatchNorm1d."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fusetune import FusedLinearScaleBatchNorm, ModelNew, fused_gemm_scale, fused_gemm_scale_batch_norm
from fusetune.errors import UsageError
from fusetune.nn import dispatch
from fusetune.ops.gemm_scale.config import BASELINE, Config

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
VARIANTS = [
    BASELINE,
    Config(BLOCK_M=16, BLOCK_N=16, BLOCK_K=16, GROUP_M=2),
    Config(BLOCK_M=64, BLOCK_N=16),
    Config(variant="split_k", BLOCK_M=16, BLOCK_N=16, BLOCK_K=16, SPLIT_K=2),
    Config(variant="persistent", BLOCK_M=64, BLOCK_N=16, BLOCK_K=32),
    Config(variant="persistent", BLOCK_M=16, BLOCK_N=16, BLOCK_K=32),
    Config(variant="persistent", BLOCK_M=16, BLOCK_N=16, BLOCK_K=16, SPLIT_K=4),
    Config(variant="library"),
]
REREAD = Config(variant="reread", BLOCK_M=16, BLOCK_N=16, BLOCK_K=16)
OWNER = Config(variant="owner", BLOCK_M=16, BLOCK_N=16, BLOCK_K=16)
"""For training alone, both."""

each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=Config.label)


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """The configs of the launches, in order: what is compared with PyTorch must not be PyTorch."""
    configs = []
    launches_of = dispatch.gemm_launches

    def recorded(problem, config, *rest, **options):
        configs.append(config)
        return launches_of(problem, config, *rest, **options)

    monkeypatch.setattr(dispatch, "gemm_launches", recorded)
    return configs


@pytest.fixture
def use(monkeypatch):
    """Give every call this config, as if it had been tuned."""
    return lambda config: monkeypatch.setattr(dispatch, "_config", lambda op, problem, x: config)


class Plain(nn.Module):
    """What the fused modules are in PyTorch, with the same state."""

    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(part) for part in (fused.gemm, fused.scale, fused.bn))

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


def _batch(step, M=33, K=40):
    return torch.randn(M, K, generator=torch.Generator().manual_seed(step))


def _assert_same_state(ours, plain):
    mine = ours.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(mine[name], value, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


def _draw(M=20, K=24, N=12, requires_grad=False):
    """x, weight, bias, scale, gamma, beta; then running_mean and running_var."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((M, K), (N, K), (N,), (N,), (N,), (N,))
    drawn = [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for shape in shapes]
    return [*drawn, torch.randn(N, generator=generator), torch.rand(N, generator=generator) + 0.5]


def _plain(x, weight, bias, scale, gamma, beta, mean, var, training, momentum=0.1):
    y = nn.functional.linear(x, weight, bias) * scale
    return nn.functional.batch_norm(y, mean, var, gamma, beta, training, momentum)


@pytest.mark.parametrize("options", [{}, {"eps": 0.5, "momentum": 0.9}, {"momentum": None}])
def test_ten_steps_of_training_go_as_the_plain_module_s_do(options, launched):
    torch.manual_seed(0)
    ours = FusedLinearScaleBatchNorm(40, 24, (24,), **options)
    plain = Plain(ours)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.05) for module in (ours, plain)]
    for step in range(10):
        x = _batch(step)
        outputs = [module(x) for module in (ours, plain)]
        torch.testing.assert_close(*outputs, **CLOSE)
        for y, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            (y - x[:, :24]).square().mean().backward()
            optimizer.step()
    _assert_same_state(ours, plain)
    assert int(ours.bn.num_batches_tracked) == 10
    torch.testing.assert_close(ours.eval()(_batch(99)), plain.eval()(_batch(99)), **CLOSE)
    assert len(launched) == 11


def test_evaluation_takes_the_running_statistics_and_leaves_them_alone():
    torch.manual_seed(1)
    ours = ModelNew(40, 24, (24,))
    ours(_batch(0))
    plain = Plain(ours.eval())
    y = ours(_batch(1))
    torch.testing.assert_close(y, plain(_batch(1)), **CLOSE)
    assert y.requires_grad
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize(
    ("variant", "training"),
    [*((variant, training) for variant in VARIANTS for training in (True, False)), (REREAD, True), (OWNER, True)],
    ids=lambda value: value.label() if isinstance(value, Config) else "train" if value else "eval",
)
def test_every_variant_gets_what_it_needs(variant, training, use, launched):
    use(variant)
    ours, plain, counter = _draw(33, 40, 24), _draw(33, 40, 24), torch.tensor(4)
    y = fused_gemm_scale_batch_norm(*ours, training=training, num_batches_tracked=counter)
    torch.testing.assert_close(y, _plain(*plain, training), **CLOSE)
    for mine, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, expected, **CLOSE)
    assert int(counter) == 4 + training
    assert launched == [variant]


@each_variant
def test_every_variant_computes_the_product_alone(variant, use, launched):
    use(variant)
    x, weight, bias, scale, *_ = _draw(33, 40, 24)
    y = fused_gemm_scale(x, weight, bias, scale)
    torch.testing.assert_close(y, nn.functional.linear(x, weight, bias) * scale, **CLOSE)
    assert launched == [variant]


@each_mode
@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize(("M", "K", "N"), [(20, 24, 13), (20, 23, 12)])
def test_what_the_copy_engine_cannot_take_is_computed_by_baseline(M, K, N, split, training, use, launched):
    use(Config(variant="persistent", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, SPLIT_K=split))
    ours, plain = _draw(M, K, N), _draw(M, K, N)
    y = fused_gemm_scale_batch_norm(*ours, training=training)
    torch.testing.assert_close(y, _plain(*plain, training), **CLOSE)
    fused_gemm_scale(*ours[:4])
    assert launched == [BASELINE, BASELINE]


@pytest.mark.parametrize("counting", [{}, {"momentum": None}, {"momentum": 0.25}])
@pytest.mark.parametrize("variant", [*VARIANTS, REREAD, OWNER], ids=Config.label)
def test_counters_and_momenta_agree_whatever_the_variant(variant, counting, use):
    use(variant)
    *parameters, mean, var = _draw()
    bn, counter = nn.BatchNorm1d(12, **counting), torch.tensor(0)
    with torch.no_grad():
        for mine, theirs in zip((*parameters[4:], mean, var), bn.state_dict().values(), strict=False):
            theirs.copy_(mine)
    for step in range(3):
        x = _batch(step, 20, 24)
        y = fused_gemm_scale_batch_norm(
            x, *parameters[1:], mean, var, training=True, num_batches_tracked=counter, **counting
        )
        torch.testing.assert_close(y, bn(nn.functional.linear(x, *parameters[1:3]) * parameters[3]), **CLOSE)
    torch.testing.assert_close(mean, bn.running_mean, **CLOSE)
    torch.testing.assert_close(var, bn.running_var, **CLOSE)
    assert int(counter) == int(bn.num_batches_tracked) == 3


@each_mode
def test_without_running_statistics_the_batch_s_are_taken(training):
    tensors, counter = _draw()[:6], torch.tensor(0)
    options = {"training": training, "num_batches_tracked": counter}
    y = fused_gemm_scale_batch_norm(*tensors, None, None, **options)
    torch.testing.assert_close(y, _plain(*tensors, None, None, True), **CLOSE)
    assert int(counter) == 0


@pytest.mark.parametrize("left_out", [(4,), (5,), (4, 5)], ids=["gamma", "beta", "both"])
@each_mode
def test_gamma_and_beta_may_be_left_out(left_out, training):
    ours, plain = _draw(requires_grad=True), _draw(requires_grad=True)
    for tensors in (ours, plain):
        for place in left_out:
            tensors[place] = None
    _assert_same_gradients(ours, plain, training)


@each_mode
def test_gradients_are_pytorch_s(training):
    _assert_same_gradients(_draw(requires_grad=True), _draw(requires_grad=True), training)


def _assert_same_gradients(ours, plain, training):
    along = torch.randn(20, 12, generator=torch.Generator().manual_seed(9))
    y, expected = fused_gemm_scale_batch_norm(*ours, training=training), _plain(*plain, training)
    torch.testing.assert_close(y, expected, **CLOSE)
    for output in (y, expected):
        output.backward(along)
    for mine, theirs in zip(ours[:6], plain[:6], strict=True):
        if mine is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE)


def test_one_row_is_refused_in_training_and_taken_in_evaluation(launched):
    torch.manual_seed(2)
    ours = ModelNew(40, 24, (24,))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        ours(_batch(0, M=1))
    plain = Plain(ours.eval())
    torch.testing.assert_close(ours(_batch(0, M=1)), plain(_batch(0, M=1)), **CLOSE)
    assert len(launched) == 1


@each_mode
@pytest.mark.parametrize(("M", "K"), [(0, 5), (4, 0), (0, 0)])
def test_empty_inputs_give_what_pytorch_gives(M, K, training):
    ours, plain = _draw(M, K, 8, requires_grad=True), _draw(M, K, 8, requires_grad=True)
    y, expected = fused_gemm_scale_batch_norm(*ours, training=training), _plain(*plain, training)
    assert torch.equal(y, expected)
    assert y.shape == (M, 8)
    for output in (y, expected):
        output.sum().backward()
    for mine, theirs in zip(ours, plain, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)


@each_mode
@pytest.mark.parametrize(
    "take",
    [
        pytest.param(lambda x: x.T.contiguous().T, id="transposed"),
        pytest.param(lambda x: x.repeat_interleave(2, 1)[:, ::2], id="every second column"),
        pytest.param(lambda x: x.repeat_interleave(3, 0)[::3], id="every third row"),
    ],
)
def test_strided_x_and_weight_are_read_in_place(take, training, launched):
    (x, weight, *rest), plain = _draw(), _draw()
    y = fused_gemm_scale_batch_norm(take(x), take(weight), *rest, training=training)
    torch.testing.assert_close(y, _plain(*plain, training), **CLOSE)
    assert launched == [BASELINE]


def test_strided_vectors_are_read_right_and_strided_statistics_updated():
    ours, plain = _draw(), _draw()
    spread = [vector.repeat_interleave(2)[::2] for vector in ours[2:]]
    y = fused_gemm_scale_batch_norm(*ours[:2], *spread, training=True)
    torch.testing.assert_close(y, _plain(*plain, True), **CLOSE)
    torch.testing.assert_close(spread[-2], plain[-2], **CLOSE)
    torch.testing.assert_close(spread[-1], plain[-1], **CLOSE)


def test_statistics_are_seen_to_have_changed():
    tensors, counter = _draw(requires_grad=True), torch.tensor(0)
    y = fused_gemm_scale_batch_norm(*tensors, training=False)
    before = [tensor._version for tensor in (*tensors[6:], counter)]
    fused_gemm_scale_batch_norm(*tensors, training=True, num_batches_tracked=counter)
    assert all(now._version > then for now, then in zip((*tensors[6:], counter), before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@each_mode
def test_second_derivatives_are_pytorch_s(training):
    ours, plain = _draw(requires_grad=True), _draw(requires_grad=True)
    seconds = []
    for tensors, y in (
        (ours, fused_gemm_scale_batch_norm(*ours, training=training)),
        (plain, _plain(*plain, training)),
    ):
        (gradient,) = torch.autograd.grad(y.pow(3).sum(), tensors[0], create_graph=True)
        # Not for the bias, which cancels in training: what is left of its gradient is noise.
        wanted = [tensor for place, tensor in enumerate(tensors[:5]) if place != 2]
        seconds.append(torch.autograd.grad(gradient.square().sum(), wanted))
    for mine, theirs in zip(*seconds, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept_for_a_backward_pass(context, monkeypatch):
    def trap(*args):
        raise AssertionError("the autograd Function was called")

    monkeypatch.setattr("fusetune.nn.linear_scale_bn._FusedGemmScaleBatchNorm.apply", trap)
    monkeypatch.setattr("fusetune.nn.linear_scale._FusedGemmScale.apply", trap)
    torch.manual_seed(3)
    ours = ModelNew(40, 24, (24,))
    plain = Plain(ours)
    for training in (True, False):
        with context():
            y, expected = (module.train(training)(_batch(0)) for module in (ours, plain))
        torch.testing.assert_close(y, expected, **CLOSE)
    fused_gemm_scale(*(tensor.detach() for tensor in _draw()[:4]))
    _assert_same_state(ours, plain)


def test_half_modules_work_as_the_plain_module_does():
    torch.manual_seed(4)
    ours = ModelNew(40, 24, (24,)).half()
    plain = Plain(ours).float()
    for step in range(3):
        y = ours(_batch(step).half())
        torch.testing.assert_close(y.float(), plain(_batch(step).half().float()), rtol=1e-2, atol=1e-2)
    assert y.dtype == torch.float16
    torch.testing.assert_close(ours.bn.running_var.float(), plain.bn.running_var, rtol=1e-2, atol=1e-2)
    assert int(ours.bn.num_batches_tracked) == 3


def test_bfloat16_is_refused_because_the_interpreter_would_multiply_its_bits():
    with pytest.raises(UsageError, match="interpreter cannot multiply bfloat16"):
        fused_gemm_scale_batch_norm(*(tensor.bfloat16() for tensor in _draw()), training=True)
