"""Exported modules as their users have them: files, imported, whose wrappers launch kernels on a GPU that is not there.

A stand-in for each tensor says that it is on the GPU and has no memory; what a wrapper would launch is noted, with
every config of an autotuned kernel, and can be compiled for the target.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from fusetune.compiler.build import specialize
from fusetune.core.target import Target
from fusetune.errors import CompileError
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.spec import AbstractTensor, Launch, TileDescriptor
from tests.support.stages import made_to

FUNCTIONS = {None: "fused_gemm_scale", "eval": "fused_gemm_scale_bn_eval", "train": "fused_gemm_scale_bn_train"}
_OPTIONS = ("num_warps", "num_stages", "num_ctas", "launch_pdl")


def loaded(path: Path, text: str) -> ModuleType:
    """The module that a file holds, written first."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU; it is nowhere."""

    is_cuda = True

    @staticmethod
    def of(*shape: int, dtype: torch.dtype) -> OnGpu:
        made = torch.Tensor._make_subclass(OnGpu, torch.empty(shape, dtype=dtype, device="meta"))
        assert isinstance(made, OnGpu)
        return made


@contextmanager
def gpu(target: Target) -> Iterator[None]:
    """PyTorch as if the current device were `target`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "current_device", lambda: None)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: divmod(target.sm, 10))
        patch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=target.sms))
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
        yield


class _Recorder:
    """Stands for a kernel and notes what it would be launched with: once, or with each config that it would try."""

    def __init__(self, kernel: Any, noted: list[Launch]) -> None:
        self._kernel, self._noted = kernel, noted

    def __getitem__(self, grid: Any) -> Any:
        def launch(*given: Any, **named: Any) -> None:
            kernel, heuristics = self._kernel, {}
            tried: Sequence[Mapping[str, Any]] = [{}]
            if hasattr(kernel, "configs"):
                tried, kernel = [config.all_kwargs() for config in kernel.configs], kernel.fn
            if hasattr(kernel, "values"):
                heuristics, kernel = kernel.values, kernel.fn
            arguments = dict(zip(kernel.arg_names, given, strict=False))
            for config in tried:
                everything = {**arguments, **named, **config}
                everything |= {name: decide(everything) for name, decide in heuristics.items()}
                self._noted.append(_launch(kernel, grid(everything) if callable(grid) else grid, everything))

        return launch


def launches_of(module: ModuleType, problem: Problem, target: Target) -> list[Launch]:
    """What the module's wrapper would launch for a problem on `target`."""
    names = [name for name in vars(module) if name.endswith("_kernel")]
    noted: list[Launch] = []
    M, N, K, dtype = problem.M, problem.N, problem.K, getattr(torch, problem.dtype)
    matrices = OnGpu.of(M, K, dtype=dtype), OnGpu.of(N, K, dtype=dtype)
    vectors = [OnGpu.of(N, dtype=dtype) for _ in range(2 if problem.mode is None else 6)]
    rest: dict[str | None, tuple[Any, ...]] = {
        None: (),
        "eval": (1e-5,),
        "train": (OnGpu.of(dtype=torch.int64), 0.1, 1e-5),
    }
    with pytest.MonkeyPatch.context() as patch, gpu(target):
        for name in names:
            patch.setattr(module, name, _Recorder(getattr(module, name), noted))
        getattr(module, FUNCTIONS[problem.mode])(*matrices, *vectors, *rest[problem.mode])
    assert noted
    return noted


def _launch(kernel: Any, grid: tuple[int, ...], everything: Mapping[str, Any]) -> Launch:
    constexprs = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    assert set(kernel.arg_names) <= set(everything), "an argument is missing"
    assert set(everything) <= {*kernel.arg_names, *_OPTIONS}, "an argument that the kernel does not have"
    arguments = {name: _abstract(everything[name]) for name in kernel.arg_names if name not in constexprs}
    constants = {name: everything[name] for name in kernel.arg_names if name in constexprs}
    options = {name: everything[name] for name in _OPTIONS if name in everything}
    return Launch(kernel, grid, arguments, constants, options)


def _abstract(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return AbstractTensor(tuple(value.shape), str(value.dtype).removeprefix("torch."))  # type: ignore[arg-type]
    if hasattr(value, "block_shape"):
        return TileDescriptor(_abstract(value.base), tuple(value.block_shape))
    return value


def kind_by_text(launch: Launch, target: Target) -> tuple[str, ...]:
    """The same for launches of one kernel's text on inputs of one width, for one generation of GPUs."""
    return (launch.kernel.src, *_pointed(launch), str(target.sm))


def kind_by_name(launch: Launch, target: Target) -> tuple[str, ...]:
    """The same for launches of kernels of one name that take the same arguments, on inputs of one width."""
    return (launch.kernel.fn.__name__, *launch.kernel.arg_names, *_pointed(launch), str(target.sm))


def _pointed(launch: Launch) -> list[str]:
    """What the arguments point to, of which both types of 16 bits are one."""
    told = specialize(launch)[0].values()
    pointers = {one.partition("[")[0] for one in told if one.startswith(("*", "tensordesc"))}
    return sorted({one.replace("bf16", "fp16") for one in pointers})


def identity(launch: Launch) -> str:
    """The same for launches that Triton's front end takes for the same, wherever in a file their kernel stands.

    What kernels call is the library's own, the same under one name in every module. How many warps and stages there
    are to be only later passes ask.
    """
    told = launch.kernel.src, *specialize(launch), sorted(launch.options.items() - _later(launch).items())
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _later(launch: Launch) -> dict[str, Any]:
    return {name: value for name, value in launch.options.items() if name in ("num_warps", "num_stages")}


def through_front_end(launch: Launch, target: Target) -> str:
    """Triton's own intermediate code of a launch, as its front end makes it and a first pass cleans it.

    Takes a tenth of what compiling takes. What a kernel's text can have wrong shows here: names, types and shapes.
    Raises CompileError with Triton's own message.
    """
    # Whether integers fit is asked at each sum and product, and told in debug mode alone: a fifth of the time.
    launch = replace(launch, options={**launch.options, "sanitize_overflow": False})
    try:
        return made_to("ttir", launch, target)[0]
    except Exception as error:
        raise CompileError(str(error)) from error
