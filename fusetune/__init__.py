"""fusetune: launch configurations for fused Triton kernels, kept only with evidence.

Importing this package loads neither torch nor triton; the public names load them on first use.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own takes longer to load than all of this, and `fusetune` has to be there at once.
if TYPE_CHECKING:
    from typing import Any

    from fusetune.core.space import Space
    from fusetune.nn.linear_scale import fused_gemm_scale
    from fusetune.nn.linear_scale_bn import fused_gemm_scale_batch_norm
    from fusetune.nn.modules import FusedLinearScale, FusedLinearScaleBatchNorm, ModelNew
    from fusetune.nn.warmup import warmup
    from fusetune.ops.spec import KernelSpec, Launch, Operand, Tolerance
    from fusetune.runtime.configs import explain, load, reload

_PUBLIC = {
    "fused_gemm_scale": "fusetune.nn.linear_scale",
    "fused_gemm_scale_batch_norm": "fusetune.nn.linear_scale_bn",
    "FusedLinearScale": "fusetune.nn.modules",
    "FusedLinearScaleBatchNorm": "fusetune.nn.modules",
    "ModelNew": "fusetune.nn.modules",
    "explain": "fusetune.runtime.configs",
    "load": "fusetune.runtime.configs",
    "reload": "fusetune.runtime.configs",
    "warmup": "fusetune.nn.warmup",
    "KernelSpec": "fusetune.ops.spec",
    "Launch": "fusetune.ops.spec",
    "Operand": "fusetune.ops.spec",
    "Tolerance": "fusetune.ops.spec",
    "Space": "fusetune.core.space",
}

__all__ = [
    "FusedLinearScale",
    "FusedLinearScaleBatchNorm",
    "KernelSpec",
    "Launch",
    "ModelNew",
    "Operand",
    "Space",
    "Tolerance",
    "__version__",
    "explain",
    "fused_gemm_scale",
    "fused_gemm_scale_batch_norm",
    "load",
    "reload",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        try:
            return getattr(import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "triton"}:
                raise
            from fusetune.errors import MissingPackageError

            raise MissingPackageError(
                f"fusetune.{name} needs {error.name}, which is not installed here; `pip install {error.name}` (Linux)"
            ) from error
    raise AttributeError(f"module 'fusetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
