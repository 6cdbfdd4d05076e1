"""What a library does of an op: cuBLAS's product, through PyTorch, for a kernel of ours to finish or with all in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def multiply(x: Any, weight: Any, out: Any, *, tf32: bool) -> None:
    """Write x @ weight.T into out by cuBLAS; `tf32` says how float32 is multiplied, whatever the caller has allowed."""
    import torch

    with _tf32_allowed(tf32):
        torch.mm(x, weight.t(), out=out)


def multiply_and_add(x: Any, weight: Any, bias: Any, out: Any, *, tf32: bool) -> None:
    """Write x @ weight.T + bias into out by cuBLAS; float32 as in `multiply`."""
    import torch

    with _tf32_allowed(tf32):
        torch.addmm(bias, x, weight.t(), out=out)


def folded(tensors: Mapping[str, Any], eps: float) -> dict[str, Any]:
    """BatchNorm's evaluation and the scale, folded into `folded_weight` [N, K] and `folded_bias` [N].

    Computed in float32 and rounded once, to the dtype of the weight.
    """
    import torch

    # Outside inference mode, so that whoever keeps them can use them anywhere.
    with torch.inference_mode(False), torch.no_grad():
        names = ("bias", "scale", "gamma", "beta", "running_mean", "running_var")
        bias, scale, gamma, beta, mean, var = (tensors[name].float() for name in names)
        factor = gamma * torch.rsqrt(var + eps)
        weight = tensors["weight"]
        return {
            "folded_weight": (weight.float() * (scale * factor)[:, None]).to(weight.dtype).contiguous(),
            "folded_bias": ((bias * scale - mean) * factor + beta).to(weight.dtype),
        }


@contextmanager
def _tf32_allowed(tf32: bool) -> Iterator[None]:
    import torch

    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
