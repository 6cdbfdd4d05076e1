"""The functions as PyTorch's own machinery sees them: operators, compilers, autocast, transforms, modes, tracers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import grad, jacrev, vmap
from torch.library import opcheck
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fusetune import FusedLinearScale, ModelNew, fused_gemm_scale, fused_gemm_scale_batch_norm
from fusetune.nn import dispatch, guards

each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def _draw(dtype=torch.float64, requires_grad=True):
    """x, weight, bias, scale, gamma, beta; then running_mean and running_var."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 7), (4, 7), (4,), (4,), (4,), (4,))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    running = torch.randn(4, generator=generator).to(dtype), torch.rand(4, generator=generator).to(dtype) + 0.5
    return [tensor.requires_grad_(requires_grad) for tensor in drawn] + list(running)


OPERATORS = {
    "gemm_scale": lambda tensors: tensors[:4],
    "gemm_scale_bn_train": lambda tensors: [*tensors[:6], 1e-5],
    "gemm_scale_bn_eval": lambda tensors: [*tensors, 1e-5],
}
each_operator = pytest.mark.parametrize("name", OPERATORS)


@each_operator
def test_opcheck_finds_nothing(name):
    arguments = OPERATORS[name](_draw())
    found = opcheck(getattr(torch.ops.fusetune, name).default, tuple(arguments))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("second", [False, True], ids=["gradcheck", "gradgradcheck"])
@each_operator
def test_gradients_of_the_operators_are_right(name, second):
    tensors = _draw()
    operator = getattr(torch.ops.fusetune, name)
    wanted = 4 if name == "gemm_scale" else 6
    rest = OPERATORS[name](tensors)[wanted:]

    def function(*inputs):
        found = operator(*inputs, *rest)
        return found if isinstance(found, torch.Tensor) else found[0]

    check = torch.autograd.gradgradcheck if second else torch.autograd.gradcheck
    assert check(function, tensors[:wanted])


def test_the_operator_of_training_gives_the_batch_s_statistics_and_leaves_the_running_ones_alone():
    x, weight, bias, scale, gamma, beta, *_ = _draw(requires_grad=False)
    _, mean, var = torch.ops.fusetune.gemm_scale_bn_train(x, weight, bias, scale, gamma, beta, 1e-5)
    y = nn.functional.linear(x, weight, bias) * scale
    torch.testing.assert_close(mean, y.mean(0))
    torch.testing.assert_close(var, y.var(0))


class Plain(nn.Module):
    """What ModelNew is in PyTorch, with the same state."""

    def __init__(self, fused):
        super().__init__()
        self.gemm, self.scale, self.bn = (copy.deepcopy(part) for part in (fused.gemm, fused.scale, fused.bn))

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


def _pair(training=True, **options):
    torch.manual_seed(0)
    ours = ModelNew(12, 8, (8,), **options).train(training)
    return ours, Plain(ours)


@pytest.mark.parametrize("options", [{}, {"momentum": None}], ids=["momentum", "average"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_mode
def test_a_compiled_model_is_one_graph_and_trains_as_the_plain_one(training, dynamic, options):
    torch._dynamo.reset()
    ours, plain = _pair(training, **options)
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (5, 9, 16):
        x = torch.randn(rows, 12, generator=torch.Generator().manual_seed(rows))
        y, expected = compiled(x), plain(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        for module, output in ((ours, y), (plain, expected)):
            module.zero_grad()
            output.square().sum().backward()
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.parametrize("on_a_gpu", [True, False])
def test_a_graph_holds_the_operator_where_kernels_are_and_pytorch_s_own_elsewhere_and_no_break(on_a_gpu, monkeypatch):
    torch._dynamo.reset()
    seen = []
    monkeypatch.setattr(dispatch, "_has_kernels_for", lambda x, compiling: on_a_gpu and compiling)

    def backend(graph, inputs):
        seen.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    torch.compile(_pair(False)[0], backend=backend)(torch.randn(4, 12))
    (targets,) = seen
    assert any("fusetune.gemm_scale_bn_eval" in target for target in targets) == on_a_gpu


@pytest.mark.parametrize("compiled", [False, True])
@each_mode
def test_autocast_gives_the_values_and_dtypes_of_the_plain_modules(training, compiled):
    torch._dynamo.reset()
    ours, plain = _pair(training)
    called = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiled else ours
    x = torch.randn(16, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = called(x), plain(x)
        product = fused_gemm_scale(x, ours.gemm.weight, ours.gemm.bias, ours.scale)
        assert product.dtype == (ours.gemm(x) * ours.scale).dtype == torch.float32
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
    y.sum().backward()
    assert ours.gemm.weight.grad.dtype == torch.float32


def test_transforms_of_torch_func_see_pytorch_s_own_operators():
    x, weight, bias, scale, gamma, beta, mean, var = _draw(requires_grad=False)
    batch = torch.stack([x, 2 * x])
    expected = torch.stack([nn.functional.linear(one, weight, bias) * scale for one in batch])
    torch.testing.assert_close(vmap(lambda one: fused_gemm_scale(one, weight, bias, scale))(batch), expected)
    (gradient,) = torch.autograd.grad(fused_gemm_scale(x.requires_grad_(), weight, bias, scale).square().sum(), x)
    x = x.detach()
    torch.testing.assert_close(grad(lambda one: fused_gemm_scale(one, weight, bias, scale).square().sum())(x), gradient)
    evaluated = jacrev(
        lambda one: fused_gemm_scale_batch_norm(one, weight, bias, scale, gamma, beta, mean, var, training=False)
    )(x)
    assert evaluated.shape == (6, 4, 6, 7)


def test_vmap_over_training_says_what_to_do_about_the_running_statistics():
    ours, _ = _pair()
    with pytest.raises(RuntimeError, match="running_mean or running_var, which will be updated in place"):
        vmap(ours)(torch.randn(2, 16, 12))


def test_forward_mode_derivatives_are_there():
    x, weight, bias, scale, *_ = _draw(requires_grad=False)
    with forward_ad.dual_level():
        y = fused_gemm_scale(forward_ad.make_dual(x, torch.ones_like(x)), weight, bias, scale)
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, torch.ones_like(x) @ weight.T * scale)


def test_an_activation_checkpoint_gives_the_same_gradients():
    ours, plain = _pair()
    x = torch.randn(16, 12)
    checkpoint(ours, x, use_reentrant=False).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(ours.gemm.weight.grad, plain.gemm.weight.grad, rtol=1e-3, atol=1e-4)


def test_export_and_trace_keep_the_computation_not_its_result():
    ours, plain = _pair(False)
    x, other = torch.randn(4, 12), torch.randn(4, 12)
    for made in (torch.export.export(ours, (x,)).module(), torch.jit.trace(ours, (x,))):
        torch.testing.assert_close(made(other), plain(other))


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.seen.append(str(function))
        return function(*arguments, **(named or {}))


class Own(torch.Tensor):
    """Anything else than a Tensor."""


def _negated(tensor):
    """A view of the numbers whose signs are still to be turned."""
    negated = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert negated.is_neg()
    assert torch.equal(negated, tensor)
    return negated


def test_the_way_of_a_call_depends_on_who_is_watching():
    tensors = _draw(requires_grad=False)
    assert guards.way(tensors) == "kernel"
    with Recorder():
        assert guards.way(tensors) == "pytorch", "a mode knows PyTorch's operators"
    with TorchFunctionMode():
        assert guards.way(tensors) == "pytorch"
    with torch.device("cpu"):
        assert guards.way(tensors) == "kernel", "that is about new tensors"
    with forward_ad.dual_level():
        assert guards.way(tensors) == "pytorch"
    ways = []
    vmap(lambda one: ways.append(guards.way([one])) or one)(tensors[0])
    torch.jit.trace(lambda one: ways.append(guards.way([one])) or one + 1, (tensors[0],), check_trace=False)
    assert ways == ["pytorch", "pytorch"]
    assert guards.way([tensors[0].as_subclass(Own)]) == "pytorch"
    for one in (_negated(tensors[0].detach()), torch._efficientzerotensor(3), tensors[0].to_sparse()):
        assert guards.way([one]) == "pytorch", "what is meant does not lie there"


@pytest.mark.parametrize("make", [guards.make_check, guards._python_check], ids=["native", "python"])
def test_a_check_holds_for_likenesses_only(make):
    tensors = _draw(torch.float32)
    check = make(tensors)
    assert check(*tensors)
    assert check(*_draw(torch.float32))
    for place, other in (
        (0, torch.randn(5, 7, requires_grad=True)),
        (0, torch.randn(7, 6, requires_grad=True).T),
        (0, torch.randn(6, 7)),
        (1, nn.Parameter(torch.randn(4, 7))),
        (2, torch.randn(4, requires_grad=True, dtype=torch.float64)),
        (3, None),
        (3, torch.randn(8, requires_grad=True)[::2]),
        (6, torch.empty(4, device="meta")),
        (6, _negated(tensors[6])),
        (6, tensors[6].as_subclass(Own)),
    ):
        assert not check(*tensors[:place], other, *tensors[place + 1 :]), (place, other)
    states = (torch.autocast("cpu"), torch.inference_mode(), Recorder(), forward_ad.dual_level(), TorchFunctionMode())
    for state in states:
        with state:
            assert not check(*tensors), state
    inside = []
    vmap(lambda one: inside.append(check(*tensors)) or one)(torch.randn(2, 3))
    assert inside == [False]
    traced = []
    torch.jit.trace(lambda one: traced.append(check(*tensors)) or one + 1, (tensors[0],), check_trace=False)
    assert traced == [False]
    with torch.device("cpu"):
        assert check(*tensors), "a default device is about new tensors"
    assert check(*tensors)


def test_x_of_any_dimensions_is_taken_as_nn_linear_takes_it():
    torch.manual_seed(0)
    module = FusedLinearScale(12, 8, (1, 8))
    for shape in ((12,), (3, 12), (2, 3, 12), (2, 1, 3, 12), (0, 12), (2, 0, 12)):
        x = torch.randn(shape)
        assert torch.equal(module(x), module.gemm(x) * module.scale)
