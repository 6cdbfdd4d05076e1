"""ModelNew stands where the plain PyTorch module stood: same state, same outputs, same statistics."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fusetune import FusedLinearScale, FusedLinearScaleBatchNorm, ModelNew
from fusetune.errors import UsageError


class Plain(nn.Module):
    """Linear, then scale, then BatchNorm1d, as a user writes it."""

    def __init__(self, in_features, out_features, scale_shape, eps=1e-5, momentum=0.1):
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(scale_shape))
        self.bn = nn.BatchNorm1d(out_features, eps=eps, momentum=momentum)

    def forward(self, x):
        return self.bn(self.gemm(x) * self.scale)


def _pair(*arguments, **options):
    torch.manual_seed(0)
    plain = Plain(*arguments, **options)
    torch.manual_seed(0)
    return ModelNew(*arguments, **options), plain


def _assert_same_state(ours, plain):
    mine, expected = ours.state_dict(), plain.state_dict()
    assert list(mine) == list(expected)
    for name, value in expected.items():
        assert torch.equal(mine[name], value), name


@pytest.mark.parametrize("scale_shape", [(6,), (1, 6), 6])
def test_the_same_seed_makes_the_same_state(scale_shape):
    ours, plain = _pair(10, 6, scale_shape)
    _assert_same_state(ours, plain)
    assert list(ours.state_dict())[:3] == ["scale", "gemm.weight", "gemm.bias"]
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_state_dicts_load_both_ways():
    (ours, _), (_, plain) = _pair(10, 6, (6,)), _pair(10, 6, (6,))
    with torch.no_grad():
        for tensor in ours.state_dict().values():
            tensor.add_(1)
    plain.load_state_dict(ours.state_dict())
    _assert_same_state(ours, plain)
    fresh = ModelNew(10, 6, (6,))
    fresh.load_state_dict(plain.state_dict())
    _assert_same_state(fresh, plain)


@pytest.mark.parametrize("options", [{}, {"eps": 0.5, "momentum": 0.9}, {"momentum": None}])
def test_ten_steps_of_training_go_as_the_plain_module_s_do(options):
    ours, plain = _pair(12, 8, (8,), **options)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.05) for module in (ours, plain)]
    for step in range(10):
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        outputs = [module(x) for module in (ours, plain)]
        torch.testing.assert_close(*outputs)
        for y, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            (y - x[:, :8]).square().mean().backward()
            optimizer.step()
    assert int(ours.bn.num_batches_tracked) == 10
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")
    x = torch.randn(5, 12)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_the_module_goes_by_two_names():
    assert issubclass(ModelNew, FusedLinearScaleBatchNorm)
    assert list(FusedLinearScaleBatchNorm(4, 3, 3).state_dict()) == list(ModelNew(4, 3, 3).state_dict())


def _without_running_statistics(module):
    module.bn = nn.BatchNorm1d(8, track_running_stats=False)


def _plain_statistics(module):
    module.bn = nn.BatchNorm1d(8, affine=False)


def _frozen(module):
    module.bn.eval()


def _no_longer_tracking(module):
    module.bn.track_running_stats = False


class _Doubled(nn.BatchNorm1d):
    """Stands for SyncBatchNorm: a subclass that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def _other_class(module):
    module.bn = _Doubled(8)


@pytest.mark.parametrize(
    "change", [_without_running_statistics, _plain_statistics, _frozen, _no_longer_tracking, _other_class]
)
def test_a_batch_norm_that_was_changed_afterwards_is_heeded(change):
    ours, plain = _pair(12, 8, (8,))
    for module in (ours, plain):
        change(module)
    for step in range(6):
        if step == 4:
            ours.eval(), plain.eval()
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        torch.testing.assert_close(ours(x), plain(x))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_a_batch_norm_kept_in_float32_under_16_bit_inputs_works_as_the_plain_module_s():
    ours, plain = (module.bfloat16() for module in _pair(12, 8, (8,)))
    for module in (ours, plain):
        module.bn.float()
    x = torch.randn(16, 12, dtype=torch.bfloat16)
    assert torch.equal(ours(x), plain(x))


def test_evaluation_leaves_the_running_statistics_alone():
    ours, _ = _pair(12, 8, (8,))
    ours(torch.randn(16, 12))
    before = copy.deepcopy(ours.state_dict())
    ours.eval()(torch.randn(16, 12))
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())


def test_momentum_and_eps_reach_batch_norm():
    bn = ModelNew(4, 3, (3,), eps=0.25, momentum=0.75).bn
    assert (bn.eps, bn.momentum, bn.num_features) == (0.25, 0.75, 3)
    default = ModelNew(4, 3, (3,)).bn
    assert (default.eps, default.momentum) == (1e-5, 0.1)


def test_one_row_in_training_is_refused_as_pytorch_refuses_it():
    ours, plain = _pair(4, 3, (3,))
    for module in (ours, plain):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            module(torch.randn(1, 4))
    assert ours.eval()(torch.randn(1, 4)).shape == (1, 3)


@pytest.mark.parametrize("scale_shape", [(5,), 5, (), (1,), (6, 1), (2, 6), (6, 6)])
def test_a_scale_that_is_not_one_factor_an_output_feature_is_refused(scale_shape):
    with pytest.raises(UsageError, match="gives no factor for each of 6 output features"):
        ModelNew(10, 6, scale_shape)


@pytest.mark.parametrize(
    "remake",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_is_equal_and_independent(remake):
    ours, _ = _pair(12, 8, (8,))
    ours(torch.randn(16, 12))
    other = remake(ours)
    _assert_same_state(other, ours)
    x = torch.randn(9, 12)
    assert torch.equal(other.eval()(x), ours.eval()(x))
    with torch.no_grad():
        other.scale.zero_()
    assert ours.scale.abs().min() > 0


def test_16_bit_modules_work_as_the_plain_module_does():
    ours, plain = (module.to(torch.bfloat16) for module in _pair(12, 8, (8,)))
    x = torch.randn(16, 12, dtype=torch.bfloat16)
    y, expected = ours(x), plain(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)


def test_a_linear_scale_alone_is_a_module_too():
    torch.manual_seed(0)
    module = FusedLinearScale(12, 8, (1, 8))
    assert sorted(module.state_dict()) == ["gemm.bias", "gemm.weight", "scale"]
    x = torch.randn(2, 5, 12)
    assert torch.equal(module(x), module.gemm(x) * module.scale)
    assert FusedLinearScale(12, 8, 8, bias=False)(x).shape == (2, 5, 8)
    with pytest.raises(UsageError, match="gives no factor for each of 8"):
        FusedLinearScale(12, 8, 7)


def test_a_module_made_of_trained_ones_shares_them():
    linear, scale, bn = nn.Linear(12, 8, bias=False), nn.Parameter(torch.randn(1, 8)), nn.BatchNorm1d(8).eval()
    made = FusedLinearScaleBatchNorm.from_modules(linear, scale, bn)
    assert (made.gemm, made.bn, made.training) == (linear, bn, False)
    assert made.scale is scale
    x = torch.randn(4, 12)
    torch.testing.assert_close(made(x), bn(linear(x) * scale))
    product = FusedLinearScale.from_modules(linear, scale.detach())
    torch.testing.assert_close(product(x), linear(x) * scale)
    assert type(ModelNew.from_modules(linear, scale, bn)) is ModelNew


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((nn.Conv1d(12, 8, 1), torch.randn(8), nn.BatchNorm1d(8)), "linear has to be an nn.Linear; got Conv1d"),
        ((nn.Linear(12, 8), torch.randn(8), nn.LayerNorm(8)), "bn has to be an nn.BatchNorm1d; got LayerNorm"),
        ((nn.Linear(12, 8), torch.randn(8), nn.BatchNorm1d(9)), "bn normalizes 9 features, linear gives 8"),
        ((nn.Linear(12, 8), torch.randn(9), nn.BatchNorm1d(8)), r"scale_shape \(9,\) gives no factor for each of 8"),
        ((nn.Linear(12, 8), 2.0, nn.BatchNorm1d(8)), "scale has to be a tensor; got float"),
    ],
)
def test_parts_that_do_not_fit_are_told(parts, told):
    with pytest.raises(UsageError, match=told):
        FusedLinearScaleBatchNorm.from_modules(*parts)


def test_three_dimensions_have_their_channels_in_the_middle_as_batch_norm_1d_has_them():
    ours, plain = _pair(12, 8, (8,))
    x = torch.randn(4, 8, 12)
    torch.testing.assert_close(ours(x), plain(x))
    _assert_close_state(ours, plain)
    with pytest.raises(UsageError, match=r"x \[B, S, K\] needs S = 8; got x \[4, 7, 12\]"):
        ours(torch.randn(4, 7, 12))
    for shape in ((12,), (2, 2, 8, 12)):
        with pytest.raises(ValueError, match="expected 2D or 3D input"):
            ours(torch.randn(shape))


def _assert_close_state(ours, plain):
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_hooks_on_the_parts_are_called_and_the_result_stays():
    ours, plain = _pair(12, 8, (8,))
    seen = []
    x = torch.randn(16, 12)
    for part in (ours.gemm, ours.bn):
        handle = part.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
        torch.testing.assert_close(ours(x), plain(x))
        handle.remove()
    ours.gemm.register_forward_pre_hook(lambda module, arguments: (2 * arguments[0],))
    torch.testing.assert_close(ours(x), plain(2 * x), rtol=1e-4, atol=1e-5)
    assert seen == ["Linear", "BatchNorm1d"]
    _assert_close_state(ours, plain)


def test_a_parametrized_linear_is_heeded():
    ours, plain = _pair(12, 8, (8,))
    for module in (ours, plain):
        torch.manual_seed(3)
        nn.utils.parametrizations.spectral_norm(module.gemm)
    x = torch.randn(16, 12)
    torch.testing.assert_close(ours(x), plain(x))


def test_a_replica_as_data_parallel_makes_it_computes_the_same():
    ours, plain = _pair(12, 8, (8,))

    def replica_of(module):
        made = module._replicate_for_data_parallel()
        made._former_parameters = {}
        for name, child in module._modules.items():
            made._modules[name] = replica_of(child)
        for name, parameter in module._parameters.items():
            setattr(made, name, parameter.detach().clone())
        return made

    replica = replica_of(ours)
    assert not replica.gemm._parameters, "as DataParallel leaves it"
    x = torch.randn(16, 12)
    torch.testing.assert_close(replica(x), plain(x))
    assert replica_of(FusedLinearScale(12, 8, 8))(x).shape == (16, 8)


def test_the_repr_says_who_computes():
    assert "(gemm): Linear" in repr(ModelNew(4, 3, (3,)))
    assert "computed by PyTorch" in repr(ModelNew(4, 3, (3,)))
