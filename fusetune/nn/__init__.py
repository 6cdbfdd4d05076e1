"""What PyTorch users import of our op: the fused functions, modules, operators and their gradients.

Importing this loads neither torch nor triton; the names do, on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fusetune.nn.explaining import explain
    from fusetune.nn.linear_scale import fused_gemm_scale
    from fusetune.nn.linear_scale_bn import fused_gemm_scale_batch_norm
    from fusetune.nn.modules import FusedLinearScale, FusedLinearScaleBatchNorm, ModelNew

PUBLIC = {
    "explain": "fusetune.nn.explaining",
    "fused_gemm_scale": "fusetune.nn.linear_scale",
    "fused_gemm_scale_batch_norm": "fusetune.nn.linear_scale_bn",
    "FusedLinearScale": "fusetune.nn.modules",
    "FusedLinearScaleBatchNorm": "fusetune.nn.modules",
    "ModelNew": "fusetune.nn.modules",
}
"""Where each of them is: `fusetune` has them, too."""

__all__ = [
    "FusedLinearScale",
    "FusedLinearScaleBatchNorm",
    "ModelNew",
    "explain",
    "fused_gemm_scale",
    "fused_gemm_scale_batch_norm",
]
