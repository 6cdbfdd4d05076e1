"""One config compiled for a GPU that is not there: its resources, and whether it is what the JIT would compile."""

from __future__ import annotations

import random

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.compiler import tools
from fusetune.compiler.build import compile_config, compile_launch, resources_of_cubin, specialize
from fusetune.compiler.tools import ptxas_version
from fusetune.core.resources import Resources, occupancy
from fusetune.core.target import Target, find_target
from fusetune.errors import CompileError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import candidates, pipelined_shared_bytes, reject_reason, uses_wgmma
from fusetune.ops.spec import AbstractTensor, Launch, TileDescriptor, abstract_tensors
from tests.support.broken_kernels import calls_one_that_does_not_compile, shapes_do_not_fit

RTX_4090 = find_target("rtx4090")
H200 = find_target("h200")
FORMS = [
    ("float32", "tf32"),
    ("float32", "ieee"),
    ("float32", "tf32x3"),
    ("float32", "bf16x3"),
    ("float16", None),
    ("bfloat16", None),
]
each_target = pytest.mark.parametrize("target", [RTX_4090, H200], ids=["sm_89", "sm_90"])


def _launch(problem: Problem, config: Config = BASELINE) -> Launch:
    (launch,) = SPEC.launches(problem, config, abstract_tensors(SPEC, problem, config))
    return launch


def _ptx(problem: Problem, config: Config, target: Target) -> str:
    launch = _launch(problem, config)
    source = ASTSource(launch.kernel, *specialize(launch))
    compiled = triton_compile(source, target=GPUTarget("cuda", target.sm, 32), options=dict(launch.options))
    return compiled.asm["ptx"]


@each_target
@pytest.mark.parametrize(("dtype", "precision"), FORMS)
def test_baseline_compiles_without_a_spill_and_within_shared_memory(dtype, precision, target):
    resources = compile_config(SPEC, make_problem(128, 512, 1024, dtype, precision), BASELINE, target)
    assert resources.stack_bytes == 0
    assert 32 <= resources.registers <= 255
    assert 0 < resources.shared_bytes <= target.shared_bytes_per_cta


def _sample(problem: Problem, target: Target, *, wgmma: bool, count: int = 3) -> list[Config]:
    """Configs whose y tile is smaller than the pipeline: a larger one may be what decides, see the next test."""
    fitting = [
        config
        for config in candidates(SPEC.space, "standard")
        if config.variant == "tiled"
        and reject_reason(config, problem, target) is None
        and uses_wgmma(config, problem, target) == wgmma
        and config.BLOCK_M * config.BLOCK_N * problem.element_bytes <= pipelined_shared_bytes(config, problem, target)
    ]
    return random.Random(20261123).sample(fitting, count)


@pytest.mark.parametrize(
    ("target", "dtype", "wgmma"),
    [
        (RTX_4090, "float32", False),
        (RTX_4090, "float16", False),
        (H200, "float32", False),
        (H200, "float32", True),
        (H200, "bfloat16", True),
    ],
    ids=["sm_89 float32", "sm_89 float16", "sm_90 float32 mma.sync", "sm_90 float32 wgmma", "sm_90 bfloat16 wgmma"],
)
def test_shared_memory_is_what_the_rule_says_before_compiling(target, dtype, wgmma):
    problem = make_problem(1024, 8192, 8192, dtype)
    configs = _sample(problem, target, wgmma=wgmma)
    compiled = {config.label(): compile_config(SPEC, problem, config, target).shared_bytes for config in configs}
    assert compiled == {config.label(): pipelined_shared_bytes(config, problem, target) for config in configs}
    assert all(("wgmma" in _ptx(problem, config, target)) == wgmma for config in configs)


def test_a_tile_of_y_that_is_larger_than_the_pipeline_and_staged_for_its_store_decides():
    problem, config = make_problem(1024, 8192, 8192, "float32"), Config(BLOCK_M=128, num_warps=8)
    tile_of_y = 128 * 64 * 4
    assert pipelined_shared_bytes(config, problem, RTX_4090) < tile_of_y
    assert compile_config(SPEC, problem, config, RTX_4090).shared_bytes == tile_of_y


@pytest.mark.parametrize(("precision", "bytes_an_element"), [("tf32x3", 8), ("bf16x3", 4)])
def test_split_products_on_wgmma_keep_the_parts_of_w_in_shared_memory_too(precision, bytes_an_element):
    problem, config = make_problem(1024, 8192, 8192, "float32", precision), Config(BLOCK_N=128, num_stages=3)
    tiles = 2 * (64 + 128) * 32 * 4
    parts = 128 * 32 * bytes_an_element
    assert compile_config(SPEC, problem, config, H200).shared_bytes == tiles + parts
    assert "wgmma" in _ptx(problem, config, H200)


@each_target
def test_16_bit_rows_that_are_not_aligned_are_not_pipelined_however_many_stages(target):
    """cp.async copies 4 bytes or more: with K = 1000, nothing promises that two elements lie in one such word."""
    two, four = (
        compile_config(SPEC, make_problem(128, 512, 1000, "float16"), Config(BLOCK_M=32, num_stages=stages), target)
        for stages in (2, 4)
    )
    assert two.shared_bytes == four.shared_bytes == (32 + 64) * 32 * 2


def test_the_seed_s_kernel_fills_a_quarter_of_a_4090_as_nsight_saw():
    config, problem = Config(num_stages=3), make_problem(1024, 8192, 8192, "float32")
    resources = compile_config(SPEC, problem, config, RTX_4090)
    assert resources.shared_bytes == 32768
    theoretical = occupancy(resources.registers, resources.shared_bytes, config.num_warps, RTX_4090)
    assert (theoretical.ctas_per_sm, theoretical.fraction) == (3, 0.25)
    # Warps active that Nsight Compute measured on an RTX 4090; scheduling loses a little of what is possible.
    assert 0.95 * theoretical.fraction < 0.2401 <= theoretical.fraction


def test_a_config_that_spills_shows_its_stack_although_its_registers_look_few():
    problem, config = make_problem(1024, 8192, 8192, "float32"), Config(BLOCK_M=256, BLOCK_N=128)
    rejection = reject_reason(config, problem, RTX_4090)
    assert rejection is not None
    assert rejection.reason == "accumulator_registers"
    resources = compile_config(SPEC, problem, config, RTX_4090)
    assert resources.spills
    assert resources.stack_bytes > 1000
    assert resources.registers < 64


def test_what_the_jit_knows_of_alignment_changes_the_code():
    launch = _launch(make_problem(128, 512, 1024, "float32"))
    signature, constants, attributes = specialize(launch)
    target, options = GPUTarget("cuda", 89, 32), dict(launch.options)
    copies = [
        triton_compile(ASTSource(launch.kernel, signature, constants, attrs), target=target, options=options)
        .asm["ptx"]
        .count("cp.async.c")
        for attrs in (attributes, {})
    ]
    assert 0 < copies[0] < copies[1]


def derived_by_the_jit(launch: Launch):
    """Signature, constants and attributes as a first call derives them, by Triton's private functions."""
    try:
        from triton.compiler.compiler import make_backend
        from triton.runtime.jit import create_function_from_signature

        kernel, backend = launch.kernel, make_backend(GPUTarget("cuda", 90, 32))
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        given = {**launch.constants, **launch.options}
        made = {name: v.made() if isinstance(v, TileDescriptor) else v for name, v in launch.arguments.items()}
        bound, specialization, options = binder(**made, **given)
        _, signature, constants, attributes = kernel._pack_args(backend, given, bound, specialization, options)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.skip(f"this Triton's JIT has other private functions: {error}")
    return signature, constants, attributes


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("M", "N", "K"), [(128, 512, 1024), (5, 77, 123), (1, 1, 1), (16, 1, 48)])
def test_the_specialisation_is_the_one_that_the_jit_derives(M, N, K, dtype):
    problem = make_problem(M, N, K, dtype)
    real = {o.name: torch.empty(o.shape, dtype=getattr(torch, o.dtype)) for o in SPEC.operands(problem)}
    (called,) = SPEC.launches(problem, BASELINE, real)
    derived, ours = derived_by_the_jit(called), specialize(_launch(problem))
    assert ours == derived
    # The order of the attributes counts as well: the hash is taken of their text, and it names the cache's entry.
    assert ASTSource(called.kernel, *ours).hash() == ASTSource(called.kernel, *derived).hash()


@pytest.mark.parametrize("value", [2**31 - 1, 2**31, -(2**31) - 1, 0, 1, 16, -1])
def test_integers_are_specialised_by_size_and_value_as_the_jit_does(value):
    launch = _launch(make_problem(64, 64, 64, "float32"))
    abstract = Launch(launch.kernel, (1,), {**launch.arguments, "M": value}, launch.constants, launch.options)
    pointers = {name: torch.empty(16) for name, given in launch.arguments.items() if isinstance(given, AbstractTensor)}
    called = Launch(launch.kernel, (1,), {**abstract.arguments, **pointers}, launch.constants, launch.options)
    assert specialize(abstract) == derived_by_the_jit(called)


def test_a_compile_error_carries_the_compiler_s_message_and_the_line():
    y = AbstractTensor((1024,), "float32")
    with pytest.raises(CompileError, match=r"in line 12 of the kernel: .*make_shape_compatible.*32 and 64"):
        compile_launch(Launch(shapes_do_not_fit, (1,), {"y_ptr": y}, {"BLOCK": 32}), RTX_4090)


def test_a_compile_error_in_a_called_kernel_carries_the_inner_message():
    y = AbstractTensor((1024,), "float32")
    with pytest.raises(CompileError, match="no_such_name is not defined"):
        compile_launch(Launch(calls_one_that_does_not_compile, (1,), {"y_ptr": y}, {"BLOCK": 32}), H200)


def test_a_config_that_the_op_does_not_launch_is_a_compile_error_that_names_it():
    with pytest.raises(
        CompileError, match=r"gemm_scale does not launch 64x64x32 w4 s2 k4: .*the variants split_k, .* can split K"
    ):
        compile_config(SPEC, make_problem(128, 512, 1024, "float32"), Config(SPLIT_K=4), RTX_4090)


def test_what_is_no_cubin_is_a_compile_error():
    with pytest.raises(CompileError, match="cuobjdump could not read"):
        resources_of_cubin(b"not machine code", 0)


def test_the_most_demanding_launch_of_an_op_counts():
    class Twice(type(SPEC)):
        def launches(self, problem, config, tensors):
            return [_launch(problem, BASELINE), _launch(problem, Config(num_stages=3, num_warps=8))]

    problem = make_problem(128, 512, 1024, "float32")
    first, second = (compile_launch(launch, RTX_4090) for launch in Twice().launches(problem, BASELINE, {}))
    assert first.registers > second.registers
    assert first.shared_bytes < second.shared_bytes
    both = compile_config(Twice(), problem, BASELINE, RTX_4090)
    assert both == Resources(registers=first.registers, stack_bytes=0, shared_bytes=second.shared_bytes)


@each_target
def test_the_release_is_that_of_the_ptxas_that_triton_calls_for_the_target(target):
    from triton.backends.nvidia.compiler import get_ptxas_version

    assert f"V{ptxas_version(target)}" in get_ptxas_version(target.sm)


@pytest.mark.parametrize(
    ("release", "target", "name"),
    [
        ((3, 8), RTX_4090, "ptxas"),
        ((3, 8), H200, "ptxas"),
        ((3, 9), RTX_4090, "ptxas"),
        ((3, 9), H200, "ptxas-blackwell"),
    ],
)
def test_triton_3_9_compiles_for_hopper_with_the_ptxas_that_it_calls_blackwells(monkeypatch, release, target, name):
    of_name = {one.name: one.release for one in tools.found_tools()}
    assert of_name["ptxas"] != of_name["ptxas-blackwell"]
    monkeypatch.setattr(tools, "triton_release", lambda: release)
    assert ptxas_version(target) == of_name[name]


def test_a_launcher_that_cannot_be_built_here_is_no_compile_error(monkeypatch):
    from triton.backends.nvidia import driver

    asked = []

    def no_driver(source, metadata):
        asked.append(source.fn.__name__)
        raise AssertionError("libcuda.so cannot found!")

    monkeypatch.setattr(driver, "make_launcher", object(), raising=False)
    monkeypatch.setattr(driver, "CudaLauncher", no_driver)
    problem, config = make_problem(128, 512, 1024, "float32"), Config("split_k", 64, 64, 64, SPLIT_K=8, num_stages=3)
    plain = compile_config(SPEC, problem, config, H200)
    assert asked == []
    assert compile_config(SPEC, problem, config, H200, with_launchers=True) == plain
    assert asked == ["tiled_products", "finish_split"]
