"""Exported modules on the GPU: they compute what PyTorch does, in training and in evaluation."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from fusetune.core.target import Target
from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale.config import Config
from tests.support.gemm_scale.exporting import OPS, OWNER, REREAD, exported

M, N, K = 128, 512, 1024
CONFIGS = {
    "tiled": Config(BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3),
    "columns": Config(BLOCK_M=128, BLOCK_N=32, BLOCK_K=32, num_stages=3),
    "split_k": Config(variant="split_k", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, SPLIT_K=8, num_stages=3),
    "joined": Config(variant="split_k", BLOCK_M=128, BLOCK_N=16, BLOCK_K=64, SPLIT_K=2, num_stages=3),
    "persistent": Config(variant="persistent", BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8, num_stages=3),
    "reread": REREAD,
    "owner": OWNER,
    "deferred": Config(variant="deferred", BLOCK_M=64, BLOCK_N=128, BLOCK_K=64, num_stages=3),
    "persistent_joined": Config(
        variant="persistent", BLOCK_M=128, BLOCK_N=16, BLOCK_K=64, SPLIT_K=2, num_warps=8, num_stages=3
    ),
}
JOINED = ("joined", "persistent_joined")


class Plain(torch.nn.Module):
    """What the exported module stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.gemm = torch.nn.Linear(K, N)
        self.scale = torch.nn.Parameter(torch.randn(N))
        self.bn = torch.nn.BatchNorm1d(N)

    def forward(self, x: torch.Tensor) -> Any:
        return self.bn(self.gemm(x) * self.scale)


def _module(path: Path, text: str) -> Any:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _target(label: str) -> Target:
    target = local_target(0)
    if CONFIGS[label].is_walking and target.sm < 90:
        pytest.skip("the copy engine needs compute capability 9.0")
    return target


@pytest.mark.parametrize("autotune", [False, True], ids=["fixed", "autotuned"])
@pytest.mark.parametrize("label", CONFIGS)
@pytest.mark.parametrize("op", OPS)
def test_an_exported_model_computes_what_the_plain_one_does(
    op: str, label: str, autotune: bool, tmp_path: Path
) -> None:
    target = _target(label)
    if autotune and label not in {"tiled", "columns"}:
        pytest.skip("BASELINE is another kernel: there is nothing to choose between")
    half = label == "deferred"
    text = exported(op, CONFIGS[label], target, sizes=(M, N, K), dtype="float16" if half else None, autotune=autotune)
    module = _module(tmp_path / f"exported_{op}_{label}.py", text)
    torch.manual_seed(0)
    plain = Plain().cuda()
    fused = module.ModelNew(K, N, (N,)).cuda()
    fused.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(M, K, device="cuda")
    if half:
        fused, x = fused.half(), x.half()
        plain = plain.half()
    with torch.no_grad():
        # TF32 keeps 11 bits of each factor; where descriptors cannot round (triton 3.6) it is cut off instead.
        torch.testing.assert_close(fused(x), plain(x), atol=2e-2, rtol=0)
        torch.testing.assert_close(fused.bn.running_var, plain.bn.running_var, atol=1e-3, rtol=1e-3)
        assert int(fused.bn.num_batches_tracked) == 1
        torch.testing.assert_close(fused.eval()(x), plain.eval()(x), atol=2e-2, rtol=0)


@pytest.mark.parametrize("label", JOINED)
def test_joined_summands_of_two_streams_and_of_a_graph_s_replays_are_counted_apart(label: str, tmp_path: Path) -> None:
    text = exported("gemm_scale", CONFIGS[label], _target(label), sizes=(M, N, K))
    fused = _module(tmp_path / f"exported_at_once_{label}.py", text).fused_gemm_scale
    torch.manual_seed(0)
    weight, bias, scale = torch.randn(N, K, device="cuda") / 32, *torch.randn(2, N, device="cuda")
    inputs = [torch.randn(M, K, device="cuda") for _ in range(3)]
    # The same bits each time, since summands are added up in order whoever comes last.
    wanted = [fused(x, weight, bias, scale) for x in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fused(inputs[0], weight, bias, scale)
    streams = [torch.cuda.Stream() for _ in range(3)]
    torch.cuda.synchronize()
    for _ in range(50):
        with torch.cuda.stream(streams[0]):
            graph.replay()
        made = []
        for x, stream in zip(inputs[1:], streams[1:], strict=True):
            with torch.cuda.stream(stream):
                made.append(fused(x, weight, bias, scale))
        torch.cuda.synchronize()
        for got, expected in zip([captured, *made], wanted, strict=True):
            assert torch.equal(got, expected)
