"""benchmarks/resources.py as far as a CPU can tell: what is drawn, and that every variant and op takes part."""

from __future__ import annotations

import random

import resources

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.space import reject_reason

H200 = find_target("h200")


def test_a_hundred_configs_are_drawn_that_can_run_of_every_variant_and_op() -> None:
    drawn = list(resources.drawn(H200, 100, random.Random(6)))
    assert len(drawn) == 100
    assert len(set(drawn)) == 100
    variants = {"tiled", "split_k", "vectored", "persistent", "masked", "padded", "reread", "owner", "deferred"}
    assert {config.variant for _, _, config in drawn} == variants
    assert {op for op, _, _ in drawn} == {"gemm_scale", "gemm_scale_bn"}
    assert all(reject_reason(config, problem, H200) is None for _, problem, config in drawn)


def test_the_same_seed_draws_the_same_configs() -> None:
    first, second, other = (list(resources.drawn(H200, 30, random.Random(seed))) for seed in (6, 6, 7))
    assert first == second != other
