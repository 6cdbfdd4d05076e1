"""Folded weights at run time: right in every mode, made once, made anew after every change, gone with the module."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from fusetune import ModelNew, fused_gemm_scale_batch_norm, reload
from fusetune.nn import dispatch, folded
from fusetune.ops.gemm_scale.batch_norm import SPEC
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import make_problem

FOLDED = Config(variant="library_folded")
LIBRARY = Config(variant="library")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def config(monkeypatch):
    monkeypatch.setattr(dispatch, "_config", lambda op, problem, x: FOLDED if problem.mode == "eval" else LIBRARY)
    folded.KEPT.forget()


@pytest.fixture
def folds(monkeypatch):
    """One entry a fold."""
    made = []
    original = folded.folded

    def counted(tensors, eps):
        made.append(eps)
        return original(tensors, eps)

    monkeypatch.setattr(folded, "folded", counted)
    return made


@pytest.fixture
def launched(monkeypatch):
    """The variants that were launched."""
    variants = []
    original = dispatch.gemm_launches

    def recorded(problem, config, *rest, **options):
        variants.append(config.variant)
        return original(problem, config, *rest, **options)

    monkeypatch.setattr(dispatch, "gemm_launches", recorded)
    return variants


def _model(scale_shape=(24,), **options):
    torch.manual_seed(1)
    model = ModelNew(40, 24, scale_shape, **options)
    with torch.no_grad():
        for tensor in (model.bn.weight, model.bn.bias, model.bn.running_mean):
            tensor.normal_()
        model.bn.running_var.uniform_(0.5, 2.0)
    return model.eval()


def _expected(model, x):
    bn = copy.deepcopy(model.bn)
    return bn(nn.functional.linear(x, model.gemm.weight, model.gemm.bias) * model.scale).detach()


X = torch.randn(33, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_op_gives_what_pytorch_gives_and_touches_nothing_else(dtype):
    problem = make_problem(37, 70, 50, dtype, mode="eval")
    torch.manual_seed(0)
    tensors = {
        operand.name: (torch.randn(operand.shape) * operand.std + operand.mean).to(getattr(torch, dtype))
        for operand in SPEC.operands(problem)
    }
    tensors["y"].fill_(torch.nan)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    constants = SPEC.constants(problem, FOLDED, tensors)
    assert {name: (tuple(c.shape), c.dtype) for name, c in constants.items()} == {
        "folded_weight": ((70, 50), tensors["weight"].dtype),
        "folded_bias": ((70,), tensors["weight"].dtype),
    }
    for launch in SPEC.launches(problem, FOLDED, {**tensors, **constants}):
        launch.run()
    tolerance = 1e-5 if dtype == "float32" else 4e-3
    reference = SPEC.reference(problem, before)["y"]
    torch.testing.assert_close(tensors["y"].double(), reference, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors if name != "y")
    assert not SPEC.constants(problem, LIBRARY, tensors)


@pytest.mark.parametrize("scale_shape", [(24,), (1, 24)])
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_weights_are_folded_once_for_many_calls(folds, launched, scale_shape, guard):
    model = _model(scale_shape)
    with guard():
        for _ in range(3):
            torch.testing.assert_close(model(X).detach(), _expected(model, X), **CLOSE)
    assert (len(folds), set(launched)) == (1, {"library_folded"})
    with torch.no_grad():  # What one mode folded serves the others.
        model(X)
    assert len(folds) == 1


def _changes():
    named = {
        "the weight": lambda model: model.gemm.weight.mul_(2),
        "the bias": lambda model: model.gemm.bias.add_(1),
        "the scale": lambda model: model.scale.add_(1),
        "gamma": lambda model: model.bn.weight.add_(1),
        "beta": lambda model: model.bn.bias.add_(1),
        "the running mean": lambda model: model.bn.running_mean.add_(1),
        "the running variance": lambda model: model.bn.running_var.add_(1),
        "eps": lambda model: setattr(model.bn, "eps", 0.5),
        "a new scale": lambda model: setattr(model, "scale", nn.Parameter(model.scale + 1)),
        "data in another place": lambda model: setattr(model.gemm.weight, "data", model.gemm.weight.data * 3),
        "a state dict": lambda model: model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}),
    }
    return [pytest.param(torch.no_grad()(change), id=name) for name, change in named.items()]


@pytest.mark.parametrize("change", _changes())
def test_a_change_of_anything_that_is_folded_is_seen(folds, change):
    model = _model()
    before = model(X).detach().clone()
    change(model)
    after = model(X).detach()
    torch.testing.assert_close(after, _expected(model, X), **CLOSE)
    assert not torch.allclose(before, after)
    assert len(folds) == 2


def test_a_step_of_training_between_two_evaluations_is_seen(folds):
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        torch.testing.assert_close(model.eval()(X).detach(), _expected(model, X), **CLOSE)
        model.train()(X).square().sum().backward()
        optimizer.step()
    assert len(folds) == 2


def test_a_tensor_in_the_place_of_one_that_died_is_not_taken_for_it(folds):
    model = _model()
    model(X)
    for step in range(4):
        model.bn.running_mean = None  # Its memory is free, and the next tensor gets it.
        model.bn.running_mean = torch.full((24,), float(step))
        torch.testing.assert_close(model(X).detach(), _expected(model, X), **CLOSE)
    assert len(folds) == 5


def test_two_modules_keep_their_own(folds):
    models = [_model(), _model()]
    with torch.no_grad():
        models[1].gemm.weight.mul_(2)
    for _ in range(3):
        for model in models:
            torch.testing.assert_close(model(X).detach(), _expected(model, X), **CLOSE)
    assert len(folds) == len(folded.KEPT) == 2


def test_what_was_folded_goes_with_the_module():
    model = _model()
    model(X)
    assert len(folded.KEPT) == 1
    (fold,) = folded.KEPT._kept.values()
    weights = [weakref.ref(fold._constants["folded_weight"]), weakref.ref(model.gemm.weight)]
    del model, fold
    gc.collect()
    assert len(folded.KEPT) == 0
    assert [weight() for weight in weights] == [None, None]


def test_a_reload_folds_anew(folds):
    model = _model()
    model(X)
    model.gemm.weight.data.mul_(2)  # A write that PyTorch does not count.
    reload()
    torch.testing.assert_close(model(X).detach(), _expected(model, X), **CLOSE)
    assert len(folds) == 2


def test_without_gamma_and_beta_weights_are_folded_once_too(folds):
    model = _model()
    model.bn.weight = model.bn.bias = None
    for _ in range(2):
        torch.testing.assert_close(model(X).detach(), _expected(model, X), **CLOSE)
    assert len(folds) == 1


def test_inference_tensors_whose_changes_nobody_counts_are_not_folded(folds, launched):
    with torch.inference_mode():
        model = _model()
        for factor in (1.0, 2.0):
            model.gemm.weight.mul_(factor)
            torch.testing.assert_close(model(X), _expected(model, X), **CLOSE)
    assert (folds, launched) == ([], ["library", "library"])


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("gamma", [1e-6, 1e6])
def test_weights_that_float16_cannot_hold_once_scaled_are_not_folded(launched, gamma):
    model = _model().half()
    with torch.no_grad():
        model.bn.weight.fill_(1.0)
        model.scale.fill_(min(gamma, 6e4))
        model.bn.running_var.fill_(1e-4 if gamma > 1 else 1.0)
    with torch.no_grad():
        model(X.half())
    assert launched == ["library"]


def test_gradients_are_pytorch_s(folds):
    model = _model()
    plain = copy.deepcopy(model)
    model(X).square().sum().backward()
    plain.bn(nn.functional.linear(X, plain.gemm.weight, plain.gemm.bias) * plain.scale).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3, msg=name)
    assert len(folds) == 1


def test_the_function_folds_what_it_is_given():
    model = _model()
    with torch.no_grad():
        y = fused_gemm_scale_batch_norm(
            X,
            model.gemm.weight,
            model.gemm.bias,
            model.scale,
            model.bn.weight,
            model.bn.bias,
            model.bn.running_mean,
            model.bn.running_var,
            training=False,
        )
    torch.testing.assert_close(y, _expected(model, X), **CLOSE)
