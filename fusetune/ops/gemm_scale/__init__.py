"""All that only our own op knows: y = (x @ W.T + bias) * scale, and BatchNorm1d behind it."""

from __future__ import annotations

from typing import Final

from fusetune.ops.built_in import OpValue

SPECS: Final = {
    "gemm_scale": "fusetune.ops.gemm_scale.linear_scale:SPEC",
    "gemm_scale_bn": "fusetune.ops.gemm_scale.batch_norm:SPEC",
}
TYPES: Final = "fusetune.ops.gemm_scale.types:TYPES"
ABOUT: Final = {
    "gemm_scale": "y = (x @ W.T + bias) * scale",
    "gemm_scale_bn": "BatchNorm1d of it",
}
VALUES: Final = (
    OpValue("M", "Rows of x [M, K].", is_size=True),
    OpValue("K", "Columns of x and of W [N, K].", is_size=True),
    OpValue("N", "Rows of W, columns of y [M, N].", is_size=True),
    OpValue(
        "dtype",
        "Of x, W and y: float32 (default), float16 or bfloat16; also fp32, fp16, bf16.",
        choices=("float32", "float16", "bfloat16", "fp32", "fp16", "bf16"),
    ),
    OpValue("mode", "train or eval, for an op that tells them apart.", choices=("train", "eval")),
    OpValue(
        "precision",
        "How float32 is multiplied: tf32 (default), ieee, tf32x3 or bf16x3.",
        choices=("tf32", "ieee", "tf32x3", "bf16x3"),
    ),
)
EXAMPLE: Final = "--M 128 --K 1024 --N 512"
