"""Functions that the wrappers of an exported module share, as text."""

from __future__ import annotations

from typing import Final

from fusetune.ops.gemm_scale.problem import Problem

LARGEST_BLOCK: Final = 256
"""Rows or columns of any tile that is searched."""

_FITTING: Final = '''def fitting(x: torch.Tensor, weight: torch.Tensor, **vectors: torch.Tensor) -> list[torch.Tensor]:
    """The vectors without gaps, where x [M, K], weight [N, K] and vectors [N] fit together.

    Raises TypeError or ValueError where they do not.
    """
    for name, tensor in {{"x": x, "weight": weight, **vectors}}.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{{name}} must be a tensor, got {{type(tensor)}}")
        if tensor.dtype != torch.{dtype}{unless}:
            raise TypeError(f"tuned for {dtype}, got {{tensor.dtype}} for {{name}}")
        if tensor.device != x.device:
            raise ValueError(f"x is on {{x.device}}, {{name}} on {{tensor.device}}: all must be on one")
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        seen = f"got {{list(x.shape)}} and {{list(weight.shape)}}"
        raise ValueError(f"x must be [M, K] and weight [N, K], {{seen}}")
    for name, vector in vectors.items():
        if vector.shape != weight.shape[:1]:
            seen = f"got {{list(vector.shape)}}"
            raise ValueError(f"{{name}} must be [{{weight.shape[0]}}], as weight has rows, {{seen}}")
    return [vector.contiguous() for vector in vectors.values()]
'''
_WIDER: Final = """ and not (
            tensor.dtype == torch.float32
            and name in ("gamma", "beta", "running_mean", "running_var")
        )"""
"""BatchNorm's own tensors may stay float32 beside 16 bits, as mixed precision has them."""

_FOR_COPY_ENGINE: Final = '''def for_copy_engine(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix; a copy, unless its rows lie without gaps and the first begins on 16 bytes."""
    if matrix.stride() == (matrix.shape[1], 1) and matrix.data_ptr() % 16 == 0:
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)
'''

_IN_REACH: Final = f'''def in_reach(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix; a copy where elements of a tile lie too far apart for an offset of 32 bits."""
    return matrix if max(matrix.stride()) < 2**31 // {LARGEST_BLOCK} else matrix.contiguous()
'''

_UNIT_OF: Final = '''def unit_of(bits: int) -> int:
    """The largest power of two, 16 at most, that divides all numbers whose bits these are."""
    return max(1, min(16, bits & -bits))
'''

_FORWARD_ONLY: Final = '''def forward_only(y: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
    """y itself; a backward pass through it is refused, since it would leave gradients out."""
    if not (torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)):
        return y
    made = vars(forward_only)
    if not made:

        class ForwardOnly(torch.autograd.Function):
            @staticmethod
            def forward(ctx, y, *operands):
                ctx.mark_dirty(y)
                return y

            @staticmethod
            def backward(ctx, *gradients):
                raise RuntimeError(
                    "forward only: the kernels have no gradient; train the PyTorch model"
                )

        made["function"] = ForwardOnly
    return made["function"].apply(y, *operands)
'''

ARRIVALS: Final = '''def arrivals_of(x: torch.Tensor, tiles: int) -> torch.Tensor:
    """At least `tiles` zeros to count with, which every launch leaves as zeros.

    They last from call to call: clearing counts at each would cost more than the second kernel
    that they save.
    """
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        # A graph may be replayed beside calls on any stream, so it counts, and clears, for itself.
        return torch.zeros(tiles, device=x.device, dtype=torch.int32)
    # Launches on one stream follow one another, and can share counts; those on two streams cannot.
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else None
    kept, key = vars(arrivals_of), f"{x.device} {stream}"
    if key not in kept or kept[key].numel() < tiles:
        kept[key] = torch.zeros(tiles, device=x.device, dtype=torch.int32)
    return kept[key]
'''
"""What wrappers of joined kernels get their counts from."""


def shared_functions(problem: Problem, *, copies: bool, points: bool, joins: bool, vectored: bool) -> list[str]:
    """The functions that wrappers for this dtype call.

    Of those that load by the copy engine, by pointers, by pointers as many elements at a time as rows allow, or join.
    """
    unless = _WIDER if problem.mode is not None and problem.dtype != "float32" else ""
    return [
        _FITTING.format(dtype=problem.dtype, unless=unless),
        *([_FOR_COPY_ENGINE] if copies else []),
        *([_IN_REACH] if points else []),
        *([_UNIT_OF] if vectored else []),
        _FORWARD_ONLY,
        *([ARRIVALS] if joins else []),
    ]
