"""Configs that somebody typed, held against what an op launches."""

from __future__ import annotations

import pytest

from fusetune.errors import EXIT_USAGE, UnsupportedProblemError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Mode, Problem, make_problem
from fusetune.ops.gemm_scale.typed import check_config, variants_of
from fusetune.ops.loading import load_spec

LARGE = make_problem(512, 512, 1024, "float32")


def of_bn(mode: Mode) -> Problem:
    return make_problem(512, 512, 1024, "float32", None, mode)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("persistant", "persistent"),
        ("persistent_", "persistent"),
        ("tile", "tiled"),
        ("splitk", "split_k"),
        ("defered", "deferred"),
        ("libary", "library"),
    ],
)
def test_a_variant_that_is_misspelt_is_told_with_the_nearest_name(typed: str, meant: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=f"no variant '{typed}' .*; did you mean {meant}\\?") as told:
        check_config(load_spec("gemm_scale"), LARGE, Config(variant=typed))
    assert told.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("typed", ["zzz", "reread", "owner", "library_folded"])
def test_what_is_near_nothing_or_another_op_s_is_told_with_what_there_is(typed: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=f"no variant '{typed}' .*; it has tiled, split_k") as told:
        check_config(load_spec("gemm_scale"), LARGE, Config(variant=typed))
    assert "did you mean" not in str(told.value)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (Config(variant="split_k"), "needs a SPLIT_K of 2 or more"),
        (Config(SPLIT_K=4), "can split K"),
        (Config(variant="deferred", BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=3), "float16 or bfloat16"),
        (Config(BLOCK_M=1024, BLOCK_N=1024), "8192 accumulators a thread"),
    ],
)
def test_a_config_that_no_kernel_is_made_of_is_refused_with_its_label(config: Config, why: str) -> None:
    with pytest.raises(UnsupportedProblemError, match=why) as told:
        check_config(load_spec("gemm_scale"), LARGE, config)
    assert config.label() in str(told.value)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_every_config_that_an_op_offers_of_itself_may_be_typed(mode: Mode) -> None:
    spec, problem = load_spec("gemm_scale_bn"), of_bn(mode)
    offered = {config.variant: config for config in spec.space.configs() if config.BLOCK_M == 64}
    train_only, half = {"reread", "owner"}, {"deferred"}
    for variant, config in offered.items():
        if variant not in half and (mode == "train" or variant not in train_only):
            check_config(spec, problem, config)
    for config in (BASELINE, *spec.references(problem)):
        check_config(spec, problem, config)
    assert set(offered) <= set(variants_of(spec, problem))
