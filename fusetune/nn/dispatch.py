"""What the fused functions do alike: check their tensors, find out who computes, choose a config, launch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final, Literal, cast

import torch

from fusetune.errors import UsageError
from fusetune.nn.folded import KEPT
from fusetune.nn.guards import PLAIN, autocast_dtype, way
from fusetune.nn.plans import OPERANDS, PLANS, Plan, alignment, direct_launches, scratch_place
from fusetune.nn.scratch import kept_for, shared_scratch
from fusetune.ops.direct import load
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.early import Ending
from fusetune.ops.gemm_scale.launches import LOWEST, gemm_launches, workspace
from fusetune.ops.gemm_scale.problem import PRECISIONS, Dtype, Precision, Problem
from fusetune.ops.gemm_scale.reach import out_of_reach, takes, writes_near
from fusetune.ops.refusals import is_refusal, told
from fusetune.ops.spec import Launch
from fusetune.ops.stand_in import StandIn
from fusetune.runtime.configs import config_for, refuse_config

Counter = Literal["none", "count", "average"]

_OF_THE_PRODUCT: Final = ("x", "weight", "bias")

_WIDENING: Final = ("tiled", "split_k", "vectored")
"""Variants that can write a y of another dtype than x; the copy engine and a library cannot."""

_LAST: Final = (BASELINE, LOWEST)
"""Behind these there is no other config."""

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
    """Raise UsageError unless x [M, K], weight [N, K] and vectors [N] fit together in shape, dtype and device.

    x, weight and bias have one dtype, of which the scale is independent, as PyTorch has it. What else follows may have
    that of x or of the scaled product, or float32, as autocast and mixed precision have it.
    """
    tensors = {"x": x, "weight": weight, **vectors}
    strangers = [name for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
    if strangers:
        seen = ", ".join(f"{name} {type(tensors[name]).__name__}" for name in strangers)
        raise UsageError(f"{function} needs tensors; got {seen}")
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise UsageError(f"{function} needs x [M, K] and weight [N, K]; got {_shapes(tensors)}")
    if any(vector.shape != weight.shape[:1] for vector in vectors.values()):
        *most, last = (f"{name} [N]" for name in vectors)
        raise UsageError(f"{function} needs {', '.join(most)} and {last} for weight [N, K]; got {_shapes(tensors)}")
    allowed = {x.dtype, torch.float32, torch.promote_types(x.dtype, vectors["scale"].dtype)}
    alike = all(tensors[name].dtype == x.dtype for name in _OF_THE_PRODUCT if name in tensors) and all(
        tensor.dtype in allowed for name, tensor in vectors.items() if name != "scale"
    )
    if not alike:
        seen = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise UsageError(
            f"{function} needs one dtype, float32, float16 or bfloat16, for all, or float32 for vectors but the bias; "
            f"got {seen}"
        )
    check_devices(function, tensors)
    if precision is not None and x.dtype != torch.float32:
        raise UsageError(f"precision {precision!r} applies to float32 only; leave it out for {x.dtype}")
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known; use one of {', '.join(PRECISIONS)}")


def check_devices(function: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise UsageError unless all tensors, x among them, lie on one device."""
    device = tensors["x"].device
    if any(tensor.device != device for tensor in tensors.values()):
        seen = ", ".join(f"{name} {tensor.device}" for name, tensor in tensors.items())
        raise UsageError(f"{function} needs all tensors on one device; got {seen}")


def fits(
    x: Any, weight: Any, bias: Any, scale: Any, rest: Sequence[Any] = (), counter: Any = None, *, compiling: bool
) -> bool:
    """Whether a kernel gives exactly what PyTorch's operators give for these tensors, now and in this thread.

    What a module leaves to its parts otherwise, errors too. x is [..., K]; `rest` are gamma, beta and running
    statistics where an op has them. `compiling` is for torch.compile, which has dealt with PyTorch's state by itself.
    """
    vectors = [vector for vector in (bias, scale, *rest) if vector is not None]
    tensors = [x, weight, *vectors] if counter is None else [x, weight, *vectors, counter]
    return (
        scale is not None
        and (compiling or way(tensors) == "kernel")
        and all(type(tensor) in PLAIN and tensor.layout is torch.strided for tensor in tensors)
        and _has_kernels_for(x, compiling)
        and all(tensor.device == x.device for tensor in tensors)
        and weight.ndim == 2
        and x.ndim > 0
        and x.shape[-1] == weight.shape[1]
        and x.numel() > 0
        and weight.shape[0] > 0
        and all(vector.ndim == 1 and vector.shape[0] == weight.shape[0] for vector in vectors)
        and _dtypes_fit(x, weight, bias, scale, rest, compiling)
    )


def _has_kernels_for(x: torch.Tensor, compiling: bool) -> bool:
    """Whether kernels run where x lies: on a GPU of CUDA's, and on a CPU in Triton's interpreter."""
    return x.is_cuda or (x.is_cpu and not compiling and _interpreting())


def _dtypes_fit(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    rest: Sequence[torch.Tensor | None],
    compiling: bool,
) -> bool:
    cast = autocast_dtype(x.device.type)
    dtype = _dtype_under(x, cast)
    if any(tensor is not None and _dtype_under(tensor, cast) != dtype for tensor in (weight, bias)):
        return False
    if not _multiplies(dtype, scale.dtype) or (dtype == torch.bfloat16 and not compiling and _interpreting()):
        return False  # the latter as in computed_by_pytorch
    # As batch_norm has it: all as its input, or all in float32 beside 16 bits.
    of_input = dtype if dtype == scale.dtype else torch.float32
    of_norm = [vector.dtype for vector in rest if vector is not None]
    return all(one == of_input for one in of_norm) or all(one == torch.float32 for one in of_norm)


def _dtype_under(tensor: torch.Tensor, cast: torch.dtype | None) -> torch.dtype:
    """What autocast makes of it before it is multiplied."""
    return tensor.dtype if cast is None or tensor.dtype == torch.float64 or not tensor.is_floating_point() else cast


def _multiplies(dtype: torch.dtype, of_scale: torch.dtype) -> bool:
    """Whether kernels multiply this dtype, with a scale of that one."""
    return dtype in DTYPES and of_scale in {dtype, torch.float32}


def _shapes(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether a backward pass may come, which the kernels leave to PyTorch."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def computed_by_pytorch(x: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether PyTorch computes instead of a kernel: dtypes that no kernel has, and every device but CUDA's.

    Triton's interpreter runs kernels on a CPU, too.
    """
    if not _multiplies(x.dtype, scale.dtype):
        return True
    if not _has_kernels_for(x, compiling=False):
        return True
    if x.dtype == torch.bfloat16 and _interpreting():
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
    counter: Counter = "none",
    sources: Sequence[torch.Tensor | None] = (),
) -> Plan | None:
    """Compute an op on its tensors with the config loaded for it, or with BASELINE where that cannot take them.

    None where nothing was computed: a y of another dtype than x is none that this config can write. `sources` are what
    a config may fold into the weights, as the caller gave them, the weight first.
    """
    x = tensors["x"]
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        plan = plan_for(op, problem, tensors, ending, counter)
        while True:
            if tensors["y"].dtype != x.dtype and plan.config.variant not in _WIDENING:
                return None
            try:
                _run(plan, problem, tensors, ending, eps, momentum, counter, sources)
            except Exception as error:
                # A kernel that was compiled and loaded may still ask for more than the GPU launches.
                if plan.config in _LAST or not x.is_cuda or not is_refusal(error, compiling=False):
                    raise
                refuse_config(op, problem, x.device.index, plan.config, told(error))
                PLANS.drop(_key(op, problem, tensors, ending, counter))
                plan = plan_for(op, problem, tensors, ending, counter, never=plan.config)
            else:
                return plan


def _run(
    plan: Plan,
    problem: Problem,
    tensors: Mapping[str, torch.Tensor],
    ending: Ending,
    eps: float,
    momentum: float,
    counter: Counter,
    sources: Sequence[torch.Tensor | None],
) -> None:
    """The launches of a plan, on the current device."""
    if plan.copied:
        tensors = _copied(tensors, plan.copied)
    if plan.launches is not None:
        values: list[Any] = [tensors[name].data_ptr() if name in tensors else 0 for name in OPERANDS]
        plan.run([*values, eps, momentum])
        return
    config = plan.config
    constants: Mapping[str, torch.Tensor] = {}
    if config.variant == "library_folded":
        found = KEPT.find(tensors, sources, eps)
        config, constants = (Config(variant="library"), {}) if found is None else (config, found)
    scratch = {operand.name: operand.allocate(tensors["x"].device) for operand in workspace(problem, config, ending)}
    operands = {**tensors, **scratch, **constants}
    for one in gemm_launches(problem, config, operands, ending, eps=eps, momentum=momentum, counter=counter):
        one.run()


def _copied(tensors: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    return {**tensors, **{name: tensors[name].contiguous() for name in names}}


def plan_for(
    op: str,
    problem: Problem,
    tensors: Mapping[str, Any],
    ending: Ending,
    counter: Counter,
    *,
    never: Config | None = None,
) -> Plan:
    """The plan for tensors like these, made where there is none yet; compiled for the current device.

    A config that cannot be launched on this GPU gives way to the next one, and at last to BASELINE, with a warning;
    so does `never`. What lies too far apart for BASELINE is copied. Raises UsageError where a plan would have to be
    made while a CUDA graph is captured, which cannot load a kernel.
    """
    x = tensors["x"]
    if not x.is_cuda:  # nothing in it is worth keeping
        return _plan_anew(op, problem, tensors, ending, counter, never)
    key = _key(op, problem, tensors, ending, counter)
    plan = PLANS.get(key)
    if plan is None:
        with PLANS.making:
            plan = PLANS.get(key)
            if plan is None:
                plan = _plan_anew(op, problem, tensors, ending, counter, never)
                PLANS.put(key, plan)
    return plan


def _key(op: str, problem: Problem, tensors: Mapping[str, Any], ending: Ending, counter: Counter) -> Hashable:
    """All that a plan depends on."""
    x, weight = tensors["x"], tensors["weight"]
    shapes = (x.shape, x.stride(), weight.shape, weight.stride(), x.device.index)
    dtypes = tuple(tensor.dtype for tensor in tensors.values())
    return (op, problem, ending, counter, tuple(tensors), shapes, dtypes, alignment(tensors))


def _plan_anew(
    op: str, problem: Problem, tensors: Mapping[str, Any], ending: Ending, counter: Counter, never: Config | None
) -> Plan:
    x = tensors["x"]
    generation = PLANS.generation  # ahead of the look-up: what is loaded from here on makes the plan an old one
    refused = set() if never is None else {never}
    while True:
        config = _config(op, problem, x)
        copied: tuple[str, ...] = ()
        if config in refused or not takes(config, tensors):
            config = BASELINE if writes_near(BASELINE, tensors) else LOWEST
            copied = out_of_reach(config, tensors)
        try:
            plan = _plan_with(config, problem, _copied(tensors, copied), ending, counter, generation)
            return replace(plan, copied=copied) if copied else plan
        except Exception as error:
            if config in _LAST or not x.is_cuda or not is_refusal(error, compiling=True):
                raise
            refused.add(config)
            refuse_config(op, problem, x.device.index, config, told(error))


def _plan_with(
    config: Config, problem: Problem, tensors: Mapping[str, Any], ending: Ending, counter: Counter, generation: int
) -> Plan:
    """The plan with this config, its kernels compiled and loaded."""
    x = tensors["x"]
    scratch = workspace(problem, config, ending)
    device = x.device.index if x.is_cuda else -1
    widens = tensors["y"].dtype != x.dtype
    if config.is_library or not x.is_cuda or (widens and config.variant not in _WIDENING):
        return Plan(config, problem, None, (), device, generation=generation)
    stand_ins = {operand.name: StandIn(operand.shape, getattr(torch, operand.dtype), x.device) for operand in scratch}
    launches = gemm_launches(problem, config, {**tensors, **stand_ins}, ending, counter=counter)
    try:
        direct = direct_launches(list(launches), tensors, stand_ins)
        if direct is None:
            for one in launches:
                assert isinstance(one, Launch), "a library has been dealt with"
                load(one.compiled())
    except RuntimeError as error:
        if not torch.cuda.is_current_stream_capturing():
            raise
        raise UsageError(
            f"the first call for {problem.describe()} came while a CUDA graph was captured, which cannot load a "
            "kernel; call it once before, or `fusetune.warmup` it"
        ) from error
    if direct is None:
        return Plan(config, problem, None, (), device, generation=generation)
    shared = shared_scratch(scratch)
    own = tuple((scratch_place(operand.name), operand) for operand in scratch if operand not in shared)
    return Plan(config, problem, direct, own, device, kept_for(device, scratch), generation)


def config_told(op: str, weight: torch.Tensor, *, training: bool) -> str:
    """The configs that calls with this weight [N, K] have got so far, by rows: `M=128: 64x16x128 w4 s3`."""
    mode = None if op == "gemm_scale" else "train" if training else "eval"
    told = {
        plan.problem.M: plan.config.label()
        for plan in PLANS.made_for(op)
        if tuple(weight.shape) == (plan.problem.N, plan.problem.K)
        and (plan.problem.mode, plan.problem.dtype) == (mode, DTYPES[weight.dtype])
        and plan.device == weight.device.index
    }
    return ", ".join(f"M={M}: {label}" for M, label in sorted(told.items())) or "not called yet"


def _config(op: str, problem: Problem, x: Any) -> Config:
    # Triton's interpreter has no GPU to look up a config for.
    return BASELINE if _interpreting() else cast("Config", config_for(op, problem, x.device.index))


def _interpreting() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret)
