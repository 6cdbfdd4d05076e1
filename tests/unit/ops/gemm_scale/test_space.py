"""Which configs are candidates, and why one is not tried."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.core.space import SPACE_NAMES, Rejection, SpaceName
from fusetune.core.target import Target, find_target, known_targets
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import BASELINE, MASKING, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.persistent import ctas_per_sm, parts_of, persistent_shared_bytes
from fusetune.ops.gemm_scale.problem import DTYPES, PRECISIONS, Dtype, Mode, Problem, make_problem
from fusetune.ops.gemm_scale.space import (
    GEMM_SPACE,
    PERSISTENT_SPACE,
    SEED_SPACE,
    SMALL_PERSISTENT_SPACE,
    Space,
    candidates,
    filling_splits,
    holds_columns,
    is_vectored,
    pipelined_shared_bytes,
    reject_reason,
    row_unit,
    uses_wgmma,
    vectored,
)

RTX_4090 = find_target("rtx4090")
H100 = find_target("h100-sxm")
LARGE = make_problem(4096, 4096, 4096, "float32")
REASONS = {
    "shared_memory",
    "accumulator_registers",
    "idle_warps",
    "tile_too_large",
    "idle_stages",
    "no_effect",
    "capability",
    "alignment",
    "precision",
    "few_tiles",
    "idle_splits",
    "rows",
    "beyond_l2",
    "many_tiles",
    "many_splits",
}

dimensions = st.one_of(st.integers(min_value=1, max_value=300), st.integers(min_value=1, max_value=2**31 - 1))
multiplied = st.one_of(
    st.tuples(st.just("float32"), st.sampled_from(PRECISIONS)),
    st.tuples(st.sampled_from(["float16", "bfloat16"]), st.none()),
)
problems = st.builds(
    lambda M, N, K, kind, mode: make_problem(M, N, K, *kind, mode=mode),
    M=dimensions,
    N=dimensions,
    K=dimensions,
    kind=multiplied,
    mode=st.sampled_from([None, "train", "eval"]),
)
configs = st.sampled_from(GEMM_SPACE.configs())
targets = st.sampled_from(known_targets())
each_target = pytest.mark.parametrize("target", known_targets(), ids=lambda target: target.aliases[0])

SPACES = {
    **{name: candidates(GEMM_SPACE, name) for name in SPACE_NAMES},
    "without it": Space({"BLOCK_M": (16, 32), "num_warps": (2, 8)}).configs(),
    "of another variant": Space({"num_stages": (2, 3)}, variants=("persistent",)).configs(),
    "of two variants": Space({"num_stages": (2, 3)}, variants=("persistent", "tiled")).configs(),
    "empty": Space({}).configs(),
}


@pytest.mark.parametrize("name", SPACES)
def test_baseline_is_the_first_of_every_space_and_there_once(name: str) -> None:
    assert SPACES[name][0] == BASELINE
    assert SPACES[name].count(BASELINE) == 1


@pytest.mark.parametrize("name", SPACES)
def test_no_candidate_is_there_twice(name: str) -> None:
    assert len(set(SPACES[name])) == len(SPACES[name])


def test_the_gemm_space_holds_the_values_that_were_asked_for() -> None:
    assert {name: set(values) for name, values in GEMM_SPACE.values.items()} == {
        "BLOCK_M": {16, 32, 64, 128, 256},
        "BLOCK_N": {16, 32, 64, 128, 256},
        "BLOCK_K": {16, 32, 64, 128, 256},
        "num_warps": {2, 4, 8},
        "num_stages": {2, 3, 4, 5},
        "GROUP_M": {1, 8},
    }
    count = Counter(config.variant for config in GEMM_SPACE.configs())
    masking = {count.pop(variant) for variant in MASKING}
    assert masking == {count["persistent"]}, "what one tries, so do the others"
    assert count == {
        "tiled": 5 * 5 * 5 * 3 * 4 * 2,
        "split_k": 4 * 4 * 3 * 4 * 3 * 4,
        # For many tiles, for few, and less those that are of both.
        "persistent": 3 * 3 * 3 * 4 * 2 * 4 + 4 * 4 * 4 * 5 * 2 * 3 - 2 * 2 * 3 * 3,
        "deferred": 2 * 2 * 1 * 4 * 2 * 2,
    }


def test_k_is_split_by_the_variants_that_can_and_always_by_split_k() -> None:
    splits = {
        variant: {config.SPLIT_K for config in GEMM_SPACE.configs() if config.variant == variant}
        for variant in ("tiled", "split_k", "persistent", "deferred")
    }
    assert splits == {"tiled": {1}, "split_k": {2, 4, 8, 16}, "persistent": {1, 2, 4, 8, 16}, "deferred": {1}}


def test_ctas_that_share_k_are_few_and_have_no_order_to_walk_in() -> None:
    assert {config.GROUP_M for config in SMALL_PERSISTENT_SPACE.configs()} == {1}


def test_a_space_of_other_variants_brings_only_those() -> None:
    other = Space({"SPLIT_K": (2, 4)}, variants=("split_k",))
    assert Space({"num_stages": (2, 3)}, others=(other,)).configs() == (
        BASELINE,
        Config(num_stages=3),
        Config("split_k", SPLIT_K=2),
        Config("split_k", SPLIT_K=4),
    )


def test_the_seed_s_space_is_its_tile_with_4_or_8_warps_and_2_or_3_stages() -> None:
    found = candidates(GEMM_SPACE, "seed")
    assert len(found) == 4
    assert set(found) == {Config(num_warps=warps, num_stages=stages) for warps in (4, 8) for stages in (2, 3)}
    assert found == SEED_SPACE.configs()


def test_an_op_s_own_space_is_what_full_means() -> None:
    own = Space({"BLOCK_M": (32, 64), "num_stages": (2, 3)})
    assert set(candidates(own, "full")) == {Config(BLOCK_M=m, num_stages=s) for m in (32, 64) for s in (2, 3)}


def test_standard_is_a_part_of_full_in_the_same_order() -> None:
    full, standard = candidates(GEMM_SPACE, "full"), candidates(GEMM_SPACE, "standard")
    assert [config for config in full if config in set(standard)] == list(standard)
    assert len(full) / 4 < len(standard) < len(full)


@pytest.mark.parametrize(
    ("N", "K", "expected"),
    [(1024, 5000, True), (1000, 4096, True), (1001, 5001, False), (1024, 4096, False), (1001, 5002, True)],
)
def test_what_goes_by_pointers_is_vectored_where_rows_begin_on_more_than_one_element(
    N: int, K: int, expected: bool
) -> None:
    problem = make_problem(300, N, K, "float16")
    assert is_vectored(problem) == expected
    listed = candidates(GEMM_SPACE, "standard")
    found = vectored(listed, problem)
    assert found[0] == BASELINE, "what all others are compared with is the same for every problem"
    variants = Counter(config.variant for config in found[1:])
    before = Counter(config.variant for config in listed[1:])
    assert variants.pop("vectored", 0) == (before["tiled"] + before["split_k"] if expected else 0)
    kept = {"persistent", *MASKING, "deferred"} if expected else set(before)
    assert variants == {variant: before[variant] for variant in kept}
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("N", "K", "dtype", "expected"),
    [
        (1100, 7000, "float16", "masked"),
        (1101, 7000, "float32", "masked"),
        (1100, 7000, "float32", None),  # y's rows begin on 16 bytes too
        (1104, 7000, "bfloat16", None),
        (1101, 7001, "float16", "padded"),  # nor do x's and W's
        (1104, 7001, "float16", "padded"),
        (1101, 7002, "float32", "padded"),
    ],
)
def test_masked_is_offered_where_the_copy_engine_can_load_and_not_store_and_padded_where_it_cannot_load(
    N: int, K: int, dtype: Dtype, expected: str | None
) -> None:
    problem = make_problem(1500, N, K, dtype)
    found = PLAIN.candidates(problem, H100, "standard")
    assert {config.variant for config in found if config.masks} == {expected} - {None}
    passed = {config.variant for config in found if reject_reason(config, problem, H100) is None}
    assert passed & set(MASKING) == {expected} - {None}
    assert ("persistent" in passed) == (N * problem.element_bytes % 16 == 0 == K * problem.element_bytes % 16)
    assert all(reject_reason(config, problem, RTX_4090) is not None for config in found if config.masks)
    others = {
        "masked": {"padded": "no_effect"},
        "padded": {"masked": "alignment"},
        None: {"masked": "no_effect", "padded": "no_effect"},
    }
    for variant in MASKING:
        rejection = reject_reason(Config(variant, num_stages=3), problem, H100)
        assert (rejection and rejection.reason) == others[expected].get(variant), variant


@pytest.mark.parametrize(("length", "unit"), [(1, 1), (5001, 1), (5002, 2), (5004, 4), (5000, 8), (4096, 16), (48, 16)])
def test_rows_begin_on_the_largest_power_of_two_that_divides_them(length: int, unit: int) -> None:
    assert row_unit(length) == unit


HALVES = Config("split_k", 128, 128, 64, SPLIT_K=2, num_stages=3)


@pytest.mark.parametrize(
    ("shape", "splits", "why"),
    [
        ((640, 1280, 5120), {5}, "50 tiles: 250 CTAs for 264 places, where 4 splits give 200 and 8 give 400"),
        ((300, 1000, 5000), {5}, "24 tiles: 5 give 120 for 132; 11 give 264 for 264, and 16 a little less work each"),
        ((300, 1000, 2560), {5, 10}, "24 tiles, 40 steps: 11 splits would take four each, and one none: so 10 do"),
        ((384, 1408, 4096), {4}, "33 tiles: 4 is a power of two, and fills all"),
        ((640, 1280, 320), {5}, "50 tiles, 5 steps: one each, where with 4 splits some have two, with 8 some none"),
        ((4096, 4096, 4096), set(), "more tiles than SMs"),
        ((16, 64, 16384), set(), "one tile: more CTAs would share it than may"),
    ],
)
def test_k_is_also_split_in_as_many_as_fill_the_gpu(shape: tuple[int, int, int], splits: set[int], why: str) -> None:
    problem = make_problem(*shape[:2], shape[2], "float16")
    found = {config.SPLIT_K for config in filling_splits([HALVES], problem, H100)}
    assert found == splits - {4}, why
    assert all(reject_reason(Config("split_k", 128, 128, 64, SPLIT_K=k), problem, H100) is None for k in found)


def test_only_what_splits_k_in_two_is_split_otherwise_and_keeps_all_else() -> None:
    problem = make_problem(640, 1280, 5120, "float16")
    others = [BASELINE, *(Config("split_k", 128, 128, 64, SPLIT_K=k) for k in (4, 8, 16))]
    assert filling_splits(others, problem, H100) == ()
    (found,) = filling_splits([*others, HALVES], problem, H100)
    assert found == Config("split_k", 128, 128, 64, SPLIT_K=5, num_stages=3)


def test_no_filling_split_is_a_candidate_already() -> None:
    listed = candidates(GEMM_SPACE, "full")
    for shape in [(640, 1280, 5120), (300, 1000, 5000), (700, 900, 3000), (96, 4096, 14336)]:
        found = filling_splits(listed, make_problem(*shape, "float16"), H100)
        assert len(set(found)) == len(found)
        assert not set(found) & set(listed)


@pytest.mark.parametrize(
    ("config", "tried"),
    [
        (Config(BLOCK_M=128, BLOCK_N=16), True),
        (Config(BLOCK_M=256, BLOCK_N=16), False),
        (Config(BLOCK_M=16, BLOCK_N=256), False),
        (Config(BLOCK_K=16), False),
        (Config(BLOCK_M=64, BLOCK_N=64, BLOCK_K=256), True),
        (Config(BLOCK_M=128, BLOCK_N=64, BLOCK_K=256), False),
        (Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, num_stages=3), True),  # the best of 128 x 512 x 1024 on an H200
        (Config("split_k", SPLIT_K=4, num_stages=3), True),
        (Config("split_k", SPLIT_K=4, num_stages=2), False),
        (Config("split_k", SPLIT_K=4, num_warps=2, num_stages=3), False),
        (Config("split_k", 32, 32, SPLIT_K=4, num_warps=2, num_stages=3), True),
        (Config("split_k", 32, 32, SPLIT_K=4, num_warps=4, num_stages=3), False),
        (Config("persistent", num_stages=3), True),
        (Config("persistent", num_stages=2), False),
        (Config("persistent", num_warps=2, num_stages=3), False),
        (Config("persistent", 32, 32, num_warps=2, num_stages=3), True),
        (Config("persistent", 32, 32, num_warps=4, num_stages=3), True),
        (Config("persistent", 16, 32, SPLIT_K=8, num_warps=2, num_stages=5), True),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else str(value),
)
def test_standard_leaves_out_tiles_that_are_out_of_proportion(config: Config, tried: bool) -> None:
    assert (config in candidates(GEMM_SPACE, "standard")) is tried
    assert config in candidates(GEMM_SPACE, "full")


def test_a_space_that_distrusts_baseline_s_tile_still_begins_with_it_in_standard() -> None:
    deep = Space({"BLOCK_M": (256,), "BLOCK_K": (16,)})
    assert candidates(deep, "standard") == (BASELINE,)


def test_an_unknown_space_is_refused_with_the_names_of_those_there_are() -> None:
    unknown: SpaceName = "huge"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="'huge' is not known; use one of standard, full, seed"):
        candidates(GEMM_SPACE, unknown)


@pytest.mark.parametrize(
    ("config", "problem", "rejection"),
    [
        (
            Config(BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, num_warps=8, num_stages=3),
            LARGE,
            Rejection("shared_memory", "needs 131072 bytes of shared memory, NVIDIA GeForce RTX 4090 has 101376"),
        ),
        (
            Config(BLOCK_M=256, BLOCK_N=128, num_warps=4),
            LARGE,
            Rejection("accumulator_registers", "256 accumulator registers a thread"),
        ),
        (
            Config(BLOCK_M=16, BLOCK_N=32, num_warps=8),
            LARGE,
            Rejection("idle_warps", "16x32 has no m16n8 tile for each warp"),
        ),
        (
            Config(BLOCK_M=128),
            make_problem(60, 4096, 4096, "float32"),
            Rejection("tile_too_large", "BLOCK_M 128 for a size of 60"),
        ),
        (
            Config(BLOCK_N=32),
            make_problem(4096, 10, 4096, "float32"),
            Rejection("tile_too_large", "BLOCK_N 32 for a size of 10"),
        ),
        (
            Config(BLOCK_K=128),
            make_problem(4096, 4096, 64, "float32"),
            Rejection("tile_too_large", "BLOCK_K 128 for a size of 64"),
        ),
        (
            Config(num_stages=5),
            make_problem(4096, 4096, 96, "float32"),
            Rejection("idle_stages", "5 stages for 3 steps along K"),
        ),
        (
            Config(num_stages=3),
            make_problem(4096, 4096, 32, "float32"),
            Rejection("idle_stages", "3 stages for 1 steps along K"),
        ),
        (
            Config(GROUP_M=8),
            make_problem(64, 4096, 4096, "float32"),
            Rejection("no_effect", "GROUP_M orders rows of tiles, and there is one row"),
        ),
    ],
    ids=lambda value: value.reason if isinstance(value, Rejection) else "",
)
def test_a_rejected_config_is_told_why_with_the_figures(config: Config, problem: Problem, rejection: Rejection) -> None:
    assert reject_reason(config, problem, RTX_4090) == rejection


SMALL = make_problem(128, 512, 1024, "float32")
SPLIT_4, PERSISTENT = Config("split_k", SPLIT_K=4), Config("persistent", num_stages=3)
PERSISTENT_4 = Config("persistent", SPLIT_K=4, num_stages=3)


@pytest.mark.parametrize(
    ("config", "problem", "target", "rejection"),
    [
        (
            PERSISTENT,
            LARGE,
            RTX_4090,
            Rejection("capability", "NVIDIA GeForce RTX 4090 has no copy engine (TMA); 9.0 and later have"),
        ),
        (
            PERSISTENT,
            make_problem(4096, 4096, 4095, "float32"),
            H100,
            Rejection("alignment", "the copy engine needs rows of x, W and y that begin on 16 bytes"),
        ),
        (
            PERSISTENT,
            make_problem(4096, 4092, 4096, "float16"),
            H100,
            Rejection("alignment", "the copy engine needs rows of x, W and y that begin on 16 bytes"),
        ),
        (
            PERSISTENT,
            make_problem(4096, 4096, 4096, "float32", "ieee"),
            H100,
            Rejection("precision", "ieee does not use the tensor cores that this variant feeds"),
        ),
        (PERSISTENT, SMALL, H100, Rejection("few_tiles", "16 CTAs leave most of 132 SMs without any")),
        (
            PERSISTENT_4,
            make_problem(64, 384, 1024, "float32"),
            H100,
            Rejection("few_tiles", "24 CTAs leave most of 132 SMs without any"),
        ),
        (
            Config("persistent", num_warps=8, num_stages=3),
            LARGE,
            H100,
            Rejection("idle_warps", "2 warpgroups of 64 rows for 64"),
        ),
        (
            PERSISTENT_4,
            SMALL,
            RTX_4090,
            Rejection("capability", f"{RTX_4090.name} has no copy engine (TMA); 9.0 and later have"),
        ),
        (
            PERSISTENT_4,
            make_problem(128, 1024, 96, "float32"),
            H100,
            Rejection("idle_splits", "4 CTAs share 3 steps along K"),
        ),
        (
            PERSISTENT_4,
            make_problem(257, 512, 1024, "float32", mode="train"),
            H100,
            Rejection("rows", "the second kernel holds whole columns of 256 rows at most"),
        ),
        (
            PERSISTENT_4,
            make_problem(768, 704, 1024, "float32"),
            H100,
            Rejection("many_tiles", "132 tiles give each of 132 SMs one without splitting K"),
        ),
        (
            Config("persistent", SPLIT_K=16, num_stages=3),
            make_problem(512, 512, 1024, "float32"),
            H100,
            Rejection("many_splits", "1024 CTAs for 132 SMs"),
        ),
        (
            SPLIT_4,
            make_problem(128, 512, 96, "float32"),
            RTX_4090,
            Rejection("idle_splits", "4 CTAs share 3 steps along K"),
        ),
        (
            SPLIT_4,
            make_problem(257, 64, 1024, "float32", mode="train"),
            RTX_4090,
            Rejection("rows", "the second kernel holds whole columns of 256 rows at most"),
        ),
        (
            SPLIT_4,
            make_problem(1024, 512, 1024, "float32"),
            RTX_4090,
            Rejection("many_tiles", "128 tiles give each of 128 SMs one without splitting K"),
        ),
        (
            Config("split_k", SPLIT_K=16),
            make_problem(512, 512, 1024, "float32"),
            RTX_4090,
            Rejection("many_splits", "1024 CTAs for 128 SMs"),
        ),
    ],
    ids=lambda value: value.reason if isinstance(value, Rejection) else "",
)
def test_a_variant_that_is_not_made_for_a_problem_is_told_why(
    config: Config, problem: Problem, target: Target, rejection: Rejection
) -> None:
    assert reject_reason(config, problem, target) == rejection


@pytest.mark.parametrize(
    ("config", "problem", "target"),
    [
        (PERSISTENT, make_problem(1024, 264, 100, "float32"), H100),  # 80 tiles for 132 SMs, rows of 25 x 16 bytes
        (SPLIT_4, make_problem(128, 512, 97, "float32"), RTX_4090),
        (SPLIT_4, make_problem(256, 64, 1024, "float32", mode="train"), RTX_4090),
        (SPLIT_4, make_problem(64 * 127, 64, 1024, "float32"), RTX_4090),
        (PERSISTENT_4, make_problem(128, 320, 100, "float32"), H100),  # 40 CTAs, 4 steps of which the last is short
        (PERSISTENT_4, make_problem(256, 512, 1024, "float32", mode="train"), H100),
        (PERSISTENT_4, make_problem(64, 64 * 131, 1024, "float32"), H100),
        (Config("persistent", 128, num_warps=8, num_stages=3), LARGE, H100),  # 64 rows for each warpgroup
        (Config("persistent", 32, 32, num_stages=3), make_problem(128, 512, 1024, "float32"), H100),  # mma.sync
    ],
)
def test_a_variant_just_within_its_own_limits_is_tried(config: Config, problem: Problem, target: Target) -> None:
    assert reject_reason(config, problem, target) is None


@pytest.mark.parametrize("mode", [None, "train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_persistent_tile_is_stored_in_parts_that_the_copy_engine_takes(dtype: str, mode: str | None) -> None:
    problem = make_problem(4096, 4096, 4096, dtype, mode=mode)  # type: ignore[arg-type]
    assert {parts_of(config, problem) for config in PERSISTENT_SPACE.configs()} == {1, 2, 4}
    for space in (PERSISTENT_SPACE, SMALL_PERSISTENT_SPACE):
        for config in space.configs():
            assert 16 <= config.BLOCK_N // parts_of(config, problem) <= 128


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_two_persistent_ctas_are_put_on_an_sm_only_where_both_fit(dtype: str) -> None:
    problem = make_problem(4096, 4096, 4096, dtype)  # type: ignore[arg-type]
    shared = {1: [], 2: []}  # type: dict[int, list[int]]
    for config in (*PERSISTENT_SPACE.configs(), *SMALL_PERSISTENT_SPACE.configs()):
        shared[ctas_per_sm(config, problem)].append(persistent_shared_bytes(config, problem))
    assert shared[1]
    assert max(shared[2]) + 1024 <= H100.shared_bytes_per_sm // 2


@pytest.mark.parametrize(
    ("config", "buffers"),
    [
        (Config("persistent", 64, 32, 64, num_stages=4), 4),
        (Config("persistent", 32, 64, 64, num_stages=4), 3),
        (Config("persistent", 16, 16, 64, num_stages=3), 2),
        (Config("persistent", 64, 32, 64, num_warps=2, num_stages=4), 3),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else "",
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_persistent_tile_below_a_warpgroup_takes_one_buffer_less(config: Config, buffers: int, dtype: str) -> None:
    problem = make_problem(128, 512, 1024, dtype)  # type: ignore[arg-type]
    stage = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * problem.element_bytes + 8
    tile = config.BLOCK_M * config.BLOCK_N * problem.element_bytes
    assert pipelined_shared_bytes(config, problem, H100) == buffers * stage + tile


@pytest.mark.parametrize("mode", [None, "train", "eval"])
def test_a_persistent_summand_is_stored_in_float32_and_leaves_the_columns_to_the_second_kernel(
    mode: str | None,
) -> None:
    problem = make_problem(128, 512, 1024, "float16", mode=mode)  # type: ignore[arg-type]
    stage, tile = (32 + 64) * 64 * 2 + 8, 32 * 64
    config = Config("persistent", 32, 64, 64, SPLIT_K=16, num_stages=3)
    assert persistent_shared_bytes(config, problem) == 2 * stage + 4 * tile
    joined = Config("persistent", 32, 64, 64, SPLIT_K=2, num_stages=3)
    assert persistent_shared_bytes(joined, problem) == 2 * stage + (4 * tile if mode == "train" else 0)
    whole = Config("persistent", 32, 64, 64, num_stages=3)
    assert persistent_shared_bytes(whole, problem) == 2 * stage + 2 * tile + (4 * 4 * 64 if mode == "train" else 0)


@pytest.mark.parametrize(
    ("config", "M", "mode", "held"),
    [
        (BASELINE, 64, "train", True),
        (BASELINE, 65, "train", False),
        (BASELINE, 64, "eval", False),
        (BASELINE, 64, None, False),
        (PERSISTENT, 2, "train", True),
        (PERSISTENT, 65, "train", False),
        (PERSISTENT_4, 64, "train", False),
        (Config("persistent", 64, 16, SPLIT_K=4), 64, "train", True),
        (Config("persistent", 64, 16, SPLIT_K=4), 65, "train", False),
        (Config("split_k", 64, 32, SPLIT_K=2), 64, "train", True),
        (SPLIT_4, 64, "train", False),
        (Config("library"), 64, "train", False),
    ],
    ids=lambda value: value.label() if isinstance(value, Config) else str(value),
)
def test_a_cta_holds_whole_columns_where_its_tile_has_every_row_and_all_of_k_or_joins_it(
    config: Config, M: int, mode: str | None, held: bool
) -> None:
    assert holds_columns(config, make_problem(M, 512, 1024, "float32", mode=mode)) is held  # type: ignore[arg-type]


def test_a_persistent_tile_is_stored_in_more_parts_where_the_pipeline_leaves_less_room() -> None:
    wide = [Config("persistent", 128, 256, 32, num_warps=8, num_stages=stages) for stages in (2, 3, 4)]
    assert [parts_of(config, LARGE) for config in wide] == [2, 2, 4]
    assert [persistent_shared_bytes(config, LARGE) for config in wide] == [
        stages * ((128 + 256) * 32 * 4 + 8) + 128 * 256 * 4 // parts for stages, parts in ((2, 2), (3, 2), (4, 4))
    ]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (Config(BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, num_warps=8, num_stages=2), LARGE),  # 65,536 bytes
        (Config(BLOCK_M=128, BLOCK_N=128, num_warps=4), LARGE),  # 128 accumulators a thread
        (Config(BLOCK_M=16, BLOCK_N=16, num_warps=2), LARGE),  # one m16n8 tile for each warp
        (Config(BLOCK_M=128), make_problem(65, 4096, 4096, "float32")),  # 128 is the power of two that covers 65
        (Config(BLOCK_M=16), make_problem(1, 4096, 4096, "float32")),  # no tile is smaller
        (Config(num_stages=4), make_problem(4096, 4096, 96, "float32")),  # three steps and one ahead
        (Config(num_stages=2), make_problem(4096, 4096, 32, "float32")),
        (Config(GROUP_M=8), make_problem(65, 4096, 4096, "float32")),  # two rows of tiles
    ],
    ids=[
        "shared_memory",
        "accumulator_registers",
        "idle_warps",
        "tile_too_large",
        "smallest tile",
        "idle_stages",
        "two stages",
        "no_effect",
    ],
)
def test_a_config_just_inside_a_limit_is_tried(config: Config, problem: Problem) -> None:
    assert reject_reason(config, problem, RTX_4090) is None


def test_the_limit_of_shared_memory_is_met_to_the_byte() -> None:
    config = Config(BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=4)
    needed = 3 * 32768
    assert reject_reason(config, LARGE, target_with(shared_bytes_per_cta=needed)) is None
    short = reject_reason(config, LARGE, target_with(shared_bytes_per_cta=needed - 1))
    assert short is not None
    assert short.reason == "shared_memory"


def target_with(*, shared_bytes_per_cta: int) -> Target:
    fields = {name: getattr(RTX_4090, name) for name in Target.__struct_fields__}
    return Target(**{**fields, "shared_bytes_per_cta": shared_bytes_per_cta})


@pytest.mark.parametrize(
    ("target", "config", "shared_bytes"),
    [
        # mma.sync: (num_stages - 1) tiles of (64 + 64) * 32 * 4 = 16,384 bytes.
        (RTX_4090, Config(num_stages=2), 16384),
        (RTX_4090, Config(num_stages=3), 32768),  # what the seed's kernel uses when compiled for sm_89
        (RTX_4090, Config(num_stages=5), 65536),
        (RTX_4090, Config(num_stages=1), 16384),  # no pipeline, yet one tile on its way to the registers
        # wgmma: W comes back rounded, in 64 * 32 * 4 = 8,192 bytes beside them.
        (H100, Config(num_stages=2), 24576),
        (H100, Config(num_stages=3), 40960),
        (H100, Config(num_stages=1), 24576),
        # sm_90 without wgmma: tiles below 64 rows, or fewer than the 4 warps of a warpgroup.
        (H100, Config(BLOCK_M=32, num_stages=3), 2 * 96 * 32 * 4),
        (H100, Config(num_warps=2, num_stages=3), 32768),
    ],
)
def test_tf32_takes_one_stage_less_than_there_are_and_the_rounded_w_for_wgmma(
    target: Target, config: Config, shared_bytes: int
) -> None:
    assert pipelined_shared_bytes(config, LARGE, target) == shared_bytes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_tiles_take_half_the_shared_memory(dtype: str) -> None:
    half = make_problem(4096, 4096, 4096, dtype)  # type: ignore[arg-type]
    assert pipelined_shared_bytes(Config(num_stages=3), half, RTX_4090) == 16384
    assert pipelined_shared_bytes(Config(num_stages=3), half, H100) == 24576


def test_the_same_config_is_out_on_hopper_where_the_last_stage_does_not_fit() -> None:
    """A tile of 64 x 256 x 128 takes 81,920 bytes of float16: mma.sync's two would fit, wgmma's three do not."""
    half = make_problem(4096, 4096, 4096, "float16")
    config = Config(BLOCK_M=64, BLOCK_N=256, BLOCK_K=128, num_warps=8, num_stages=3)
    rejected = reject_reason(config, half, H100)
    assert rejected == Rejection(
        "shared_memory", "needs 245760 bytes of shared memory, NVIDIA H100 80GB HBM3 has 232448"
    )
    assert reject_reason(config, half, find_target("a100-80gb")) is None


@pytest.mark.parametrize(("precision", "wgmma"), [("tf32", True), ("ieee", False)])
def test_ieee_float32_has_no_tensor_core_to_go_through(precision: str, wgmma: bool) -> None:
    problem = make_problem(4096, 4096, 4096, "float32", precision)  # type: ignore[arg-type]
    assert uses_wgmma(BASELINE, problem, H100) is wgmma


@each_target
def test_only_hopper_and_blackwell_s_data_center_gpus_multiply_by_warpgroup(target: Target) -> None:
    for dtype in DTYPES:
        assert uses_wgmma(BASELINE, make_problem(64, 64, 64, dtype), target) is (target.capability in ("9.0", "10.0"))


@each_target
@given(kind=multiplied)
def test_baseline_is_never_too_large_for_a_problem(target: Target, kind: tuple[str, str | None]) -> None:
    smallest = make_problem(1, 1, 1, *kind)  # type: ignore[arg-type]
    assert reject_reason(BASELINE, smallest, target) is None


def test_its_twin_with_another_stage_is() -> None:
    """So that the test above says something: nothing but being BASELINE saves it."""
    rejected = reject_reason(Config(num_stages=3), make_problem(1, 1, 1, "float32"), RTX_4090)
    assert rejected is not None
    assert rejected.reason == "tile_too_large"


@given(config=configs, problem=problems, target=targets)
def test_every_config_is_answered_for_every_problem_and_target(
    config: Config, problem: Problem, target: Target
) -> None:
    rejected = reject_reason(config, problem, target)
    if rejected is not None:
        assert rejected.reason in REASONS
        assert rejected.detail


@given(config=configs, problem=problems, target=targets)
def test_a_config_that_is_let_through_fits_into_shared_memory_and_registers(
    config: Config, problem: Problem, target: Target
) -> None:
    if reject_reason(config, problem, target) is None:
        assert pipelined_shared_bytes(config, problem, target) <= target.shared_bytes_per_cta
        assert config.BLOCK_M * config.BLOCK_N / (32 * config.num_warps) <= 128


@pytest.mark.parametrize("mode", [None, "train", "eval"])
def test_few_tiles_leave_every_variant_candidates_on_hopper(mode: str | None) -> None:
    problem = make_problem(128, 1024, 1024, "float32", mode=mode)  # type: ignore[arg-type]
    tried = [config for config in candidates(GEMM_SPACE, "standard") if reject_reason(config, problem, H100) is None]
    assert {(config.variant, config.SPLIT_K > 1) for config in tried} == {
        ("tiled", False),
        ("split_k", True),
        ("persistent", False),
        ("persistent", True),
    }
    assert any(config.BLOCK_M < 64 for config in tried if config.variant == "persistent")
    if mode == "train":
        assert {config.variant for config in tried if holds_columns(config, problem)} == {
            "tiled",
            "split_k",
            "persistent",
        }


@each_target
def test_a_large_problem_leaves_a_space_worth_sweeping(target: Target) -> None:
    tried = [config for config in candidates(GEMM_SPACE, "standard") if reject_reason(config, LARGE, target) is None]
    assert len(tried) >= 200


@pytest.mark.parametrize(
    ("mode", "M", "fits"), [("train", 4096, True), ("train", 128, False), ("eval", 4096, False), (None, 4096, False)]
)
def test_moments_are_reread_in_training_alone_and_where_no_tile_holds_whole_columns(
    mode: Mode | None, M: int, fits: bool
) -> None:
    problem, config = make_problem(M, 8192, 512, "float16", mode=mode), Config("reread", 128, 128, 64, num_stages=3)
    rejection = reject_reason(config, problem, H100)
    assert (rejection.reason if rejection else None) == (None if fits else "no_effect")


@pytest.mark.parametrize(
    ("mode", "M", "N", "variant"),
    [
        ("train", 129, 8192, "owner"),
        ("train", 2048, 12288, "owner"),
        ("train", 2048, 12304, "reread"),  # more than L2 keeps
        ("train", 2049, 8192, "reread"),
        ("train", 128, 8192, None),
        ("eval", 1024, 8192, None),
        (None, 1024, 8192, None),
    ],
)
def test_columns_are_owned_where_l2_keeps_y_and_moments_are_reread_elsewhere(
    mode: Mode | None, M: int, N: int, variant: str | None
) -> None:
    problem = make_problem(M, N, 512, "float16", mode=mode)
    configs = [Config(name, 128, 128, 64, num_stages=3) for name in ("reread", "owner")]
    fit = [config.variant for config in configs if reject_reason(config, problem, H100) is None]
    assert fit == ([variant] if variant else [])


def test_a_kernel_that_takes_no_moments_needs_no_room_for_them_and_stores_wider_parts() -> None:
    problem = make_problem(4096, 4096, 4096, "float16", mode="train")
    given = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    reread, persistent = (Config(variant, **given) for variant in ("reread", "persistent"))
    plain = pipelined_shared_bytes(persistent, make_problem(4096, 4096, 4096, "float16"), H100)
    assert pipelined_shared_bytes(reread, problem, H100) == plain
    assert (parts_of(reread, problem), parts_of(persistent, problem)) == (2, 4)
    rows = make_problem(128, 4096, 4096, "float16", mode="train")
    assert (holds_columns(persistent, rows), holds_columns(reread, rows)) == (True, False)


DEFERRED = Config("deferred", 128, 256, 64, num_warps=8, num_stages=3)
B200, RTX_4090_ = find_target("b200"), find_target("rtx4090")


@pytest.mark.parametrize(
    ("config", "problem", "target", "reason"),
    [
        (DEFERRED, make_problem(16384, 4096, 4096, "float16"), H100, None),
        (DEFERRED, make_problem(16384, 4096, 4096, "bfloat16", mode="train"), H100, None),
        (Config("deferred", 128, 128, 64, num_stages=4), make_problem(16384, 4096, 4096, "float16"), H100, None),
        (DEFERRED, make_problem(16384, 4096, 4096, "float16"), B200, "capability"),
        (DEFERRED, make_problem(16384, 4096, 4096, "float16"), RTX_4090_, "shared_memory"),
        (Config("deferred", 64, 64, 64), make_problem(4096, 4096, 512, "float16"), RTX_4090_, "capability"),
        (Config("deferred", 128, 128, 32, num_stages=3), make_problem(16384, 4096, 4096, "float32"), H100, "dtype"),
        (DEFERRED, make_problem(16384, 4096, 320, "float16"), H100, "few_steps"),
        (DEFERRED, make_problem(16384, 4096, 328, "float16"), H100, None),
        (DEFERRED, make_problem(1024, 4096, 4096, "float16"), H100, "few_tiles"),
        (DEFERRED, make_problem(128, 65536, 512, "float16", mode="train"), H100, "no_effect"),
        (DEFERRED, make_problem(128, 65536, 512, "float16", mode="eval"), H100, None),
        (Config("deferred", 64, 64, num_warps=2), make_problem(4096, 4096, 512, "float16"), H100, "idle_warps"),
    ],
)  # fmt: skip
def test_tiles_are_stored_late_by_wgmma_in_sixteen_bits_and_where_another_tile_follows(
    config: Config, problem: Problem, target: Target, reason: str | None
) -> None:
    rejection = reject_reason(config, problem, target)
    assert (rejection.reason if rejection else None) == reason


def test_a_late_stored_tile_keeps_room_for_a_quarter_of_it_and_for_what_ends_half_its_columns() -> None:
    plain, train = make_problem(4096, 4096, 4096, "float16"), make_problem(4096, 4096, 4096, "float16", mode="train")
    stage = (128 + 256) * 64 * 2 + 8
    part = 128 * 256 * 2 // 4
    assert pipelined_shared_bytes(DEFERRED, plain, H100) == 3 * stage + part + 8 * 128
    assert pipelined_shared_bytes(DEFERRED, train, H100) == 3 * stage + part
    assert parts_of(DEFERRED, plain) == parts_of(DEFERRED, train) == 4
    assert not holds_columns(DEFERRED, make_problem(128, 4096, 4096, "float16", mode="train"))
