"""Configs read from a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.config_text import parse_config
from fusetune.ops.gemm_scale.space import GEMM_SPACE


@given(config=st.sampled_from(GEMM_SPACE.configs()))
def test_every_config_of_the_space_is_read_back_from_its_label(config: Config) -> None:
    assert parse_config(config.label()) == config


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("64,64,32,4,3", Config(num_stages=3)),
        (" 64 , 64 , 32 ", Config()),
        ("128,256,32,8,3,8", Config(BLOCK_M=128, BLOCK_N=256, num_warps=8, num_stages=3, GROUP_M=8)),
        ("64,32,64,4,3,1,4", Config("split_k", 64, 32, 64, 1, 4, 4, 3)),
        ("persistent 128,256,32,8,3", Config("persistent", 128, 256, 32, 1, 1, 8, 3)),
        ("64x64x32", Config()),
        ("64x64x32 s3 g8", Config(num_stages=3, GROUP_M=8)),
        ("BASELINE", BASELINE),
    ],
)
def test_figures_labels_and_variants_are_understood(text: str, config: Config) -> None:
    assert parse_config(text) == config


@pytest.mark.parametrize("text", ["", "64", "64,64", "64,64,x", "64x64", "1,2,3,4,5,6,7,8", "w4 s3", "64,64,32,-4"])
def test_anything_else_is_told_with_both_forms(text: str) -> None:
    with pytest.raises(UsageError, match="64,64,32,4,3"):
        parse_config(text)


@pytest.mark.parametrize(("text", "why"), [("63,64,32", "BLOCK_M must be a power of two"), ("64,64,8", ">= 16")])
def test_a_figure_that_no_config_has_is_told_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_config(text)


@pytest.mark.parametrize("text", ["9" * 5000 + "x64x32", "64,64," + "9" * 5000, "v" * 100_000, "64x64x32 w" + "9" * 30])
def test_figures_without_end_are_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as told:
        parse_config(text)
    assert len(str(told.value)) < 500


def test_a_misspelt_baseline_is_told_what_it_may_have_been() -> None:
    with pytest.raises(UsageError, match=r"did you mean baseline\?"):
        parse_config("basline")


def test_capitals_do_not_matter() -> None:
    assert parse_config("Persistent 128X256X32 W8 S3") == parse_config("persistent 128x256x32 w8 s3")
