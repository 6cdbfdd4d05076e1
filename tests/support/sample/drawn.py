"""Problems and configs of the sample as hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Problem

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # A lone surrogate is in no UTF-8 file.
sizes = st.integers(1, 2**31 - 1)
problems = st.builds(
    Problem,
    M=sizes,
    N=sizes,
    K=sizes,
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    precision=st.sampled_from([None, "tf32", "ieee", "tf32x3", "bf16x3"]),
    mode=st.sampled_from([None, "train", "eval"]),
)
block_sizes = st.sampled_from([16, 32, 64, 128, 256, 512, 1024])
configs = st.builds(
    Config,
    variant=_texts,
    BLOCK_M=block_sizes,
    BLOCK_N=block_sizes,
    BLOCK_K=block_sizes,
    GROUP_M=st.integers(1, 1024),
    SPLIT_K=st.integers(1, 1024),
    num_warps=st.sampled_from([1, 2, 4, 8, 16, 32]),
    num_stages=st.integers(1, 16),
) | st.just(BASELINE)
library_configs = st.builds(Config, variant=st.sampled_from(["library", "library_folded"]), BLOCK_M=block_sizes)
