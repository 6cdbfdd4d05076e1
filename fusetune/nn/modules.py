"""FusedLinearScaleBatchNorm, also called ModelNew, and FusedLinearScale: the fused functions as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fusetune.errors import ChannelsError, FusetuneError, UsageError
from fusetune.nn.dispatch import DTYPES, config_told
from fusetune.nn.guards import PLAIN, as_vector, is_plain_linear, is_plain_norm
from fusetune.nn.linear_scale import fused_call as fused_product
from fusetune.nn.linear_scale_bn import averaged_call, fused_call


class FusedLinearScale(nn.Module):
    """`Linear(x) * scale` for x [..., in_features]; parameters `gemm.weight`, `gemm.bias` and `scale`.

    `scale_shape` is the shape of the scale, one factor an output feature: `(out_features,)`, or that with leading ones.
    Raises UsageError for another. The parts are called as they are, `self.gemm(x) * self.scale`, where no kernel gives
    just that: on other devices, with other dtypes and shapes, and where `gemm` is of another class or watched.
    """

    def __init__(
        self, in_features: int, out_features: int, scale_shape: int | Sequence[int], bias: bool = True
    ) -> None:
        super().__init__()
        shape = _vector_shape(scale_shape, out_features)
        self.gemm = nn.Linear(in_features, out_features, bias=bias)
        self.scale = nn.Parameter(torch.randn(shape))

    @classmethod
    def from_modules(cls, linear: nn.Linear, scale: torch.Tensor | nn.Parameter) -> FusedLinearScale:
        """The same of a trained Linear and its scale, which it shares: nothing is copied, and training one trains both.

        Raises UsageError for another kind of module, or a scale that is not one factor an output feature.
        """
        _expect("linear", linear, nn.Linear)
        made: FusedLinearScale = _assembled(cls, linear, scale)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Y [..., out_features] for x [..., in_features]."""
        gemm = self._modules.get("gemm")
        if type(x) not in PLAIN or not is_plain_linear(gemm):
            return _product(self, x)
        try:
            # Past nn.Module.__getattr__, which costs more than the rest.
            parameters, scale = gemm._parameters, self._parameters["scale"]
            weight, bias = parameters["weight"], parameters["bias"]
            if scale.ndim != 1:
                scale = as_vector(scale, x.ndim)
        except (KeyError, AttributeError):  # a replica of DataParallel's keeps plain tensors
            weight, bias, scale = gemm.weight, gemm.bias, as_vector(self.scale, x.ndim)
        y = fused_product(x, weight, bias, scale)
        return gemm(x) * self.scale if y is None else y

    def __prepare_scriptable__(self) -> nn.Module:
        return _scriptable(self)

    def extra_repr(self) -> str:
        """The config that the latest shape of x got."""
        return _repr_of_config("gemm_scale", self)


class FusedLinearScaleBatchNorm(nn.Module):
    """`BatchNorm1d(Linear(x) * scale)` for x [M, in_features]; the state_dict is the plain PyTorch module's.

    Parameters `gemm.weight`, `gemm.bias`, `scale`, and BatchNorm1d's under `bn`. `scale_shape` is the shape of the
    scale, one factor an output feature: `(out_features,)`, or that with leading ones. Raises UsageError for another.
    With x of three dimensions BatchNorm1d takes its channels at dim 1, and normalizes what the fused product gives.
    The parts are called as they are, `self.bn(self.gemm(x) * self.scale)`, where no kernel gives just that: on other
    devices, with other dtypes and shapes, and where `gemm` or `bn` is of another class or watched.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale_shape: int | Sequence[int],
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__()
        shape = _vector_shape(scale_shape, out_features)
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(shape))
        self.bn = nn.BatchNorm1d(out_features, eps=eps, momentum=momentum)

    @classmethod
    def from_modules(
        cls, linear: nn.Linear, scale: torch.Tensor | nn.Parameter, bn: nn.BatchNorm1d
    ) -> FusedLinearScaleBatchNorm:
        """The same of trained modules, which it shares: nothing is copied, and training one trains both.

        Raises UsageError for other kinds of modules, or where their features differ.
        """
        _expect("linear", linear, nn.Linear)
        _expect("bn", bn, nn.BatchNorm1d)
        if bn.num_features != linear.out_features:
            raise UsageError(f"bn normalizes {bn.num_features} features, linear gives {linear.out_features}")
        made: FusedLinearScaleBatchNorm = _assembled(cls, linear, scale)
        made.bn = bn
        made.train(bn.training)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Y [M, out_features] for x [M, in_features]; in training it updates BatchNorm's running statistics."""
        modules = self._modules
        gemm, bn = modules.get("gemm"), modules.get("bn")
        if type(x) not in PLAIN or x.ndim != 2 or not is_plain_linear(gemm) or not is_plain_norm(bn):
            return _normalized(self, x)
        try:
            # Past nn.Module.__getattr__, which costs more than the rest.
            parameters, scale, affine = gemm._parameters, self._parameters["scale"], bn._parameters
            weight, bias, gamma, beta = parameters["weight"], parameters["bias"], affine["weight"], affine["bias"]
            if scale.ndim != 1:
                scale = as_vector(scale, 2)
        except (KeyError, AttributeError):  # a replica of DataParallel's keeps plain tensors
            weight, bias, scale = gemm.weight, gemm.bias, as_vector(self.scale, 2)
            gamma, beta = bn.weight, bn.bias
        buffers, training = bn._buffers, bn.training
        keeps = bn.track_running_stats or not training
        try:
            mean, var, counter = (
                (buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"])
                if keeps
                else (None, None, None)
            )
        except KeyError:  # not a BatchNorm's own
            return _normalized(self, x)
        y = fused_call(x, weight, bias, scale, gamma, beta, mean, var, training, bn.momentum, bn.eps, counter, None)
        return _whole(self, x) if y is None else y

    def __prepare_scriptable__(self) -> nn.Module:
        return _scriptable(self)

    def extra_repr(self) -> str:
        """The config that the latest shape of x got."""
        return _repr_of_config("gemm_scale_bn", self)


class ModelNew(FusedLinearScaleBatchNorm):
    """FusedLinearScaleBatchNorm under the name that KernelBench gives a faster Model."""


def _product(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Y [..., N] by a kernel where it gives what the parts give, which are called otherwise."""
    gemm = module._modules.get("gemm")
    if type(x) in PLAIN and is_plain_linear(gemm):
        fused = fused_product(x, gemm.weight, gemm.bias, as_vector(module.scale, x.ndim))
        if fused is not None:
            return fused
    y: torch.Tensor = module.gemm(x) * module.scale
    return y


def _normalized(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Y where BatchNorm is called as it is: the product before it may still be a kernel's."""
    product = _product(module, x)
    if torch.compiler.is_compiling():
        return module.bn(product)
    try:
        normalized: torch.Tensor = module.bn(product)
    except RuntimeError as error:
        _tell_channels(x, module.bn, error)
        raise
    return normalized


def _whole(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Y where no kernel gives what the parts give for this x, errors too: all of them are called."""
    y = _averaged(module, x) if torch.compiler.is_compiling() else None
    return module.bn(module.gemm(x) * module.scale) if y is None else y


def _averaged(module: Any, x: torch.Tensor) -> torch.Tensor | None:
    """One graph, where the plain module has a number read on the host: BatchNorm averages over all batches."""
    gemm, bn, scale = module.gemm, module.bn, as_vector(module.scale, 2)
    if type(x) not in PLAIN or x.ndim != 2 or scale is None or not (is_plain_linear(gemm) and is_plain_norm(bn)):
        return None
    if bn.momentum is not None or not (bn.training and bn.track_running_stats):
        return None
    return averaged_call(x, gemm.weight, gemm.bias, scale, bn)


class _Product(nn.Module):
    """FusedLinearScale in PyTorch's own words."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.gemm, self.scale, self.training = module.gemm, module.scale, module.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.gemm(x) * self.scale
        return y


class _Normalized(nn.Module):
    """FusedLinearScaleBatchNorm in PyTorch's own words."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.gemm, self.scale, self.bn, self.training = module.gemm, module.scale, module.bn, module.training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.gemm(x) * self.scale)
        return y


def _scriptable(module: Any) -> nn.Module:
    """What torch.jit.script compiles in a fused module's place: no kernel can be called from there."""
    own: nn.Module = module
    listened = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    if listened:
        return own
    if type(module).forward is FusedLinearScale.forward:
        return _Product(module)
    return _Normalized(module) if type(module).forward is FusedLinearScaleBatchNorm.forward else own


def _vector_shape(scale_shape: int | Sequence[int], out_features: int) -> tuple[int, ...]:
    shape = (scale_shape,) if isinstance(scale_shape, int) else tuple(scale_shape)
    if not shape or shape[-1] != out_features or any(size != 1 for size in shape[:-1]):
        raise UsageError(f"scale_shape {shape} gives no factor for each of {out_features} output features")
    return shape


def _expect(name: str, module: Any, kind: type[nn.Module]) -> None:
    if not isinstance(module, kind):
        raise UsageError(f"{name} has to be an nn.{kind.__name__}; got {type(module).__name__}")


def _assembled(cls: type[Any], linear: nn.Linear, scale: torch.Tensor) -> Any:
    """A module of this class around parts that exist."""
    if not isinstance(scale, torch.Tensor):
        raise UsageError(f"scale has to be a tensor; got {type(scale).__name__}")
    _vector_shape(tuple(scale.shape), linear.out_features)
    made: Any = object.__new__(cls)
    nn.Module.__init__(made)
    made.gemm = linear
    made.scale = scale if isinstance(scale, nn.Parameter) else nn.Parameter(scale)
    return made.train(linear.training)


def _tell_channels(x: torch.Tensor, bn: Any, error: RuntimeError) -> None:
    """Say it where BatchNorm1d would have taken something else than features for its channels, and could not."""
    channels = getattr(bn, "num_features", None)
    if type(bn) is nn.BatchNorm1d and isinstance(x, torch.Tensor) and x.dim() == 3 and x.shape[1] != channels:
        raise ChannelsError(
            f"BatchNorm1d takes channels at dim 1, so that x [B, S, K] needs S = {channels}; got x {list(x.shape)}. "
            "To normalize features over all rows, call it with x.flatten(0, 1)"
        ) from error


def _repr_of_config(op: str, module: Any) -> str:
    gemm, bn = module._modules.get("gemm"), module._modules.get("bn")
    if not is_plain_linear(gemm) or (bn is not None and not is_plain_norm(bn)):
        return "computed by PyTorch"
    weight: Any = getattr(gemm, "weight", None)
    if type(weight) not in PLAIN or weight.dtype not in DTYPES or not weight.is_cuda:
        return "computed by PyTorch"
    try:
        return config_told(op, weight, training=module.training)
    except FusetuneError as error:
        return f"no config: {str(error).splitlines()[0]}"
