"""The text of exported modules: order, contents, and launches like the library's own."""

from __future__ import annotations

import ast
import contextlib
import functools
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import find_target
from fusetune.errors import UsageError
from fusetune.nn.export.module import export_module
from fusetune.ops.gemm_scale.batch_norm import SPEC as BATCH_NORM
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.space import holds_columns
from fusetune.ops.loading import load_spec
from fusetune.store.schema import ConfigFile
from fusetune.store.yaml_files import dump_config_file
from tests.support.gemm_scale import handed_out
from tests.support.gemm_scale.exporting import (
    CONFIGS,
    JOINED,
    JOINED_COLUMNS,
    MASKED,
    OPS,
    PADDED,
    PADDED_JOINED,
    PADDED_SPLIT,
    PERSISTENT,
    PERSISTENT_JOINED,
    PERSISTENT_SPLIT,
    SPLIT,
    TILED,
    dtype_of,
    exported,
    in_mode,
    modes_of,
)
from tests.unit.gate.test_gate import kept

H200 = find_target("h200")
RTX_4090 = find_target("rtx4090")
MISSING_IN_TRITON = ("tl.tanh", "tl.sigmoid", "tl.gelu", "tl.silu", "tl.softmax", "tl.mish")
everything = pytest.mark.parametrize(("op", "label"), [(op, label) for op in OPS for label in CONFIGS])


def decorators(node: ast.FunctionDef) -> list[str]:
    return [ast.unparse(one).partition("(")[0] for one in node.decorator_list]


@everything
def test_a_module_has_imports_kernels_wrappers_and_modelnew_in_this_order_and_nothing_else(op: str, label: str) -> None:
    kinds = []
    for node in ast.parse(exported(op, CONFIGS[label], H200)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            kinds.append("import")
        elif isinstance(node, ast.FunctionDef):
            kinds.append("kernel" if "triton.jit" in decorators(node) else "wrapper")
        else:
            assert isinstance(node, ast.ClassDef), ast.unparse(node)
            assert (node.name, ast.unparse(node.bases[0])) == ("ModelNew", "nn.Module")
            kinds.append("model")
    order = ["import", "kernel", "wrapper", "model"]
    assert kinds == sorted(kinds, key=order.index)
    assert set(kinds) == set(order)
    assert kinds.count("model") == 1


@everything
def test_a_module_has_no_test_code_and_nothing_that_triton_lacks(op: str, label: str) -> None:
    text = exported(op, CONFIGS[label], H200)
    for forbidden in (*MISSING_IN_TRITON, "__name__", "get_inputs", "get_init_inputs", "fusetune.", "constexpr_"):
        assert forbidden not in text
    first = [line for line in text.splitlines() if line.startswith(("import", "from"))][:4]
    assert first == ["import torch", "import torch.nn as nn", "import triton", "import triton.language as tl"]


@everything
def test_a_module_is_formatted_and_leaves_no_decided_branch_or_unused_name(op: str, label: str) -> None:
    import black

    text = exported(op, CONFIGS[label], H200)
    # The kernel that copies rows has a variable of this name, which is no constant of a launch.
    decided = text.replace("PARTS: tl.constexpr = COLUMNS // UNIT", "").replace("(ROWS, PARTS, UNIT)", "")
    decided = decided.replace("tl.arange(0, PARTS)", "")
    assert black.format_str(text, mode=black.Mode(line_length=100)) == text
    assert max(map(len, text.splitlines())) <= 100
    for leftover in (
        "EPILOGUE",
        "COUNTER",
        "PRECISION",
        "JOINS",
        "given",
        "FOLDS",
        "PARTS",
        "noqa",
        "type: ignore",
        "fmt:",
    ):
        assert leftover not in decided, leftover
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.If | ast.Compare) and isinstance(getattr(node, "test", node), ast.Compare):
            compared = getattr(node, "test", node)
            assert not isinstance(compared.left, ast.Constant), ast.unparse(node)
    kernels = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    for kernel in kernels:
        used = {node.id for one in kernel.body for node in ast.walk(one) if isinstance(node, ast.Name)}
        assert {one.arg for one in kernel.args.args} <= used, kernel.name


@pytest.mark.parametrize(
    ("dtype", "precision", "told"),
    [
        ("float32", "ieee", 'input_precision="ieee"'),
        ("float32", "bf16x3", 'input_precision="bf16x3"'),
        ("float16", None, 'torch.float16"'),
        ("bfloat16", None, "tuned for bfloat16"),
    ],
)
def test_every_way_to_multiply_is_exported_as_it_is_asked_for(dtype: Any, precision: Any, told: str) -> None:
    problem = make_problem(128, 512, 1024, dtype, precision)
    for spec in (SPEC, BATCH_NORM):
        text = export_module(spec, problem, H200, [])
        assert told.strip('"') in text
        assert "rounded_to_tf32" not in text, "only tf32 is rounded"
    # What is multiplied exactly is not folded into one factor: a large mean is subtracted first.
    exact = precision == "ieee"
    assert ("tl.rsqrt" in text, "gamma / tl.sqrt_rn(var + eps)" in text) == (not exact, exact)


def test_for_an_older_gpu_nothing_is_left_of_what_only_a_newer_one_has() -> None:
    text = exported("gemm_scale", TILED, RTX_4090)
    for newer in ("launch_pdl", "OVERLAPS", "gdc_wait", "TensorDescriptor"):
        assert newer not in text
    assert "gdc_wait" in exported("gemm_scale", TILED, H200)
    assert "TensorDescriptor" in exported("gemm_scale", PERSISTENT, H200)


class Recorder:
    """Stands for a kernel and notes how it is launched."""

    def __init__(self, name: str, launched: list[Any]) -> None:
        self._name, self._launched = name, launched

    def __getitem__(self, grid: Any) -> Any:
        def launch(*arguments: Any, **named: Any) -> None:
            self._launched.append((grid, [a for a in arguments if isinstance(a, int | float)], named))

        return launch


@everything
@pytest.mark.parametrize("rows", [48, 33, 1024])
def test_for_any_number_of_rows_the_wrappers_launch_as_the_library_does(
    op: str, label: str, rows: int, tmp_path: Path
) -> None:
    K, N = 96, 80
    spec = load_spec(op)
    path = tmp_path / "exported.py"
    path.write_text(exported(op, CONFIGS[label], H200))
    namespace = runpy.run_path(str(path))
    wrappers = {name: value for name, value in namespace.items() if name.startswith("fused_") and callable(value)}
    launched: list[Any] = []
    globals_of_module = namespace["ModelNew"].forward.__globals__
    for name in [name for name in namespace if name.endswith("_kernel")]:
        globals_of_module[name] = Recorder(name, launched)
    dtype = dtype_of(CONFIGS[label])
    ones = functools.partial(torch.ones, dtype=getattr(torch, dtype))
    x, weight = ones(rows, K), ones(N, K)
    vectors = {name: ones(N) for name in ("bias", "scale", "gamma", "beta", "running_mean", "running_var")}
    tracked = torch.zeros((), dtype=torch.int64)
    for mode in modes_of(op):
        config = in_mode(CONFIGS[label], mode)
        tuned = make_problem(48, N, K, dtype, mode=mode)
        if holds_columns(config, tuned) and rows > config.BLOCK_M:
            continue  # It says so and launches nothing.
        if mode == "train" and config.SPLIT_K > 1 and rows > 128:
            continue  # One program normalizes whole columns there; a sweep has no such candidate.
        problem = make_problem(rows, N, K, dtype, mode=mode)
        tensors = {"x": x, "weight": weight, **vectors, "y": ones(rows, N), "num_batches_tracked": tracked}
        for operand in spec.workspace(problem, config):
            tensors[operand.name] = torch.ones(operand.shape)
        counter = "count" if mode == "train" else "none"
        ending = mode or "scale"
        wanted = gemm_launches(problem, config, tensors, ending, eps=1e-5, momentum=0.1, counter=counter)
        launched.clear()
        if mode is None:
            wrappers["fused_gemm_scale"](x, weight, vectors["bias"], vectors["scale"])
        elif mode == "eval":
            wrappers["fused_gemm_scale_bn_eval"](x, weight, *vectors.values(), 1e-5)
        else:
            wrappers["fused_gemm_scale_bn_train"](x, weight, *vectors.values(), tracked, 0.1, 1e-5)
        assert len(launched) == len(wanted)
        for (grid, _, named), launch in zip(launched, wanted, strict=True):
            assert grid == launch.grid
            options = {"num_warps": launch.options["num_warps"], "num_stages": launch.options["num_stages"]}
            constants = {name: value for name, value in launch.constants.items() if name in named}
            assert named == {**constants, **options}


def test_what_copies_rows_for_the_copy_engine_takes_them_of_any_strides_and_says_what_it_does() -> None:
    for op in OPS:
        for config in (PADDED, PADDED_SPLIT, PADDED_JOINED):
            text = exported(op, config, H200)
            assert "for_copy_engine" not in text
            assert "whole 16 bytes" not in text
            found = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
            told = {name: " ".join(str(ast.get_docstring(node)).split()) for name, node in found.items()}
            assert told["padded_rows_kernel"].startswith("X and W with rows of a whole number of UNIT elements")
            assert text.count("padded_rows_kernel[grid]") == len(modes_of(op)), "each mode copies"
            walks = [name for name, doc in told.items() if "copies of x and weight whose rows begin on 128" in doc]
            assert bool(walks) == (config != PADDED_JOINED)
            assert all(not name.startswith(("padded", "finish", "normalize")) for name in walks)
        assert "for_copy_engine" in exported(op, MASKED, H200)


# --- summands that the last program at a tile joins


def kernels_of(text: str) -> list[str]:
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) if "_kernel" in node.name]


@pytest.mark.parametrize(
    ("config", "joined"),
    [
        (JOINED_COLUMNS, True),
        (PERSISTENT_JOINED, True),
        (PADDED_JOINED, True),
        (SPLIT, False),
        (PERSISTENT_SPLIT, False),
        (PADDED_SPLIT, False),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else "",
)
def test_few_summands_take_one_kernel_and_many_two(config: Config, joined: bool) -> None:
    scale = ["fused_gemm_scale_kernel"] if joined else ["gemm_share_scale_kernel", "finish_split_scale_kernel"]
    text = exported("gemm_scale", config, H200)
    assert kernels_of(text) == (["padded_rows_kernel", *scale] if config.pads else scale)
    assert ("the last one there adds them up, in order" in " ".join(text.split())) == joined


def test_a_mode_whose_tiles_are_no_whole_columns_has_two_kernels_beside_the_other_s_one() -> None:
    assert kernels_of(exported("gemm_scale_bn", JOINED, H200)) == [
        "gemm_share_train_kernel",
        "finish_split_train_kernel",
        "fused_gemm_scale_bn_eval_kernel",
    ]


@pytest.mark.parametrize("config", [TILED, PERSISTENT, SPLIT, PERSISTENT_SPLIT])
def test_where_nothing_is_joined_nothing_counts_arrivals(config: Config) -> None:
    for op in OPS:
        assert "arrivals" not in exported(op, config, H200)


@pytest.mark.parametrize("config", [JOINED_COLUMNS, PERSISTENT_JOINED])
def test_in_training_joined_columns_refuse_more_rows_than_a_tile_has(config: Config, tmp_path: Path) -> None:
    namespace = loaded(exported("gemm_scale_bn", config, H200), tmp_path)
    vectors = [torch.ones(80)] * 6
    with pytest.raises(ValueError, match="at most 64 rows, got 65"):
        namespace["fused_gemm_scale_bn_train"](
            torch.ones(65, 96), torch.ones(80, 96), *vectors, torch.zeros((), dtype=torch.int64), 0.1, 1e-5
        )


def loaded(text: str, folder: Path) -> dict[str, Any]:
    path = folder / "exported.py"
    path.write_text(text)
    return runpy.run_path(str(path))


@pytest.fixture
def arrivals_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module's own function, asked from CUDA stream `stream`, within a graph's capture or not."""
    function = loaded(exported("gemm_scale", JOINED, H200), tmp_path)["arrivals_of"]
    # Lies on a GPU, as far as the function can tell.
    x = SimpleNamespace(is_cuda=True, device=torch.device("cpu"))

    def ask(tiles: int, *, stream: int = 0, captured: bool = False) -> torch.Tensor:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=stream))
        counts: torch.Tensor = function(x, tiles)
        assert (counts.dtype, counts.numel() >= tiles, int(counts.abs().sum())) == (torch.int32, True, 0)
        return counts

    return ask


def test_a_stream_counts_in_the_same_place_from_call_to_call(arrivals_of: Any) -> None:
    first = arrivals_of(6)
    assert arrivals_of(6) is first
    assert arrivals_of(2) is first


def test_more_tiles_than_before_get_more_counts_which_are_kept_in_turn(arrivals_of: Any) -> None:
    small = arrivals_of(6)
    large = arrivals_of(7)
    assert large is not small
    assert arrivals_of(6) is large


def test_two_streams_share_no_counts(arrivals_of: Any) -> None:
    one, other = arrivals_of(6, stream=1), arrivals_of(6, stream=2)
    assert one is not other
    assert arrivals_of(6, stream=1) is one


def test_a_captured_graph_has_counts_of_its_own_and_leaves_those_of_calls_alone(arrivals_of: Any) -> None:
    kept = arrivals_of(6)
    captured = [arrivals_of(6, captured=True) for _ in range(2)]
    assert len({id(one) for one in (kept, *captured)}) == 3
    assert arrivals_of(6) is kept


def test_autotuned_a_module_tries_at_most_three_configs_and_baseline_is_one_of_them() -> None:
    text = exported("gemm_scale", TILED, H200, autotune=True)
    assert text.count("triton.Config(") == 2
    assert '{"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 1}, num_warps=4, num_stages=2' in text
    assert 'key=["M", "N", "K"]' in text
    both = exported("gemm_scale_bn", TILED, H200, autotune=True)
    assert both.count("@triton.autotune") == 1, "training changes the running statistics and is left fixed"


@pytest.mark.parametrize(
    ("config", "told"),
    [(PERSISTENT, "BASELINE is another kernel than persistent"), (BASELINE, "BASELINE is all there is")],
)
def test_where_there_is_nothing_to_choose_between_autotune_is_refused(config: Config, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        exported("gemm_scale", config, H200, autotune=True)


def test_tensors_on_another_gpu_than_the_current_one_are_computed_there(tmp_path: Path, monkeypatch: Any) -> None:
    module = handed_out.loaded(tmp_path / "on_another.py", exported("gemm_scale", TILED, H200))
    entered: list[Any] = []

    @contextlib.contextmanager
    def device(wanted: Any) -> Iterator[None]:
        entered.append(wanted)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: wanted.index)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    launched: list[Any] = []
    monkeypatch.setattr(module, "fused_gemm_scale_kernel", Recorder("kernel", launched))
    operands = [handed_out.OnGpu.of(*shape, dtype=torch.float32) for shape in ((48, 96), (80, 96), (80,), (80,))]
    with handed_out.gpu(H200):
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        module.fused_gemm_scale(*operands)
    assert entered == [operands[0].device]
    assert len(launched) == 1


# --- configs from files


def roots_with(tmp_path: Any, **changes: Any) -> list[Any]:
    identity = TargetIdentity(H200.name, H200.capability, H200.sms)
    file = ConfigFile(schema=2, op="gemm_scale", target=identity, entries=(kept(**changes),))
    path = tmp_path / "nvidia-h200" / "gemm_scale.yaml"
    path.parent.mkdir()
    path.write_text(dump_config_file(file))
    return [tmp_path]


def test_the_config_of_a_file_is_exported_with_its_evidence_in_the_header(tmp_path: Any) -> None:
    text = export_module(SPEC, make_problem(128, 512, 1024, "float32"), H200, roots_with(tmp_path))
    assert "BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M = 64, 16, 128, 1" in text
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for figure in ("10.0 us", "20.0 us", "+50.0 %", "run 20260", "NVIDIA H200", "2026-11-23"):
        assert figure.replace("run 20260", "run 20261123T101500-3f9a") in comments


def test_without_a_fitting_entry_baseline_is_exported_and_the_header_says_so(tmp_path: Any) -> None:
    stale = Environment(triton="3.7.1", kernel_hash="0" * 16)
    roots = roots_with(tmp_path, environment=stale)
    text = export_module(SPEC, make_problem(128, 512, 1024, "float32"), H200, roots)
    assert "BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M = 64, 64, 32, 1" in text
    assert "no tuned config fits this problem" in " ".join(text.replace("# ", "").split())


def test_a_library_that_won_cannot_be_exported(tmp_path: Any) -> None:
    roots = roots_with(tmp_path, config=Config(variant="library"), reason="library_gain_confirmed")
    with pytest.raises(UsageError, match="a library won for M=128"):
        export_module(SPEC, make_problem(128, 512, 1024, "float32"), H200, roots)


def test_both_modes_are_exported_whatever_mode_was_asked_for() -> None:
    text = export_module(BATCH_NORM, make_problem(128, 512, 1024, "float16", mode="eval"), RTX_4090, [])
    assert "def fused_gemm_scale_bn_train(" in text
    assert "def fused_gemm_scale_bn_eval(" in text
    assert "torch.float16" in text
