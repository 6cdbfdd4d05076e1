"""What a fused call with BatchNorm normalizes with: its tensors and statistics, checked or known to be as PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from fusetune.errors import UsageError
from fusetune.nn.dispatch import DTYPES, check_devices, fits


class Inputs(NamedTuple):
    """The tensors that have a gradient, in the order of the function's arguments."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor
    gamma: torch.Tensor | None
    beta: torch.Tensor | None


class Norm(NamedTuple):
    """Which statistics one call normalizes with, and what it makes of the running ones."""

    of_batch: bool
    running: tuple[torch.Tensor, torch.Tensor] | None
    """Mean and variance [N]; updated where `of_batch`."""
    counter: torch.Tensor | None
    """num_batches_tracked, where it is to be counted."""
    momentum: float | None
    eps: float


def checked_norm(
    function: str,
    x: torch.Tensor,
    vectors: Mapping[str, torch.Tensor],
    training: bool,
    momentum: float | None,
    eps: float,
    tracked: torch.Tensor | None,
) -> Norm:
    """What the function was asked for. Raises UsageError where statistics or their number cannot be used."""
    mean, var = vectors.get("running_mean"), vectors.get("running_var")
    if mean is None or var is None:
        if mean is not var:
            raise UsageError(f"{function} needs running_mean and running_var both, or neither")
        return Norm(of_batch=True, running=None, counter=None, momentum=0.0, eps=eps)
    if mean.requires_grad or var.requires_grad:
        raise UsageError(f"{function} has no gradient for running statistics; detach them")
    if not training:
        return Norm(of_batch=False, running=(mean, var), counter=None, momentum=0.0, eps=eps)
    if tracked is None and momentum is None:
        raise UsageError("momentum None averages over all batches so far; give their number as num_batches_tracked")
    if tracked is not None:
        if tracked.dtype != torch.int64 or tracked.numel() != 1:
            seen = f"{list(tracked.shape)} {tracked.dtype}"
            raise UsageError(f"{function} needs one torch.int64 element as num_batches_tracked; got {seen}")
        check_devices(function, {"x": x, "num_batches_tracked": tracked})
    return Norm(of_batch=True, running=(mean, var), counter=tracked, momentum=momentum, eps=eps)


def known_norm(
    inputs: Inputs,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    tracked: torch.Tensor | None,
    compiling: bool,
) -> Norm | None:
    """The same where a kernel gives exactly what nn.BatchNorm1d gives, or its batch_norm; None for all else."""
    x, weight, bias, scale, *affine = inputs
    running = None if mean is None or var is None else (mean, var)
    of_batch = training or running is None
    counter = tracked if training and running is not None else None
    as_usual = (
        (mean is None) is (var is None)
        and not (training and running is None and tracked is not None)  # a module counts it all the same
        and fits(x, weight, bias, scale, (*affine, mean, var), counter, compiling=compiling)
        and x.ndim == 2
        and not (of_batch and x.shape[0] == 1)
        and type(eps) is float
        and eps > 0
        and (type(momentum) is float or (momentum is None and (counter is not None or not training or running is None)))
        and (counter is None or (counter.dtype == torch.int64 and counter.numel() == 1))
        and (running is None or not any(statistic.requires_grad for statistic in running))
        and (compiling or not of_batch or running is None or not any(one.is_inference() for one in running))
        and (compiling or counter is None or not counter.is_inference())
    )
    if not as_usual:
        return None
    return Norm(of_batch, running, counter, momentum if training and running is not None else 0.0, eps)


def common_dtype(dtype: torch.dtype, vectors: Sequence[torch.Tensor | None]) -> torch.dtype | None:
    """What to make of vectors that F.batch_norm does not take together beside an input of this dtype.

    It takes all in the input's dtype, and in float32 beside 16 bits: None. Kernels take any of both.
    """
    found = {vector.dtype for vector in vectors if vector is not None}
    if found <= {dtype} or (found == {torch.float32} and dtype in DTYPES):
        return None
    wide = torch.promote_types(dtype, torch.float32)
    return wide if wide == torch.float32 else None
