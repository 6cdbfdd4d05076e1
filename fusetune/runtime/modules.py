"""ModelNew: Linear, then scale, then BatchNorm1d, with the first two in one kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fusetune.errors import UsageError
from fusetune.runtime.linear_scale import fused_gemm_scale


class ModelNew(nn.Module):
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
        momentum: float = 0.1,
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
        y: torch.Tensor = self.bn(fused_gemm_scale(x, self.gemm.weight, self.gemm.bias, self.scale.reshape(-1)))
        return y
