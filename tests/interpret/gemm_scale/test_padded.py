"""The variant `padded` on the CPU: rows of x and W that begin anywhere, copied to where the copy engine takes them."""

from __future__ import annotations

import pytest
import torch

from fusetune.core.target import find_target
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.gemm_scale import split
from fusetune.ops.gemm_scale.batch_norm import SPEC as WITH_BN
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.padded import padded_rows
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.reach import takes
from fusetune.ops.gemm_scale.tiles import joined_products, persistent_products
from tests.interpret.gemm_scale.test_masked import drawn
from tests.support.gemm_scale.exporting import exported
from tests.support.gemm_scale.handed_out import loaded

CONFIG = Config("padded", 16, 64, 32, GROUP_M=2)
ODD, EVEN_Y, LONG = (20, 75, 77), (21, 37, 80), (9, 1029, 33)
"""M, K, N; LONG has rows of more columns than one program copies."""


@pytest.mark.parametrize(
    ("mode", "splits", "joined", "dtype", "shape"),
    [
        (None, 1, 0, "float16", ODD),
        (None, 1, 0, "float32", EVEN_Y),
        (None, 1, 0, "float16", LONG),
        (None, 3, 0, "float32", ODD),
        ("eval", 2, 1 << 20, "float16", ODD),
        ("train", 1, 0, "float32", ODD),
    ],
)
def test_y_is_what_pytorch_gives_and_nothing_beside_it_is_written(
    mode, splits, joined, dtype, shape, in_bounds, monkeypatch
):
    monkeypatch.setattr(split, "JOINED_BYTES", joined)
    M, K, N = shape
    spec, problem = WITH_BN if mode else PLAIN, make_problem(M, N, K, dtype, mode=mode)
    config = Config("padded", 16, 64, 32, GROUP_M=2, SPLIT_K=splits)
    tensors = drawn(spec, problem, config)
    in_bounds += tensors.values()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    copies, products, *after = spec.launches(problem, config, tensors)
    assert copies.kernel is padded_rows
    assert products.kernel is (joined_products if joined else persistent_products)
    for launch in (copies, products, *after):
        launch.run()
    unit = 128 // problem.element_bytes
    for name in ("x", "weight"):
        copied = tensors[f"{name}_padded"]
        assert copied.shape[1] == -(-K // unit) * unit
        torch.testing.assert_close(copied[:, :K], before[name], rtol=0, atol=0)
        assert not copied[:, K:].any()
    tolerance = 1e-5 if dtype == "float32" else 3e-3
    for name, reference in spec.reference(problem, before).items():
        torch.testing.assert_close(tensors[name].double(), reference, rtol=tolerance, atol=tolerance)


def test_inputs_of_any_strides_and_beginnings_are_taken(in_bounds):
    problem = make_problem(20, 77, 75, "float16")
    tensors = drawn(PLAIN, problem, CONFIG)
    columns, longer = torch.randn(75, 41).half(), torch.randn(77, 80).half()
    tensors["x"], tensors["weight"] = columns.T[1::2], longer[:, 5:]
    assert takes(CONFIG, tensors)
    assert not takes(Config("masked", 16, 64, 32), tensors)
    in_bounds += [columns, longer, *(tensor for name, tensor in tensors.items() if name not in {"x", "weight"})]
    for launch in PLAIN.launches(problem, CONFIG, tensors):
        launch.run()
    torch.testing.assert_close(tensors["y"].double(), PLAIN.reference(problem, tensors)["y"], rtol=3e-3, atol=3e-3)


def test_values_that_are_no_numbers_stay_in_their_rows(in_bounds):
    problem = make_problem(20, 77, 75, "float16")
    tensors = drawn(PLAIN, problem, CONFIG)
    tensors["x"][3, 74] = float("nan")
    tensors["weight"][5, 0] = float("inf")
    in_bounds += tensors.values()
    for launch in PLAIN.launches(problem, CONFIG, tensors):
        launch.run()
    finite = tensors["y"].isfinite()
    assert not finite[3].any()
    assert not finite[:, 5].any()
    assert int(finite.sum()) == 19 * 76


def test_it_is_a_candidate_only_where_the_copy_engine_needs_it():
    h200 = find_target("h200")
    odd, aligned = make_problem(2000, 1001, 1001, "float16"), make_problem(2000, 1001, 1008, "float16")
    config = Config("padded", 128, 128, 64, num_warps=8, num_stages=3)
    assert config in PLAIN.candidates(odd, h200, "standard")
    assert PLAIN.reject(config, odd, h200) is None
    assert config not in PLAIN.candidates(aligned, h200, "standard")
    assert PLAIN.reject(config, aligned, h200).reason == "no_effect"
    assert PLAIN.reject(Config("padded", num_stages=3), odd, find_target("rtx4090")).reason == "capability"
    with pytest.raises(UnsupportedProblemError, match="accumulators a thread"):
        PLAIN.check_config(odd, Config("padded", 1024, 1024, 64))


@pytest.mark.parametrize(("dtype", "splits"), [("float16", 1), ("float32", 4)])
def test_an_exported_module_takes_any_k_and_n(tmp_path, dtype, splits):
    config = Config("padded", 64, 64, 32, SPLIT_K=splits, num_stages=3)
    text = exported("gemm_scale", config, find_target("h200"), sizes=(48, 77, 75), dtype=dtype)
    module = loaded(tmp_path / "padded.py", text)
    torch.manual_seed(0)
    for K, N in ((75, 77), (201, 80), (96, 33)):
        wanted = getattr(torch, dtype)
        x, weight = torch.randn(48, K).to(wanted), (torch.randn(N, K) / 10).to(wanted)
        bias, scale = torch.randn(N).to(wanted), torch.randn(N).to(wanted)
        expected = (x.double() @ weight.double().T + bias.double()) * scale.double()
        tolerance = 1e-5 if dtype == "float32" else 5e-3
        for given in (x, x.T.contiguous().T):
            found = module.fused_gemm_scale(given, weight, bias, scale)
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
