"""The examples of both ops reach every variant, dtype, precision and mode; the first is short and the last long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fusetune.core.target import find_target
from fusetune.ops.checking import check_spec
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import LIBRARY_NAMES, WALKING
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.problem import DTYPES, PRECISIONS
from fusetune.ops.spec import KernelSpec

SPECS = pytest.mark.parametrize("spec", [PLAIN, WITH_BN], ids=lambda spec: spec.name)


def reached(spec: KernelSpec, gpu: str) -> Iterator[tuple[str | None, str]]:
    """Each variant of which a candidate passes at an example, with the mode, and each of a library's configs."""
    target = find_target(gpu)
    for problem in spec.examples():
        seen: set[str] = set()
        for config in spec.candidates(problem, target, "standard"):
            if config.variant not in seen and spec.reject(config, problem, target) is None:
                seen.add(config.variant)
                yield problem.mode, config.variant
        yield from ((problem.mode, config.variant) for config in spec.references(problem))


def test_every_variant_of_each_mode_is_reached_on_a_gpu_that_can_run_all() -> None:
    always = {"tiled", "split_k", "vectored", "persistent", "masked", "padded", "deferred", "library"}
    assert set(reached(PLAIN, "h200")) == {(None, variant) for variant in always}
    expected = {(mode, variant) for mode in ("train", "eval") for variant in always}
    expected |= {("train", "owner"), ("train", "reread"), ("eval", "library_folded")}
    assert set(reached(WITH_BN, "h200")) == expected
    assert {variant for _, variant in expected} == {"tiled", "split_k", "vectored", *WALKING, *LIBRARY_NAMES}


def test_what_needs_no_copy_engine_is_reached_on_a_gpu_without_one() -> None:
    assert {variant for _, variant in reached(PLAIN, "rtx4090")} == {"tiled", "split_k", "vectored", "library"}


@SPECS
def test_every_dtype_precision_and_mode_is_there_once_and_the_op_computes_it(spec: KernelSpec) -> None:
    examples = spec.examples()
    assert len(examples) == len(set(examples))
    assert {one.dtype for one in examples} == set(DTYPES)
    assert {one.precision for one in examples} == {None, *PRECISIONS}
    assert {one.mode for one in examples} == set(spec.modes)
    for problem in examples:
        check_spec(spec, problem)


@SPECS
def test_the_first_is_short_and_the_last_long(spec: KernelSpec) -> None:
    work = [spec.flops(problem) for problem in spec.examples()]
    assert work[-1] > 0.99 * max(work)
    assert work[0] * 100 < work[-1]
    h200 = find_target("h200")
    first, last = spec.examples()[0], spec.examples()[-1]
    times = [spec.estimate(spec.baseline(one), one, h200).time_us for one in (first, last)]
    assert times[0] < 50 < times[1]
