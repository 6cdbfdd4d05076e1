"""From a Config to launches: which kernels, on which grid, with what beside the operands."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusetune.core.target import Target, find_target
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.device import Gpu, gpu_of
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.endings import finish_split, moments_of_rows, normalize_columns
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.owner import normalize_owned_columns
from fusetune.ops.gemm_scale.problem import DTYPES, Problem, make_problem
from fusetune.ops.gemm_scale.space import OWNED_ROWS
from fusetune.ops.gemm_scale.tiles import joined_products, persistent_products, tiled_products
from fusetune.ops.spec import (
    AbstractTensor,
    Call,
    KernelSpec,
    Launch,
    TileDescriptor,
    abstract_tensors,
    round_in_copies,
)

RTX_4090, H200 = find_target("rtx4090"), find_target("h200")
SPLIT_K = Config("split_k", 64, 64, 64, SPLIT_K=8)
JOINED = Config("split_k", 32, 32, 64, SPLIT_K=4)
JOINED_WHOLE = Config("split_k", 128, 16, 64, SPLIT_K=2)
WHOLE = Config(BLOCK_M=128, BLOCK_N=16, BLOCK_K=64)
PERSISTENT = Config("persistent", 64, 128, 32, num_stages=3)
PERSISTENT_WHOLE = Config("persistent", 128, 64, 32, num_stages=3)
REREAD = Config("reread", 64, 128, 32, num_stages=3)
OWNER = Config("owner", 64, 128, 32, num_stages=3)
PERSISTENT_SPLIT = Config("persistent", 64, 128, 64, SPLIT_K=4, num_stages=3)
PERSISTENT_JOINED = Config("persistent", 32, 64, 64, SPLIT_K=2, num_stages=3)
PERSISTENT_JOINED_WHOLE = Config("persistent", 128, 16, 64, SPLIT_K=2, num_stages=3)
JOINING = (JOINED, JOINED_WHOLE, PERSISTENT_JOINED, PERSISTENT_JOINED_WHOLE)
CASES = [
    (mode, config)
    for mode in (None, "train", "eval")
    for config in (BASELINE, SPLIT_K, WHOLE, PERSISTENT, PERSISTENT_WHOLE, PERSISTENT_SPLIT, *JOINING)
]
CASES += [("train", REREAD), ("train", OWNER)]
each_case = pytest.mark.parametrize(
    ("mode", "config"), CASES, ids=[f"{mode or 'plain'} {config.label()}" for mode, config in CASES]
)


def _spec(problem: Problem) -> KernelSpec:
    return WITH_BN if problem.mode else PLAIN


def _launches(problem: Problem, config: Config, target: Target | None = None) -> list[Launch]:
    spec = _spec(problem)
    found = list(spec.launches(problem, config, abstract_tensors(spec, problem, config, target)))
    assert all(isinstance(launch, Launch) for launch in found)
    return found  # type: ignore[return-value]


def _problem(mode: Any, M: int = 100) -> Problem:
    return make_problem(M, 200, 512, "float32", mode=mode)


@each_case
def test_every_launch_gives_its_kernel_every_argument_once(mode: Any, config: Config) -> None:
    for launch in _launches(_problem(mode), config):
        assert set(launch.arguments) | set(launch.constants) == set(inspect.signature(launch.kernel.fn).parameters)
        assert not set(launch.arguments) & set(launch.constants)


@each_case
def test_there_is_a_second_kernel_only_where_a_cta_does_not_see_all_it_needs(mode: Any, config: Config) -> None:
    kernels = [launch.kernel for launch in _launches(_problem(mode), config)]
    first = persistent_products if config.is_walking else tiled_products
    joins = config in JOINING and (mode != "train" or config in (JOINED_WHOLE, PERSISTENT_JOINED_WHOLE))
    if joins:
        assert kernels == [joined_products if config.variant == "persistent" else tiled_products]
    elif config.SPLIT_K > 1:
        assert kernels == [first, finish_split]
    elif config == REREAD:
        assert kernels == [first, moments_of_rows, normalize_columns]
    elif config == OWNER:
        assert kernels == [first, normalize_owned_columns]
    elif mode == "train" and config in (BASELINE, PERSISTENT):
        assert kernels == [first, normalize_columns]
    else:
        assert kernels == [first]


@pytest.mark.parametrize("variant", ["tiled", "persistent"])
@pytest.mark.parametrize(
    ("M", "kernels", "epilogue"), [(2, 1, "columns"), (64, 1, "columns"), (65, 2, "statistics"), (128, 2, "statistics")]
)
def test_training_takes_one_kernel_just_where_a_tile_holds_all_rows(
    variant: str, M: int, kernels: int, epilogue: str
) -> None:
    first, *second = _launches(_problem("train", M), Config(variant, num_stages=3))
    assert 1 + len(second) == kernels
    assert first.constants["EPILOGUE"] == epilogue


@each_case
@pytest.mark.parametrize(("target", "overlap"), [(RTX_4090, False), (H200, True), (None, False)])
def test_each_kernel_is_launched_early_and_waits_just_where_the_gpu_can(
    mode: Any, config: Config, target: Target | None, overlap: bool
) -> None:
    for launch in _launches(_problem(mode), config, target):
        assert launch.constants["OVERLAPS"] is overlap
        late = launch.kernel in (moments_of_rows, normalize_owned_columns)
        assert launch.options.get("launch_pdl", False) is (overlap and not late)


def test_the_first_kernel_has_the_config_s_warps_and_stages() -> None:
    for rows in (32, 128):
        config = Config("split_k", rows, 32, 64, SPLIT_K=8, num_warps=8, num_stages=4)
        first, *_ = _launches(_problem(None), config)
        assert (first.options["num_warps"], first.options["num_stages"]) == (8, 4)
        assert first.grid == (-(-100 // rows) * 7, 8)


@pytest.mark.parametrize(("M", "ctas"), [(65, 2 * 2), (64 * 5000, 132 * 2)])
def test_persistent_ctas_are_as_many_as_run_at_once_and_never_more_than_tiles(M: int, ctas: int) -> None:
    (launch,) = _launches(make_problem(M, 200, 512, "float16"), PERSISTENT, H200)
    assert launch.grid == (ctas,)


def test_persistent_reads_and_writes_through_descriptors_of_its_tiles() -> None:
    (launch,) = _launches(_problem(None), PERSISTENT, H200)
    parts = launch.constants["PARTS"]
    assert _blocks(launch) == {"x_desc": (64, 32), "w_desc": (128, 32), "y_desc": (64, 128 // parts)}


def _blocks(launch: Launch) -> dict[str, tuple[int, ...]]:
    found = launch.arguments.items()
    return {name: value.block_shape for name, value in found if isinstance(value, TileDescriptor)}


@pytest.mark.parametrize("mode", [None, "train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_persistent_ctas_that_share_k_write_float32_summands_one_beside_the_other(mode: Any, dtype: Any) -> None:
    problem = make_problem(100, 200, 512, dtype, mode=mode)
    first, second = _launches(problem, PERSISTENT_SPLIT, H200)
    written = first.arguments["y_desc"]
    assert (written.tensor.shape, written.tensor.dtype) == ((4, 100, 200), "float32")
    assert _blocks(first)["y_desc"] == (1, 64, 128 // first.constants["PARTS"])
    assert second.arguments["partial_ptr"] is written.tensor
    assert (first.constants["SPLIT_K"], first.constants["EPILOGUE"]) == (4, "partial")
    assert first.grid == (2 * 2 * 4,)


@pytest.mark.parametrize("mode", [None, "train", "eval"])
@pytest.mark.parametrize("config", JOINING, ids=Config.label)
def test_the_last_cta_at_a_tile_of_few_summands_has_all_it_needs_to_finish_it(mode: Any, config: Config) -> None:
    problem = _problem(mode)
    if mode == "train" and config.BLOCK_M < problem.M:
        assert len(_launches(problem, config, H200)) == 2
        return
    (launch,) = _launches(problem, config, H200)
    tiles = -(-100 // config.BLOCK_M) * -(-200 // config.BLOCK_N)
    assert launch.grid == (tiles, config.SPLIT_K)
    partial, arrivals = launch.arguments["partial_ptr"], launch.arguments["arrivals_ptr"]
    assert partial.shape == (tiles, config.SPLIT_K, config.BLOCK_M, config.BLOCK_N)
    assert (arrivals.shape, arrivals.dtype) == ((tiles,), "int32")
    assert launch.arguments["y_ptr"].shape == (100, 200)
    assert launch.constants["EPILOGUE"] == {None: "scale", "train": "columns", "eval": "eval_folded"}[mode]


def test_more_persistent_ctas_than_run_at_once_are_not_launched_to_share_k() -> None:
    first, _ = _launches(make_problem(64 * 50, 200, 512, "float16"), PERSISTENT_SPLIT, H200)
    assert first.kernel is persistent_products
    assert first.grid[0] < 100 * 2 * 4
    assert first.grid[0] in (132, 2 * 132)


def test_the_second_kernel_of_training_covers_every_row_once() -> None:
    for M in (17, 31, 100, 1024, 16384, 70001):
        _, second = _launches(_problem("train", M), Config(BLOCK_M=16) if M <= 64 else BASELINE)
        rows = second.arguments["rows_per_cta"]
        assert (second.grid[1] - 1) * rows < M <= second.grid[1] * rows
        assert second.grid[1] <= 16
        assert rows % second.constants["ROWS"] == 0


@pytest.mark.parametrize("config", [SPLIT_K, PERSISTENT_SPLIT], ids=Config.label)
def test_training_with_k_split_holds_whole_columns_in_the_second_kernel(config: Config) -> None:
    for M in (2, 31, 100, 256):
        _, second = _launches(_problem("train", M), config)
        assert second.grid[1] == 1
        assert second.constants["ROWS"] >= M


@each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_workspace_is_float32_and_of_the_size_that_the_kernels_write(mode: Any, config: Config, dtype: Any) -> None:
    problem = make_problem(100, 200, 512, dtype, mode=mode)
    if config in JOINING:
        problem = make_problem(200, 200, 512, dtype, mode=mode)  # too many rows for whole columns
    found = {operand.name: operand.shape for operand in _spec(problem).workspace(problem, config)}
    expected: dict[str, tuple[int, ...]] = {}
    if config in JOINING and mode != "train":
        tiles = -(-200 // config.BLOCK_M) * -(-200 // config.BLOCK_N)
        expected = {"partial": (tiles, config.SPLIT_K, config.BLOCK_M, config.BLOCK_N), "arrivals": (tiles,)}
    elif config.SPLIT_K > 1:
        expected = {"partial": (config.SPLIT_K, problem.M, 200)}
    elif mode == "train" and config in (BASELINE, PERSISTENT, REREAD):
        expected = {"moments": (2, 1 if config == REREAD else 2, 200)}
    assert found == expected
    for operand in _spec(problem).workspace(problem, config):
        assert (operand.dtype, operand.role) == (
            ("int32", "counter") if operand.name == "arrivals" else ("float32", "output")
        )


def test_abstract_tensors_hold_the_workspace_and_know_their_gpu() -> None:
    problem = _problem("train")
    tensors = abstract_tensors(WITH_BN, problem, SPLIT_K, H200)
    assert tensors["partial"] == AbstractTensor((8, 100, 200), "float32", Gpu(90, 132))
    assert {gpu_of(tensor) for tensor in tensors.values()} == {Gpu(90, 132)}
    assert "partial" not in abstract_tensors(WITH_BN, problem, BASELINE, H200)


@pytest.mark.parametrize(
    ("mode", "config", "message"),
    [
        (
            "train",
            Config("columns", 128),
            "no variant 'columns'; use tiled, split_k, vectored, persistent, masked, padded, reread, owner, deferred, ",
        ),
        (
            "train",
            Config(SPLIT_K=2),
            "64x64x32 w4 s2 k2: the variants split_k, vectored, persistent, masked and padded can split K",
        ),
        (None, REREAD, "reread is for training: nothing else takes moments"),
        ("eval", OWNER, "owner is for training: nothing else takes moments"),
        ("eval", Config("split_k"), "split_k 64x64x32 w4 s2: split_k needs a SPLIT_K of 2 or more"),
    ],
)
def test_a_config_that_cannot_be_launched_is_refused(mode: Any, config: Config, message: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=message):
        _launches(_problem(mode), config)


@pytest.mark.parametrize("counter", ["none", "count", "average"])
@pytest.mark.parametrize("config", [config for mode, config in CASES if mode == "train"], ids=Config.label)
def test_only_counting_reads_the_number_of_batches(config: Config, counter: Any) -> None:
    problem = _problem("train")
    tensors: dict[str, Any] = abstract_tensors(WITH_BN, problem, config)
    tracked = tensors["num_batches_tracked"] = object()
    last = gemm_launches(problem, config, tensors, "train", momentum=0.25, counter=counter)[-1]
    assert isinstance(last, Launch)
    assert (last.arguments["tracked_ptr"] is tracked) is (counter != "none")
    assert (last.constants["COUNTER"], last.arguments["momentum"]) == (counter, 0.25)


def test_training_changes_the_running_statistics_and_evaluation_reads_them() -> None:
    for mode, role in (("train", "state"), ("eval", "input")):
        roles = {operand.name: operand.role for operand in WITH_BN.operands(_problem(mode))}
        assert roles == {
            **dict.fromkeys(("x", "weight", "bias", "scale", "gamma", "beta"), "input"),
            "running_mean": role,
            "running_var": role,
            "y": "output",
        }


def test_one_row_is_refused_for_training_as_pytorch_refuses_it() -> None:
    with pytest.raises(UnsupportedProblemError, match="more than one row"):
        WITH_BN.operands(_problem("train", M=1))
    assert WITH_BN.operands(_problem("eval", M=1))[0].shape == (1, 512)


def test_batch_norm_without_a_mode_is_refused() -> None:
    with pytest.raises(UnsupportedProblemError, match="gemm_scale_bn has a mode: train or eval"):
        WITH_BN.operands(_problem(None))


def test_batch_norm_moves_its_states_twice() -> None:
    evaluated, trained = (WITH_BN.bytes(make_problem(3, 5, 7, "float16", mode=mode)) for mode in ("eval", "train"))
    assert evaluated == 2 * (3 * 7 + 5 * 7 + 6 * 5 + 3 * 5)
    assert trained == evaluated + 2 * 2 * 5


@pytest.mark.parametrize(
    ("dtype", "precision", "rounds"),
    [("float32", "tf32", True), ("float32", "tf32x3", False), ("float32", "ieee", False), ("float16", None, False)],
)
@pytest.mark.parametrize("split", [1, 4, 8])
def test_the_copy_engine_rounds_what_is_read_as_tf32_and_never_what_is_written(
    dtype: Any, precision: Any, rounds: bool, split: int
) -> None:
    problem, config = make_problem(1024, 512, 256, dtype, precision), Config("persistent", SPLIT_K=split, num_stages=3)
    first, *_ = gemm_launches(problem, config, abstract_tensors(PLAIN, problem, config, H200), "scale")
    assert isinstance(first, Launch)
    descriptors = {name: value.rounds for name, value in first.arguments.items() if isinstance(value, TileDescriptor)}
    assert descriptors == {"x_desc": rounds, "w_desc": rounds} | (
        {"y_desc": False} if first.kernel is persistent_products else {}
    )


def test_triton_3_6_is_told_to_round_through_the_kernel_s_metadata() -> None:
    told = SimpleNamespace(metadata=SimpleNamespace(tensordesc_meta=[{"elem_type": 7}, {"elem_type": 7}]))
    round_in_copies(told, [TileDescriptor(None, (64, 32), rounds=True), TileDescriptor(None, (64, 64))])
    assert told.metadata.tensordesc_meta == [{"elem_type": 11}, {"elem_type": 7}]
    with pytest.raises(ValueError, match="zip"):
        round_in_copies(told, [])


def test_folded_weights_are_the_library_s_alone_and_for_evaluation() -> None:
    problem = make_problem(128, 512, 1024, "float32", mode="eval")
    folded = Config(variant="library_folded")
    spec = WITH_BN
    (call,) = spec.launches(problem, folded, abstract_tensors(spec, problem, folded))
    assert isinstance(call, Call)
    assert spec.workspace(problem, folded) == ()
    modes: tuple[Any, ...] = ("train", None)
    for mode in modes:
        other = make_problem(128, 512, 1024, "float32", mode=mode)
        op = _spec(other)
        with pytest.raises(UnsupportedProblemError, match="library_folded is for evaluation"):
            op.launches(other, folded, abstract_tensors(op, other, folded))


@pytest.mark.parametrize(("precision", "tf32"), [("tf32", True), ("ieee", False), ("tf32x3", False), ("bf16x3", False)])
def test_the_library_multiplies_in_full_float32_unless_tf32_is_asked_for(precision: Any, tf32: bool) -> None:
    problem = make_problem(128, 512, 1024, "float32", precision, mode="eval")
    for config in WITH_BN.references(problem):
        call, *_ = WITH_BN.launches(problem, config, abstract_tensors(WITH_BN, problem, config))
        assert call.arguments["tf32"] is tf32


def test_triton_3_6_is_told_once_for_each_specialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __init__(self) -> None:
            self.warmed: list[int] = []

        def warmup(self, *, grid: Any, M: int, **_: Any) -> Any:
            self.warmed.append(M)
            return SimpleNamespace(metadata=SimpleNamespace(tensordesc_meta=[{"elem_type": 7}]))

        def __getitem__(self, grid: Any) -> Any:
            return lambda **_: "launched"

    monkeypatch.setattr("fusetune.ops.spec.rounds_in_descriptor", lambda: False)
    kernel, x = Kernel(), torch.zeros(64, 32)
    for rows in (64, 64, 32):
        descriptor = TileDescriptor(x, (64, 32), rounds=True)
        assert Launch(kernel, (1,), {"x_desc": descriptor, "M": rows}, {"BLOCK": 64}).run() == "launched"
    assert kernel.warmed == [64, 32]
    Launch(kernel, (1,), {"x_desc": TileDescriptor(x, (64, 32)), "M": 8}, {"BLOCK": 64}).run()
    assert kernel.warmed == [64, 32]


@pytest.mark.parametrize(
    ("M", "rows"), [(2, 128), (1024, 128), (2048, 256), (4096, 256), (16384, 1024), (1 << 20, 8192)]
)
def test_whoever_reads_y_again_takes_moments_of_an_eighth_to_a_sixteenth_of_the_rows(M: int, rows: int) -> None:
    problem = make_problem(M, 200, 512, "float16", mode="train")
    for config in (REREAD, *([Config("library")] if M > OWNED_ROWS else [])):
        launches = WITH_BN.launches(problem, config, abstract_tensors(WITH_BN, problem, config, H200))
        moments, normalized = (launch for launch in launches[1:] if isinstance(launch, Launch))
        assert moments.constants["TILE_M"] == normalized.constants["TILE_M"] == rows
        assert moments.grid[1] == -(-M // rows)
        assert {operand.name: operand.shape for operand in WITH_BN.workspace(problem, config)} == {
            "moments": (2, -(-M // rows), 200)
        }


@pytest.mark.parametrize("config", [OWNER, Config("library")], ids=Config.label)
@pytest.mark.parametrize(("M", "even"), [(2, False), (1000, False), (2048, True)])
@pytest.mark.parametrize(("N", "columns", "stages"), [(200, 16, 5), (2112, 16, 5), (2113, 32, 3)])
def test_one_kernel_follows_where_ctas_own_columns_and_nothing_passes_between_them(
    config: Config, M: int, even: bool, N: int, columns: int, stages: int
) -> None:
    """Few columns a CTA while an SM is left for each."""
    problem = make_problem(M, N, 512, "float16", mode="train")
    assert WITH_BN.workspace(problem, config) == ()
    launches = WITH_BN.launches(problem, config, abstract_tensors(WITH_BN, problem, config, H200))
    (owned,) = (launch for launch in launches[1:] if isinstance(launch, Launch))
    assert owned.kernel is normalize_owned_columns
    assert owned.grid == (-(-N // columns),)
    taken = [owned.constants[name] for name in ("COLUMNS", "STAGES", "EVEN_ROWS")]
    assert taken == [columns, stages, even]


@pytest.mark.parametrize(("dtype", "columns"), [("float16", 128), ("float32", 64)])
def test_the_last_kernel_reads_256_bytes_of_a_row_unless_many_moments_take_its_registers(
    dtype: Any, columns: int
) -> None:
    problem = make_problem(4096, 4096, 512, dtype, mode="train")
    *_, last = _launches(problem, REREAD, H200)
    assert last.constants["COLUMNS"] == columns
    *_, last = _launches(problem, PERSISTENT, H200)  # 64 tiles of 64 rows
    assert last.constants["COLUMNS"] == 64


@pytest.mark.parametrize(
    ("M", "mode", "dtype", "early"),
    [
        (16384, "train", "float16", False),
        (8192, "train", "float16", False),
        (4096, "train", "float16", True),
        (4096, "train", "float32", False),
        (16384, "eval", "float16", True),
    ],
)
def test_kernels_of_training_are_not_launched_early_where_y_is_beyond_l2(M, mode, dtype, early) -> None:
    problem, target = make_problem(M, 4096, 4096, dtype, mode=mode), find_target("h200")
    config = Config("persistent", 128, 128, 32, num_warps=8, num_stages=3)
    made = WITH_BN.launches(problem, config, abstract_tensors(WITH_BN, problem, config, target))
    assert {launch.constants["OVERLAPS"] for launch in made} == {early}
    assert {"launch_pdl" in launch.options for launch in made} == {early}


@pytest.mark.parametrize(
    ("config", "early"),
    [
        (OWNER, [True, False]),
        (REREAD, [True, False, True]),
        (PERSISTENT, [True, True]),
        (Config("library"), [False]),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else None,
)
def test_what_reads_y_behind_the_products_waits_for_all_of_them_and_lets_the_next_begin(
    config: Config, early: list[bool]
) -> None:
    problem = make_problem(2048, 3072, 768, "float16", mode="train")
    made = WITH_BN.launches(problem, config, abstract_tensors(WITH_BN, problem, config, find_target("h200")))
    launches = [launch for launch in made if isinstance(launch, Launch)]
    assert ["launch_pdl" in launch.options for launch in launches] == early
    assert all(launch.constants["OVERLAPS"] for launch in launches)
