"""Config and Problem: labels, defaults, and what is refused with which words."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.errors import EXIT_USAGE, UnsupportedProblemError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import DTYPES, PRECISIONS, Problem, make_problem
from fusetune.ops.gemm_scale.space import GEMM_SPACE


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (BASELINE, "64x64x32 w4 s2"),
        (Config(BLOCK_N=16, BLOCK_K=128, num_stages=3), "64x16x128 w4 s3"),
        (Config(GROUP_M=8), "64x64x32 w4 s2 g8"),
        (Config(SPLIT_K=4), "64x64x32 w4 s2 k4"),
        (
            Config("persistent", 128, 256, 32, GROUP_M=8, SPLIT_K=2, num_warps=8, num_stages=3),
            "persistent 128x256x32 w8 s3 g8 k2",
        ),
    ],
)
def test_a_label_tells_tile_warps_and_stages_and_whatever_else_is_not_the_default(config: Config, label: str) -> None:
    assert config.label() == label


def test_no_two_configs_of_a_space_share_a_label() -> None:
    labels = {config.label() for config in GEMM_SPACE.configs()}
    assert len(labels) == len(GEMM_SPACE.configs())


def test_baseline_is_the_seed_s_tile_at_4_warps_and_2_stages() -> None:
    tile = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP_M": 1, "SPLIT_K": 1}
    assert msgspec.to_builtins(BASELINE) == {"variant": "tiled", **tile, "num_warps": 4, "num_stages": 2}


def test_conservative_means_4_warps_and_2_stages_whatever_the_tile() -> None:
    assert BASELINE.is_conservative
    assert Config(BLOCK_M=16, BLOCK_N=256, GROUP_M=8).is_conservative
    assert not Config(num_warps=8).is_conservative
    assert not Config(num_stages=3).is_conservative


@pytest.mark.parametrize("name", ["BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps"])
@pytest.mark.parametrize("value", [3, 6, 24, 48, 0, -4])
def test_a_tile_or_a_number_of_warps_is_a_power_of_two(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a power of two, not {value}$"):
        Config(**{name: value})


@pytest.mark.parametrize(
    "fields", [{"num_stages": 3}, {"num_stages": 5}, {"GROUP_M": 6}, {"SPLIT_K": 3}, {"num_warps": 1}]
)
def test_stages_groups_and_splits_need_not_be(fields: dict[str, int]) -> None:
    assert msgspec.convert(fields, Config) == Config(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"BLOCK_M": 48}, "BLOCK_M must be a power of two, not 48"),
        ({"BLOCK_K": 8}, r">= 16 - at `\$.BLOCK_K`"),
        ({"BLOCK_N": 2048}, r"<= 1024 - at `\$.BLOCK_N`"),
        ({"num_warps": 64}, r"<= 32 - at `\$.num_warps`"),
        ({"num_stages": 0}, r">= 1 - at `\$.num_stages`"),
        ({"num_stages": "3"}, r"Expected `int`, got `str` - at `\$.num_stages`"),
        ({"GROUP_M": 0}, r">= 1 - at `\$.GROUP_M`"),
        ({"stages": 3}, "unknown field `stages`"),
    ],
)
def test_a_config_read_from_a_file_is_refused_at_the_field_that_is_wrong(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(fields, Config)


@pytest.mark.parametrize("config", [BASELINE, Config(BLOCK_N=16, BLOCK_K=128, GROUP_M=8, num_stages=3)])
def test_a_config_survives_being_written_and_read(config: Config) -> None:
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


def test_a_config_cannot_be_changed_and_may_be_a_key() -> None:
    with pytest.raises(AttributeError):
        BASELINE.num_warps = 8  # type: ignore[misc]
    assert {Config(): "baseline"}[BASELINE] == "baseline"


def test_float32_without_a_precision_means_tf32() -> None:
    assert make_problem(1, 2, 3, "float32") == Problem(M=1, N=2, K=3, dtype="float32", precision="tf32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_float32_takes_every_precision(precision: str) -> None:
    assert make_problem(1, 2, 3, "float32", precision).precision == precision  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_inputs_have_no_precision(dtype: str) -> None:
    assert make_problem(1, 2, 3, dtype).precision is None  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("precision", [*PRECISIONS, "fp8"])
def test_a_precision_for_sixteen_bit_inputs_is_refused(dtype: str, precision: str) -> None:
    message = f"^precision '{precision}' applies to float32 inputs only; leave it out for {dtype}$"
    with pytest.raises(UnsupportedProblemError, match=message):
        make_problem(1, 2, 3, dtype, precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 2**31])
@pytest.mark.parametrize("name", ["M", "N", "K"])
def test_a_size_out_of_range_is_named(name: str, size: int) -> None:
    sizes = {"M": 5, "N": 6, "K": 7, name: size}
    with pytest.raises(
        UnsupportedProblemError, match=f"^{name} is {size}; a size to tune lies between 1 and 2147483647$"
    ):
        make_problem(**sizes, dtype="float32")


def test_the_largest_and_the_smallest_size_are_taken() -> None:
    assert make_problem(1, 2**31 - 1, 1, "float16").N == 2147483647


@pytest.mark.parametrize(
    ("dtype", "precision", "message"),
    [
        ("float64", None, "dtype 'float64' is not known; use one of float32, float16, bfloat16"),
        ("flaot16", None, "dtype 'flaot16' is not known; use one of float32, float16, bfloat16; did you mean float16?"),
        ("fp61", None, "dtype 'fp61' is not known; use one of float32, float16, bfloat16; did you mean float16?"),
        (
            "float32",
            "tf32x2",
            "precision 'tf32x2' is not known; use one of tf32, ieee, tf32x3, bf16x3; did you mean tf32x3?",
        ),
        ("float32", "fp8", "precision 'fp8' is not known; use one of tf32, ieee, tf32x3, bf16x3"),
    ],
)
def test_an_unknown_dtype_or_precision_is_refused_with_those_there_are(
    dtype: str, precision: str | None, message: str
) -> None:
    with pytest.raises(UnsupportedProblemError) as caught:
        make_problem(1, 2, 3, dtype, precision)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("word", "dtype"), [("fp32", "float32"), ("half", "float16"), ("bf16", "bfloat16"), ("torch.float16", "float16")]
)
def test_a_dtype_has_other_names_too(word: str, dtype: str) -> None:
    assert make_problem(1, 2, 3, word) == make_problem(1, 2, 3, dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_an_element_has_the_bytes_of_its_dtype(dtype: str, size: int) -> None:
    assert make_problem(1, 1, 1, dtype).element_bytes == size  # type: ignore[arg-type]


def test_a_problem_is_described_in_one_line() -> None:
    assert make_problem(128, 512, 1024, "float32").describe() == "M=128 K=1024 N=512 float32 tf32"
    assert make_problem(128, 512, 1024, "float16").describe() == "M=128 K=1024 N=512 float16"
    training = make_problem(128, 512, 1024, "float32", "ieee", "train")
    assert training.describe() == "M=128 K=1024 N=512 float32 ieee train"


sizes = st.integers(min_value=1, max_value=2**31 - 1)


@given(M=sizes, N=sizes, K=sizes, dtype=st.sampled_from(DTYPES), mode=st.sampled_from([None, "train", "eval"]))
def test_whatever_make_problem_lets_through_can_be_read_back_from_a_file(
    M: int, N: int, K: int, dtype: str, mode: str | None
) -> None:
    problem = make_problem(M, N, K, dtype, mode=mode)  # type: ignore[arg-type]
    assert msgspec.json.decode(msgspec.json.encode(problem), type=Problem) == problem


@pytest.mark.parametrize(
    "fields",
    [
        {"M": 0, "N": 1, "K": 1, "dtype": "float32"},
        {"M": 1, "N": 1, "K": 1, "dtype": "float64"},
        {"M": 1, "N": 1, "K": 1, "dtype": "float32", "precision": "fp8"},
        {"M": 1, "N": 1, "K": 1, "dtype": "float32", "mode": "training"},
        {"M": 1, "N": 1, "K": 1},
        {"M": 1, "N": 1, "K": 1, "dtype": "float32", "L": 1},
    ],
)
def test_a_problem_read_from_a_file_is_checked_too(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Problem)
