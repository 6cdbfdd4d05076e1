"""KernelSpec: how an op is found, what its hash sees, and what its launches hold."""

import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from fusetune.core.config import NamedConfig
from fusetune.core.target import find_target
from fusetune.errors import UnsupportedProblemError, UsageError
from fusetune.ops import loading as spec_module
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launches import (
    DEFERRED_KERNELS,
    KERNELS,
    MASKED_KERNELS,
    OWNER_KERNELS,
    PADDED_KERNELS,
    VECTORED_KERNELS,
)
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import DTYPES, make_problem
from fusetune.ops.gemm_scale.space import GEMM_SPACE, SEED_SPACE
from fusetune.ops.gemm_scale.tiles import tiled_products
from fusetune.ops.hashing import hash_kernels
from fusetune.ops.loading import load_spec, spec_named
from fusetune.ops.spec import AbstractTensor, KernelSpec, Launch, Operand, abstract_tensors

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(100, 200, 96, "float32")

KERNEL = '''
def kernel(x_ptr, n, BLOCK):
    """Doubles."""
    for at in range(0, n, BLOCK):
        if at < n:
            x_ptr[at] = x_ptr[at] * 2
    return x_ptr
'''
SAME_TO_A_MACHINE = {
    "a comment": KERNEL.replace("    for", "    # Over all blocks.\n    for"),
    "a comment behind code": KERNEL.replace("BLOCK):\n        if", "BLOCK):  # blocks\n        if"),
    "blank lines": KERNEL.replace("    for", "\n\n    for").replace("        if", "\n        if"),
    "two spaces of indentation": KERNEL.replace("    ", "  "),
    "spaces between tokens": KERNEL.replace("x_ptr[at] * 2", "x_ptr[at]*2").replace("(0, n, BLOCK)", "(0,n,BLOCK)"),
    "a line broken in brackets": KERNEL.replace("range(0, n, BLOCK)", "range(\n        0, n, BLOCK\n    )"),
    "another place in the file": "ANYTHING = 1\n\n\n" + KERNEL,
}
OTHER_CODE = {
    "another constant": KERNEL.replace("* 2", "* 3"),
    "another name": KERNEL.replace("x_ptr", "y_ptr"),
    "another operator": KERNEL.replace("at < n", "at <= n"),
    "another default": KERNEL.replace("BLOCK)", "BLOCK=64)", 1),
    "a statement that left the loop": KERNEL.replace("    return", "        return"),
    "one statement less": KERNEL.replace("    return x_ptr\n", ""),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from; what was imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(spec_module, "_given", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def imported(folder: Path, name: str, source: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("change", SAME_TO_A_MACHINE)
def test_the_hash_of_a_kernel_does_not_see(tmp_path: Path, change: str) -> None:
    assert SAME_TO_A_MACHINE[change] != KERNEL
    original = imported(tmp_path, "original", KERNEL).kernel
    changed = imported(tmp_path, "changed", SAME_TO_A_MACHINE[change]).kernel
    assert hash_kernels(changed) == hash_kernels(original)


@pytest.mark.parametrize("change", OTHER_CODE)
def test_the_hash_of_a_kernel_sees(tmp_path: Path, change: str) -> None:
    assert OTHER_CODE[change] != KERNEL
    original = imported(tmp_path, "original", KERNEL).kernel
    changed = imported(tmp_path, "changed", OTHER_CODE[change]).kernel
    assert hash_kernels(changed) != hash_kernels(original)


def test_the_hash_is_sixteen_hex_digits_and_the_same_every_time() -> None:
    digits = SPEC.source_hash()
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")
    assert SPEC.source_hash() == digits


def test_a_variant_that_came_later_has_a_hash_of_its_own_and_leaves_the_others_theirs() -> None:
    plain, trained = load_spec("gemm_scale"), load_spec("gemm_scale_bn")
    for spec, first in ((plain, {"library"}), (trained, {"reread"})):
        shared = {spec.source_hash(Config(variant=variant)) for variant in {"tiled", "split_k", "persistent", *first}}
        assert shared == {hash_kernels(*KERNELS, without="MASKED")}
        deferred = hash_kernels(*KERNELS, *DEFERRED_KERNELS, without="MASKED")
        assert spec.source_hash(Config(variant="deferred")) == deferred
        vectored = hash_kernels(*KERNELS, *VECTORED_KERNELS, without="MASKED")
        assert spec.source_hash(Config(variant="vectored")) == vectored
        assert spec.source_hash(Config(variant="masked")) == hash_kernels(*KERNELS, *MASKED_KERNELS)
        padded = hash_kernels(*KERNELS, *MASKED_KERNELS, *PADDED_KERNELS)
        assert spec.source_hash(Config(variant="padded")) == padded
    later = (*VECTORED_KERNELS, *MASKED_KERNELS, *PADDED_KERNELS)
    assert plain.source_hash() == hash_kernels(*KERNELS, *DEFERRED_KERNELS, *later)
    # A library trains by the kernel of owners too; without BatchNorm there is none.
    assert (
        trained.source_hash(Config(variant="owner"))
        == trained.source_hash(Config(variant="library"))
        == hash_kernels(*KERNELS, *OWNER_KERNELS, without="MASKED")
    )
    everything = (*KERNELS, *DEFERRED_KERNELS, *OWNER_KERNELS, *later)
    assert trained.source_hash() == hash_kernels(*everything)
    variants = ("tiled", "deferred", "owner", "vectored", "masked", "padded")
    assert len({trained.source_hash(Config(variant=variant)) for variant in variants} | {trained.source_hash()}) == 7


def test_the_hash_of_a_kernel_does_not_mind_where_it_is_defined(tmp_path: Path) -> None:
    inside = "class Holder:\n" + textwrap.indent(KERNEL, "    ")
    held = imported(tmp_path, "held", inside).Holder.kernel
    assert hash_kernels(held) == hash_kernels(imported(tmp_path, "original", KERNEL).kernel)


def test_the_hash_covers_every_kernel_of_an_op(tmp_path: Path) -> None:
    module = imported(tmp_path, "two", KERNEL + KERNEL.replace("def kernel", "def other"))
    both = hash_kernels(module.kernel, module.other)
    assert len({both, hash_kernels(module.kernel), hash_kernels(module.other)}) == 3


def test_a_triton_kernel_is_hashed_by_the_function_that_it_wraps() -> None:
    assert hash_kernels(tiled_products) == hash_kernels(tiled_products.fn)


def test_a_built_in_op_is_found_by_its_name() -> None:
    assert load_spec("gemm_scale") is SPEC
    assert load_spec("fusetune.ops.gemm_scale.linear_scale:SPEC") is SPEC


def test_every_built_in_op_loads_under_its_own_name() -> None:
    for name in built_in_ops():
        assert load_spec(name).name == name


USER_SPEC = """
from fusetune.core.space import Space
from fusetune.ops.spec import KernelSpec, Launch, Operand


class Double(KernelSpec):
    name = "double"
    space = Space({"BLOCK": (32, 64)})

    def operands(self, problem):
        return (Operand("x", (problem.n,), "float32"), Operand("y", (problem.n,), "float32", role="output"))

    def launches(self, problem, config, tensors):
        return [Launch(None, (1,), dict(tensors), {"BLOCK": config.BLOCK})]

    def reference(self, problem, inputs):
        return {"y": inputs["x"] * 2}


class Half(KernelSpec):
    name = "half"
    operands, launches = Double.operands, Double.launches


class Unnamed(Double):
    name = "my/../op"


class Nameless(KernelSpec):
    operands, launches, reference = Double.operands, Double.launches, Double.reference


SPEC, HALF, UNNAMED, NAMELESS, NOT_A_SPEC = Double(), Half(), Unnamed(), Nameless(), {"name": "double"}
"""


def test_a_user_s_own_op_comes_in_through_module_and_attribute(folder: Path) -> None:
    (folder / "my_ops.py").write_text(USER_SPEC, encoding="utf-8")
    spec = load_spec("my_ops:SPEC")
    problem = spec.problem({"n": 100})
    assert isinstance(spec, KernelSpec)
    assert spec.baseline(problem) == NamedConfig(BLOCK=32, num_warps=4, num_stages=2)
    tried = spec.candidates(problem, RTX4090, "standard")
    assert tried[0] == spec.baseline(problem)
    assert {config.BLOCK for config in tried} == {32, 64}
    assert {config.num_warps for config in tried} == {1, 2, 4, 8, 16}
    assert len(set(tried)) == len(tried) == 2 * 5 * 5
    tensors = abstract_tensors(spec, problem, tried[0])
    assert tensors == {"x": AbstractTensor((100,), "float32"), "y": AbstractTensor((100,), "float32")}
    (launch,) = spec.launches(problem, NamedConfig(BLOCK=64), tensors)
    assert (launch.arguments, launch.constants, launch.options) == (tensors, {"BLOCK": 64}, {})
    assert spec.bytes(problem) == 800.0
    assert (spec.flops(problem), spec.kind(problem), spec.estimate(tried[0], problem, RTX4090)) == (0.0, None, None)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("gem_scale", r"op 'gem_scale' is not known; use one of: .*\bgemm_scale\b.*, or module:attribute"),
        ("", "op '' is not known"),
        ("my_op:SPEC", "cannot load my_op:SPEC: No module named 'my_op'"),
        ("my_ops:SPECS", "cannot load my_ops:SPECS: module 'my_ops' has no attribute 'SPECS'"),
        ("my_ops:", "cannot load my_ops:"),
        (":SPEC", "op ':SPEC': write it as module:attribute"),
        (".my_ops:SPEC", "op '.my_ops:SPEC': write it as module:attribute"),
        ("my_ops:NOT_A_SPEC", "my_ops:NOT_A_SPEC is not a KernelSpec; derive its class from fusetune.KernelSpec"),
        ("my_ops:HALF", "my_ops:HALF lacks reference; a KernelSpec has at least name, operands, launches, reference"),
        ("my_ops:NAMELESS", "my_ops:NAMELESS lacks name"),
        ("my_ops:UNNAMED", "its name is 'my/../op', and has to be lower-case letters"),
        ("my_ops:Double", r"my_ops:Double is a class; name an instance of it, as in SPEC = Double\(\)"),
        ("broken_imports:SPEC", "No module named 'not_installed_anywhere'"),
    ],
)
def test_an_op_that_cannot_be_loaded_is_a_usage_error_that_says_why(folder: Path, op: str, message: str) -> None:
    (folder / "my_ops.py").write_text(USER_SPEC, encoding="utf-8")
    (folder / "broken_imports.py").write_text("import not_installed_anywhere\n", encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_spec(op)


def test_a_plug_in_is_found_by_its_name_and_cannot_take_a_built_in_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "my_ops.py").write_text(USER_SPEC, encoding="utf-8")

    class Point:
        def __init__(self, name: str) -> None:
            self.name, self.value = name, "my_ops:SPEC"

    def installed(*, group: str) -> list[Point]:
        assert group == "fusetune.ops"
        return [Point("double"), Point("gemm_scale")]

    monkeypatch.setattr(spec_module, "entry_points", installed)
    assert load_spec("double").name == "double"
    assert load_spec("gemm_scale") is SPEC
    with pytest.raises(UsageError, match="use one of: double, gemm_scale, gemm_scale_bn, or"):
        load_spec("triple")


@pytest.mark.parametrize(
    "named",
    ["unasked:SPEC", "unasked", ".unasked:SPEC", "fusetune.ops.gemm_scale.linear_scale:SPEC", "os:name"],
)
def test_a_name_from_a_file_imports_no_module(folder: Path, named: str) -> None:
    (folder / "unasked.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is not known; use one of"):
        spec_named(named)
    assert "unasked" not in sys.modules


def test_a_user_s_own_op_is_known_by_its_name_once_the_user_has_given_it(folder: Path) -> None:
    (folder / "my_ops.py").write_text(USER_SPEC, encoding="utf-8")
    with pytest.raises(UsageError, match="'double' is not known"):
        spec_named("double")
    assert load_spec("my_ops:SPEC") is spec_named("double")


@pytest.mark.parametrize("name", ["../double", "Double", "a/b", "", "double\\n", "d" * 101])
def test_an_op_whose_name_can_name_no_file_is_refused(folder: Path, name: str) -> None:
    (folder / "my_ops.py").write_text(USER_SPEC + f"SPEC.name = '{name}'\n", encoding="utf-8")
    with pytest.raises(UsageError, match="has to be lower-case letters, digits and underscores"):
        load_spec("my_ops:SPEC")


@pytest.mark.parametrize(
    ("shape", "stride"), [((7,), (1,)), ((3, 5), (5, 1)), ((2, 3, 4), (12, 4, 1)), ((1, 1), (1, 1)), ((), ())]
)
def test_an_abstract_tensor_is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    assert AbstractTensor(shape, "float32").stride() == stride


def test_an_operand_counts_its_elements() -> None:
    assert Operand("x", (3, 5, 7), "float16").numel == 105


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operands_of_gemm_scale_have_the_shapes_that_nn_linear_keeps(dtype: Any) -> None:
    problem = make_problem(100, 200, 96, dtype)
    shapes = {operand.name: (operand.shape, operand.role) for operand in SPEC.operands(problem)}
    assert shapes == {
        "x": ((100, 96), "input"),
        "weight": ((200, 96), "input"),
        "bias": ((200,), "input"),
        "scale": ((200,), "input"),
        "y": ((100, 200), "output"),
    }
    assert {operand.dtype for operand in SPEC.operands(problem)} == {dtype}


def test_abstract_tensors_are_there_for_every_operand_with_its_shape_and_dtype() -> None:
    problem = make_problem(100, 200, 96, "bfloat16")
    tensors = abstract_tensors(SPEC, problem, BASELINE)
    assert tensors == {o.name: AbstractTensor(o.shape, "bfloat16") for o in SPEC.operands(problem)}
    assert tensors["weight"].stride() == (96, 1)


def parameters(launch: Launch) -> set[str]:
    return set(inspect.signature(launch.kernel.fn).parameters)


@pytest.mark.parametrize("config", SEED_SPACE.configs(), ids=lambda config: config.label())
def test_a_launch_of_the_seed_s_space_gives_the_kernel_every_argument_once(config: Config) -> None:
    (launch,) = SPEC.launches(PROBLEM, config, abstract_tensors(SPEC, PROBLEM, config))
    assert set(launch.arguments) | set(launch.constants) == parameters(launch)
    assert not set(launch.arguments) & set(launch.constants)
    assert (launch.options["num_warps"], launch.options["num_stages"]) == (config.num_warps, config.num_stages)
    assert launch.grid == (2 * 4,)


@pytest.mark.parametrize(
    "config",
    [Config(BLOCK_M=16, BLOCK_N=256, BLOCK_K=128, GROUP_M=8, num_warps=8, num_stages=4), Config(BLOCK_K=64)],
    ids=lambda config: config.label(),
)
def test_a_launch_carries_the_config_and_the_problem_over(config: Config) -> None:
    (launch,) = SPEC.launches(PROBLEM, config, abstract_tensors(SPEC, PROBLEM, config))
    for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M"):
        assert launch.constants[name] == getattr(config, name)
    assert launch.constants["PRECISION"] == "tf32"
    assert {name: launch.arguments[name] for name in ("M", "N", "K")} == {"M": 100, "N": 200, "K": 96}
    strides = ("stride_xm", "stride_xk", "stride_wn", "stride_wk")
    assert [launch.arguments[name] for name in strides] == [96, 1, 96, 1]
    assert launch.grid == (-(-100 // config.BLOCK_M) * -(-200 // config.BLOCK_N),)


@pytest.mark.parametrize(("block_k", "even"), [(32, True), (64, False), (16, True), (128, False)])
def test_the_mask_along_k_is_left_out_just_where_steps_end_with_k(block_k: int, even: bool) -> None:
    config = Config(BLOCK_K=block_k)
    (launch,) = SPEC.launches(PROBLEM, config, abstract_tensors(SPEC, PROBLEM, config))
    assert launch.constants["EVEN_K"] is even


def test_contraction_into_fma_is_asked_for_whatever_triton_s_default_is() -> None:
    (launch,) = SPEC.launches(PROBLEM, BASELINE, abstract_tensors(SPEC, PROBLEM, BASELINE))
    assert launch.options["enable_fp_fusion"] is True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(variant="stream_k"), "no variant 'stream_k'; use tiled, split_k"),
        (
            Config(SPLIT_K=2),
            "64x64x32 w4 s2 k2: the variants split_k, vectored, persistent, masked and padded can split K",
        ),
        (Config(variant="split_k"), "split_k 64x64x32 w4 s2: split_k needs a SPLIT_K of 2 or more"),
        (Config(variant="library_folded"), "library_folded is for evaluation"),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else "",
)
def test_a_config_that_the_op_cannot_launch_is_refused_with_the_reason(config: Config, message: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=message):
        SPEC.launches(PROBLEM, config, abstract_tensors(SPEC, PROBLEM, config))


def test_gemm_scale_has_no_training_form() -> None:
    with pytest.raises(UnsupportedProblemError, match="gemm_scale has no mode 'train'"):
        SPEC.operands(make_problem(1, 1, 1, "float32", mode="train"))


def test_a_launch_runs_its_kernel_on_its_grid_with_everything_by_name() -> None:
    seen = {}

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda **named: seen.update(grid=grid, **named)

    Launch(Kernel(), (3, 2), {"x_ptr": "x"}, {"BLOCK": 64}, {"num_warps": 8}).run()
    assert seen == {"grid": (3, 2), "x_ptr": "x", "BLOCK": 64, "num_warps": 8}


def test_gemm_scale_offers_the_gemm_space_and_counts_its_work() -> None:
    assert SPEC.space is GEMM_SPACE
    problem = make_problem(3, 5, 7, "float16")
    assert SPEC.flops(problem) == 2 * 3 * 5 * 7 + 2 * 3 * 5
    assert SPEC.bytes(problem) == 2 * (3 * 7 + 5 * 7 + 5 + 5 + 3 * 5)


def test_twins_differ_in_the_order_of_their_tiles_and_in_nothing_else() -> None:
    problem = make_problem(512, 512, 512, "float16")
    config = Config("persistent", 128, 64, 64, GROUP_M=8, num_warps=8, num_stages=3)
    twins = SPEC.twins(problem, config)
    assert SPEC.twins(problem, structs.replace(config, GROUP_M=4)) == twins
    for change in ({"BLOCK_M": 64}, {"num_stages": 4}, {"num_warps": 4}, {"SPLIT_K": 2}, {"variant": "tiled"}):
        assert SPEC.twins(problem, structs.replace(config, **change)) != twins
