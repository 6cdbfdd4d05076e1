"""What is compiled without the GPU is what the GPU runs."""

from __future__ import annotations

import random

import pytest
import triton

from fusetune.compiler.build import compile_config
from fusetune.core.resources import Resources
from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.space import candidates, reject_reason
from fusetune.ops.loading import load_spec
from tests.gpu.gemm_scale.test_variants import drawn

PROBLEMS = [
    ("gemm_scale", make_problem(128, 512, 1024, "float32")),
    ("gemm_scale", make_problem(128, 512, 1024, "float16")),
    ("gemm_scale", make_problem(2048, 4096, 1024, "float16")),  # enough tiles for persistent
    ("gemm_scale_bn", make_problem(128, 512, 1024, "float32", mode="train")),
    ("gemm_scale_bn", make_problem(2048, 4096, 1024, "float32", mode="train")),
]


@pytest.mark.parametrize(
    ("op", "problem"), PROBLEMS, ids=lambda value: value if isinstance(value, str) else value.describe()
)
def test_resources_of_the_cubin_are_those_of_the_loaded_kernel_and_the_jit_compiles_nothing_again(op, problem):
    spec, target = load_spec(op), local_target(0)
    fitting = [c for c in candidates(spec.space, "standard") if reject_reason(c, problem, target) is None]
    variants = sorted({config.variant for config in fitting})
    chosen = []
    for variant in variants:
        chosen += random.Random(3).sample([config for config in fitting if config.variant == variant], 5)
    compiled_again = []

    def listen(*, src, metadata, metadata_group, times, cache_hit):
        if not cache_hit:
            compiled_again.append(metadata)

    for config in chosen:
        expected = compile_config(spec, problem, config, target)
        launches = spec.launches(problem, config, drawn(spec, problem, config))
        triton.knobs.compilation.listener = listen
        try:
            loaded = [launch.run() for launch in launches]
        finally:
            triton.knobs.compilation.listener = None
        seen = Resources(
            registers=max(kernel.n_regs for kernel in loaded),
            stack_bytes=max(kernel.n_spills * 4 for kernel in loaded),
            shared_bytes=max(kernel.metadata.shared for kernel in loaded),
        )
        assert seen == expected, config.label()
    assert compiled_again == []
