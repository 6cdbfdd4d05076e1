"""What is compiled without the GPU is what the GPU runs."""

from __future__ import annotations

import random

import pytest
import triton

from fusetune.compiler.build import compile_config
from fusetune.core.problem import make_problem
from fusetune.core.resources import Resources
from fusetune.core.space import candidates, reject_reason
from fusetune.kernels.device import local_target
from fusetune.kernels.gemm_scale import SPEC
from tests.gpu.test_kernel import _draw


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_resources_of_the_cubin_are_those_of_the_loaded_kernel_and_the_jit_compiles_nothing_again(dtype):
    problem, target = make_problem(128, 512, 1024, dtype), local_target(0)
    fitting = [c for c in candidates(SPEC.space, "standard") if reject_reason(c, problem, target) is None]
    tensors = _draw(problem)
    compiled_again = []

    def listen(*, src, metadata, metadata_group, times, cache_hit):
        if not cache_hit:
            compiled_again.append(metadata)

    for config in random.Random(3).sample(fitting, 12):
        expected = compile_config(SPEC, problem, config, target)
        (launch,) = SPEC.launches(problem, config, tensors)
        triton.knobs.compilation.listener = listen
        try:
            loaded = launch.kernel[launch.grid](**launch.arguments, **launch.constants, **launch.options)
        finally:
            triton.knobs.compilation.listener = None
        seen = Resources(registers=loaded.n_regs, stack_bytes=loaded.n_spills * 4, shared_bytes=loaded.metadata.shared)
        assert seen == expected, config.label()
    assert compiled_again == []
