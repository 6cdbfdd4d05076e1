"""Compile ahead of time what calls will launch: nothing is run, tuned or timed, and no memory is taken on the GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.trouble import machine_told
from fusetune.errors import NoUsableGpuError
from fusetune.ops.built_in import default_op
from fusetune.ops.loading import known_ops, spec_named
from fusetune.ops.spec import KernelSpec, Launch
from fusetune.runtime.believed import unfit_for_op
from fusetune.runtime.configs import active_source, config_for, device_identity, why_no_gpu


class Warmed(NamedTuple):
    """One problem that is ready: with which config, and how many milliseconds that took."""

    op: str
    problem: Problem
    config: Config
    ms: float


def warmup(problems: Iterable[Problem | Mapping[str, Any]] | None = None, *, op: str | None = None) -> list[Warmed]:
    """Compile and load the kernels for these problems on the current GPU, so that their first call is a short one.

    A problem is a Problem of `op`, the built-in one where none is named, or a mapping of its values by name and, where
    it is another, `op`. None takes all that the loaded files hold for this GPU. The calls that profit have contiguous,
    aligned tensors of one dtype.

    Raises NoUsableGpuError without a GPU, UsageError for an op that is not known, UnsupportedProblemError for a problem
    that it does not compute, and MachineError, or UsageError for what the user has set, where the machine lets nothing
    be compiled, as a full disk under Triton's cache.
    """
    import torch

    if not torch.cuda.is_available():
        raise NoUsableGpuError(f"nothing can be warmed up: {why_no_gpu()}")
    index = torch.cuda.current_device()
    named = op or default_op()
    wanted = _loaded(index) if problems is None else [_named(problem, named) for problem in problems]
    return [_warm(one_op, problem, index) for one_op, problem in wanted]


def _named(given: Problem | Mapping[str, Any], op: str) -> tuple[str, Problem]:
    values = {} if isinstance(given, Problem) else dict(given)
    named = str(values.pop("op", op))
    spec = spec_named(named)
    problem = given if isinstance(given, Problem) else spec.problem(values)
    spec.check(problem)
    return named, problem


def _loaded(index: int) -> list[tuple[str, Problem]]:
    """What the files hold for this GPU, but damaged entries, which a look-up does not use either."""
    identity = device_identity(index)
    return [
        (op, entry.problem)
        for op in known_ops()
        for _, file in active_source().files(op, identity)
        if file.target == identity
        for entry in file.readable_entries()
        if unfit_for_op(op, entry) is None
    ]


def _warm(op: str, problem: Problem, index: int) -> Warmed:
    import torch

    spec = spec_named(op)
    began = time.perf_counter()
    with torch.cuda.device(index), machine_told(launching=True):
        if spec.warmed_by is None:
            config = config_for(op, problem, index)
            _compile(spec, problem, config, index)
        else:
            module, _, function = spec.warmed_by.partition(":")
            config = getattr(import_module(module), function)(op, problem, index)
    return Warmed(op, problem, config, (time.perf_counter() - began) * 1e3)


def _compile(spec: KernelSpec, problem: Problem, config: Config, index: int) -> None:
    """Compile and load what the op launches for tensors without gaps, each beginning on 16 bytes."""
    import torch

    from fusetune.ops.direct import load
    from fusetune.ops.stand_in import StandIn

    device = torch.device("cuda", index)
    operands = (*spec.operands(problem), *spec.workspace(problem, config))
    tensors = {one.name: StandIn(one.shape, getattr(torch, one.dtype), device) for one in operands}
    for launch in spec.launches(problem, config, tensors):
        if isinstance(launch, Launch):
            load(launch.compiled())
