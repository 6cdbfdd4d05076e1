"""FusedLinearScaleBatchNorm, also called ModelNew: Linear, scale and BatchNorm1d in one fused call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fusetune.errors import UsageError
from fusetune.runtime.linear_scale import fused_gemm_scale
from fusetune.runtime.linear_scale_bn import fused_gemm_scale_batch_norm


class FusedLinearScaleBatchNorm(nn.Module):
    """`BatchNorm1d(Linear(x) * scale)` for x [M, in_features]; the state_dict is the plain PyTorch module's.

    Parameters `gemm.weight`, `gemm.bias`, `scale`, and BatchNorm1d's under `bn`. `scale_shape` is the shape of the
    scale, one factor an output feature: `(out_features,)`, or that with leading ones. Raises UsageError for another.
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
        shape = (scale_shape,) if isinstance(scale_shape, int) else tuple(scale_shape)
        if not shape or shape[-1] != out_features or any(size != 1 for size in shape[:-1]):
            raise UsageError(f"scale_shape {shape} gives no factor for each of {out_features} output features")
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(shape))
        self.bn = nn.BatchNorm1d(out_features, eps=eps, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Y [M, out_features] for x [M, in_features]; in training it updates BatchNorm's running statistics."""
        bn = self.bn
        operands = (x, self.gemm.weight, self.gemm.bias, self.scale.reshape(-1))
        if not _is_fused(bn, x.dtype):
            y: torch.Tensor = bn(fused_gemm_scale(*operands))
            return y
        keeps = bn.track_running_stats or not bn.training
        return fused_gemm_scale_batch_norm(
            *operands,
            bn.weight,
            bn.bias,
            bn.running_mean if keeps else None,
            bn.running_var if keeps else None,
            training=bn.training,
            momentum=bn.momentum,
            eps=bn.eps,
            num_batches_tracked=bn.num_batches_tracked,
        )


class ModelNew(FusedLinearScaleBatchNorm):
    """FusedLinearScaleBatchNorm under the name that KernelBench gives a faster Model."""


def _is_fused(bn: nn.Module, dtype: torch.dtype) -> bool:
    """Not a SyncBatchNorm put in its place, which asks other processes, nor one kept in float32 under 16-bit inputs."""
    return type(bn) is nn.BatchNorm1d and all(
        tensor is None or tensor.dtype == dtype for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var)
    )
