"""What a library does of an op: cuBLAS's product, through PyTorch, for a kernel of ours to finish."""

from __future__ import annotations

from typing import Any


def multiply(x: Any, weight: Any, out: Any, *, tf32: bool) -> None:
    """Write x @ weight.T into out by cuBLAS; `tf32` says how float32 is multiplied, whatever the caller has allowed."""
    import torch

    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        torch.mm(x, weight.t(), out=out)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
