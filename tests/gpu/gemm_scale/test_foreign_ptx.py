"""What is compiled for an RTX 4090 computes the right thing: its PTX, run here through the driver's own compiler."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.compiler.build import specialize
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.spec import Launch, abstract_tensors
from tests.gpu.gemm_scale.test_variants import _error, drawn, spec_of

RTX_4090 = find_target("rtx4090")
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # of enum CUfunction_attribute
CTYPES = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


@pytest.fixture
def driver():
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("PTX for sm_89 runs on GPUs of that capability and later")
    torch.cuda.init()
    torch.zeros((), device="cuda")  # makes PyTorch's context the current one
    return ctypes.CDLL("libcuda.so.1")


def _done(driver, status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise AssertionError(f"the driver says {status}: {(text.value or b'').decode()}")


def _arguments(launch: Launch, signature: dict[str, str], ptx: str) -> list[ctypes._SimpleCData]:
    """The values of the kernel's parameters; those that Triton adds at the end are pointers, and null."""
    values = []
    for name, kind in signature.items():
        if kind.startswith("*"):
            values.append(ctypes.c_uint64(launch.arguments[name].data_ptr()))
        elif kind != "constexpr":
            values.append(CTYPES[kind](launch.arguments[name]))
    entry = ptx[ptx.index(".visible .entry") :]
    wanted = len(re.findall(r"\.param\b", entry[: entry.index(")")]))
    assert len(values) <= wanted <= len(values) + 2
    return values + [ctypes.c_uint64(0)] * (wanted - len(values))


def _run_compiled_for_a_4090(driver, problem: Problem, config: Config, tensors: dict[str, torch.Tensor]) -> None:
    spec = spec_of(problem)
    (abstract,) = spec.launches(problem, config, abstract_tensors(spec, problem, config, RTX_4090))
    (launch,) = spec.launches(problem, config, tensors)
    signature, constants, attributes = specialize(abstract)
    compiled = triton_compile(
        ASTSource(abstract.kernel, signature, constants, attributes),
        target=GPUTarget("cuda", RTX_4090.sm, 32),
        options=dict(abstract.options),
    )
    ptx = compiled.asm["ptx"]
    assert re.search(r"^\.target sm_89\b", ptx, re.MULTILINE)
    values = _arguments(launch, signature, ptx)
    pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
    shared = compiled.metadata.shared
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _done(driver, driver.cuModuleLoadDataEx(ctypes.byref(module), ctypes.c_char_p(ptx.encode()), 0, None, None))
    try:
        name = compiled.metadata.name.encode()
        _done(driver, driver.cuModuleGetFunction(ctypes.byref(function), module, name))
        _done(driver, driver.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared))
        grid = (*launch.grid, 1, 1)[:3]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        block = (32 * config.num_warps, 1, 1)
        _done(driver, driver.cuLaunchKernel(function, *grid, *block, shared, stream, pointers, None))
        torch.cuda.synchronize()
    finally:
        _done(driver, driver.cuModuleUnload(module))


@pytest.mark.parametrize(("M", "K", "N"), [(128, 1024, 512), (129, 1000, 65)])
@pytest.mark.parametrize(("dtype", "precision"), [("float32", "tf32"), ("float16", None)])
@pytest.mark.parametrize(
    "config", [BASELINE, Config(BLOCK_M=64, BLOCK_N=32, BLOCK_K=64, num_stages=3)], ids=Config.label
)
@pytest.mark.parametrize("mode", [None, "eval"])
def test_ptx_for_an_rtx_4090_is_within_the_tolerance(driver, mode, config, dtype, precision, M, K, N):
    problem = make_problem(M, N, K, dtype, precision, mode)
    spec = spec_of(problem)
    tensors = drawn(spec, problem, config)
    reference = spec.reference(problem, tensors)["y"]
    _run_compiled_for_a_4090(driver, problem, config, tensors)
    tolerance = spec.tolerance(problem)
    assert _error(tensors["y"], reference) <= tolerance.frobenius
    assert float((tensors["y"].double() - reference).abs().max()) <= tolerance.maximum * float(
        reference.square().mean().sqrt()
    )
