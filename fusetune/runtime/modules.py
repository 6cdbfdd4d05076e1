"""FusedLinearScaleBatchNorm, also called ModelNew, and FusedLinearScale: the fused functions as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fusetune.errors import FusetuneError, UsageError
from fusetune.runtime.dispatch import DTYPES, config_told
from fusetune.runtime.linear_scale import fused_gemm_scale
from fusetune.runtime.linear_scale_bn import fused_call


class FusedLinearScale(nn.Module):
    """`Linear(x) * scale` for x [..., in_features]; parameters `gemm.weight`, `gemm.bias` and `scale`.

    `scale_shape` is the shape of the scale, one factor an output feature: `(out_features,)`, or that with leading ones.
    Raises UsageError for another. A `gemm` that is no nn.Linear, or has hooks, is called as it is.
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
        gemm = self._modules["gemm"]
        if not _is_plain(gemm, nn.Linear):
            y: torch.Tensor = gemm(x) * self.scale
            return y
        try:
            parameters, scale = gemm._parameters, self._parameters["scale"]
            weight, bias = parameters["weight"], parameters["bias"]
        except KeyError:  # a replica of DataParallel's keeps plain tensors
            weight, bias, scale = gemm.weight, gemm.bias, self.scale
        return fused_gemm_scale(x, weight, bias, scale if scale.ndim == 1 else scale.reshape(-1))

    def extra_repr(self) -> str:
        """The config that the latest shape of x got."""
        return _repr_of_config("gemm_scale", self)


class FusedLinearScaleBatchNorm(nn.Module):
    """`BatchNorm1d(Linear(x) * scale)` for x [M, in_features]; the state_dict is the plain PyTorch module's.

    Parameters `gemm.weight`, `gemm.bias`, `scale`, and BatchNorm1d's under `bn`. `scale_shape` is the shape of the
    scale, one factor an output feature: `(out_features,)`, or that with leading ones. Raises UsageError for another.
    With x of three dimensions BatchNorm1d takes its channels at dim 1, and normalizes what the fused product gives.
    A `gemm` or `bn` of another class, or with hooks, is called as it is.
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
        gemm, bn = modules["gemm"], modules["bn"]
        if not _is_plain(gemm, nn.Linear):
            y: torch.Tensor = bn(gemm(x) * self.scale)
            return y
        try:
            # Past nn.Module.__getattr__, which costs more than the rest.
            parameters, scale, affine = gemm._parameters, self._parameters["scale"], bn._parameters
            weight, bias, gamma, beta = parameters["weight"], parameters["bias"], affine["weight"], affine["bias"]
        except KeyError:  # a replica of DataParallel's keeps plain tensors, another BatchNorm whatever it wants
            weight, bias, scale = gemm.weight, gemm.bias, self.scale
            gamma, beta = getattr(bn, "weight", None), getattr(bn, "bias", None)
        if scale.ndim != 1:
            scale = scale.reshape(-1)
        if x.ndim != 2 or not _is_plain(bn, nn.BatchNorm1d):
            _check_channels(x, bn)
            z: torch.Tensor = bn(fused_gemm_scale(x, weight, bias, scale))
            return z
        buffers, training = bn._buffers, bn.training
        keeps = bn.track_running_stats or not training
        return fused_call(
            x,
            weight,
            bias,
            scale,
            gamma,
            beta,
            buffers["running_mean"] if keeps else None,
            buffers["running_var"] if keeps else None,
            training,
            bn.momentum,
            bn.eps,
            buffers["num_batches_tracked"],
            None,
        )

    def extra_repr(self) -> str:
        """The config that the latest shape of x got."""
        return _repr_of_config("gemm_scale_bn", self)


class ModelNew(FusedLinearScaleBatchNorm):
    """FusedLinearScaleBatchNorm under the name that KernelBench gives a faster Model."""


def _is_plain(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a part is of the class that is fused and nobody listens to it: a hook of its own wants it to be called.

    Not a SyncBatchNorm in BatchNorm's place, which asks other processes, nor a parametrized or quantized Linear.
    """
    if type(module) is not kind:
        return False
    state = module.__dict__  # these four are looked up at every call
    return not (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


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


def _check_channels(x: torch.Tensor, bn: Any) -> None:
    """Raise UsageError where BatchNorm1d would take something else than features for its channels."""
    channels = getattr(bn, "num_features", None)
    if x.dim() == 3 and type(bn) is nn.BatchNorm1d and x.shape[1] != channels:
        raise UsageError(
            f"BatchNorm1d takes channels at dim 1, so that x [B, S, K] needs S = {channels}; got x {list(x.shape)}. "
            "To normalize features over all rows, call it with x.flatten(0, 1)"
        )


def _repr_of_config(op: str, module: Any) -> str:
    gemm = module.gemm
    weight = getattr(gemm, "weight", None)
    if not isinstance(gemm, nn.Linear) or weight is None or weight.dtype not in DTYPES or not weight.is_cuda:
        return "computed by PyTorch" if weight is not None and not weight.is_cuda else ""
    try:
        return config_told(op, weight, training=module.training)
    except FusetuneError as error:
        return f"no config: {str(error).splitlines()[0]}"
