"""What the fused functions do alike: check their tensors, find out who computes, choose a config, launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Final, Literal

import torch

from fusetune.core.config import BASELINE, Config
from fusetune.core.problem import PRECISIONS, Dtype, Precision, Problem
from fusetune.errors import UsageError
from fusetune.kernels.launches import Ending, gemm_launches, takes, workspace
from fusetune.runtime.configs import config_for
from fusetune.runtime.folded import KEPT

DTYPES: Final[dict[torch.dtype, Dtype]] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


def check_tensors(
    function: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    vectors: Mapping[str, torch.Tensor],
    precision: Precision | None,
) -> None:
    """Raise UsageError unless x [M, K], weight [N, K] and vectors [N] fit together in shape, dtype and device."""
    tensors = {"x": x, "weight": weight, **vectors}
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise UsageError(f"{function} needs x [M, K] and weight [N, K]; got {_shapes(tensors)}")
    if any(vector.shape != weight.shape[:1] for vector in vectors.values()):
        *most, last = (f"{name} [N]" for name in vectors)
        raise UsageError(f"{function} needs {', '.join(most)} and {last} for weight [N, K]; got {_shapes(tensors)}")
    if any(tensor.dtype != x.dtype for tensor in tensors.values()) or (x.dtype not in DTYPES and not x.is_cpu):
        seen = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise UsageError(f"{function} needs one dtype, float32, float16 or bfloat16, for all; got {seen}")
    check_devices(function, tensors)
    if precision is not None and x.dtype != torch.float32:
        raise UsageError(f"precision {precision!r} applies to float32 only; leave it out for {x.dtype}")
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")


def check_devices(function: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise UsageError unless all tensors, x among them, lie on one CUDA or CPU device."""
    device = tensors["x"].device
    if any(tensor.device != device for tensor in tensors.values()) or device.type not in {"cuda", "cpu"}:
        seen = ", ".join(f"{name} {tensor.device}" for name, tensor in tensors.items())
        raise UsageError(f"{function} needs all tensors on one CUDA or CPU device; got {seen}")


def _shapes(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether a backward pass may come, which the kernels leave to PyTorch."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def computed_by_pytorch(x: torch.Tensor) -> bool:
    """Whether PyTorch computes instead of a kernel: on a CPU, unless Triton's interpreter runs kernels there."""
    interpreted = _interpreting()
    if x.is_cpu and (not interpreted or x.dtype not in DTYPES):
        return True
    if interpreted and x.dtype == torch.bfloat16:
        # github.com/triton-lang/triton/issues/11584: its tl.dot takes their bits for integers.
        raise UsageError("Triton's interpreter cannot multiply bfloat16; unset TRITON_INTERPRET, or use float32")
    return False


def launch(
    op: str,
    problem: Problem,
    tensors: Mapping[str, torch.Tensor],
    ending: Ending,
    *,
    eps: float = 0.0,
    momentum: float = 0.0,
    counter: Literal["none", "count", "average"] = "none",
    sources: Sequence[torch.Tensor | None] = (),
) -> None:
    """Compute an op on its tensors with the config loaded for it, or with BASELINE where that cannot take them.

    `sources` are what a config may fold into the weights, as the caller gave them, the weight first.
    """
    x = tensors["x"]
    config = _config(op, problem, x)
    if not takes(config, tensors):
        config = BASELINE
    constants: Mapping[str, torch.Tensor] = {}
    if config.variant == "library_folded":
        found = KEPT.find(tensors, sources, eps)
        config, constants = (Config(variant="library"), {}) if found is None else (config, found)
    scratch = {
        operand.name: torch.empty(operand.shape, dtype=getattr(torch, operand.dtype), device=x.device)
        for operand in workspace(problem, config, ending)
    }
    launches = gemm_launches(
        problem, config, {**tensors, **scratch, **constants}, ending, eps=eps, momentum=momentum, counter=counter
    )
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        for one in launches:
            one.run()


def _config(op: str, problem: Problem, x: torch.Tensor) -> Config:
    # Triton's interpreter has no GPU to look up a config for.
    return BASELINE if _interpreting() else config_for(op, problem, x.device.index)


def _interpreting() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret)
