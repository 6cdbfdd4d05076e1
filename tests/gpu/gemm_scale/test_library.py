"""The library's configs on a GPU: right, timed beside BASELINE, and served by the runtime."""

from __future__ import annotations

import pytest
import torch

from fusetune import ModelNew
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import BlockTimes, Checked
from fusetune.nn import dispatch
from fusetune.nn.bound import forget_plans
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.loading import load_spec

PROBLEMS = [
    ("gemm_scale", make_problem(128, 512, 1024, "float32")),
    ("gemm_scale", make_problem(1024, 8192, 8192, "float16")),
    ("gemm_scale_bn", make_problem(128, 512, 1024, "float32", mode="train")),
    *[("gemm_scale_bn", make_problem(128, 512, 1024, "float32", p, "eval")) for p in ("tf32", "ieee", "bf16x3")],
    ("gemm_scale_bn", make_problem(1024, 8192, 8192, "float16", mode="eval")),
]


@pytest.mark.parametrize(("op", "problem"), PROBLEMS, ids=[f"{op} {problem.describe()}" for op, problem in PROBLEMS])
def test_every_reference_is_right_and_can_be_timed_beside_baseline(op, problem):
    spec = load_spec(op)
    measurer = CudaMeasurer(spec, problem)
    try:
        measurer.prepare(0)
        for config in spec.references(problem):
            checked = measurer.check(config)
            assert isinstance(checked, Checked), checked
            for config_first in (False, True):
                block = measurer.block(BASELINE, config, config_first=config_first)
                assert isinstance(block, BlockTimes), block
                assert block.us > 0
        assert isinstance(measurer.check(BASELINE), Checked)
    finally:
        measurer.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_folded_weights_serve_two_streams_and_a_graph_reads_the_weights_of_its_day(monkeypatch, dtype):
    forget_plans()
    monkeypatch.setattr(dispatch, "_config", lambda op, problem, x: Config(variant="library_folded"))
    model = ModelNew(1024, 512, (512,)).cuda().to(dtype).eval()
    x = torch.randn(128, 1024, device="cuda", dtype=dtype)

    def expected():
        wide = ModelNew(1024, 512, (512,)).double().eval()
        wide.load_state_dict(model.state_dict())
        return wide.cpu()(x.cpu().double())

    def assert_right(y):
        error = (y.double().cpu() - expected()).norm() / expected().norm()
        assert error < (2e-3 if dtype == torch.float32 else 3e-3)

    with torch.no_grad():
        assert_right(model(x))
        with torch.cuda.stream(torch.cuda.Stream()):
            y = model(x)
        torch.cuda.synchronize()
        assert_right(y)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        model.gemm.weight.mul_(2)
        graph.replay()
        assert_right(y)
