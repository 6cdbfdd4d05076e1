"""The library's configs for a GPU that is not there: their finishing kernels compile, and the rest is nobody's."""

from __future__ import annotations

import pytest

from fusetune.compiler.build import compile_config
from fusetune.core.resources import Resources
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.loading import load_spec


@pytest.mark.compile
@pytest.mark.parametrize("target", ["rtx4090", "h200"])
@pytest.mark.parametrize(("op", "mode"), [("gemm_scale", None), ("gemm_scale_bn", "train"), ("gemm_scale_bn", "eval")])
def test_every_reference_compiles_without_a_spill(op, mode, target):
    spec, problem = load_spec(op), make_problem(100, 512, 1024, "float16", mode=mode)
    for config in spec.references(problem):
        made = compile_config(spec, problem, config, find_target(target))
        assert not made.spills
        assert (made == Resources(0, 0, 0)) == (config.variant == "library_folded")
