"""The kernel's arithmetic, addresses and masks on the CPU, through Triton's interpreter, against float64."""

from __future__ import annotations

import pytest
import torch

from fusetune import ModelNew, fused_gemm_scale
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import Problem, make_problem

SHAPES = [(1, 1, 1), (5, 123, 77), (16, 16, 16), (33, 70, 50), (64, 64, 64), (70, 40, 130)]
# What rounding y to its dtype may cost. The interpreter cuts bfloat16 off instead of rounding it to the nearest.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-7}
CONFIGS = [
    BASELINE,
    Config(BLOCK_M=16, BLOCK_N=16, BLOCK_K=16, GROUP_M=8),
    Config(BLOCK_M=16, BLOCK_N=32, BLOCK_K=16, GROUP_M=2, num_warps=2),
    Config(BLOCK_M=32, BLOCK_N=16, BLOCK_K=256),
    Config(BLOCK_M=256, BLOCK_N=256, BLOCK_K=16),
]
each_shape = pytest.mark.parametrize(("M", "K", "N"), SHAPES)


@pytest.fixture
def bfloat16_dot(monkeypatch):
    """Let the interpreter multiply bfloat16, which it keeps as integers: github.com/triton-lang/triton/issues/11584."""
    try:
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

        original = InterpreterBuilder.create_dot
    except (ImportError, AttributeError) as error:
        pytest.skip(f"this Triton's interpreter has other private names: {error}")

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype("uint32") << 16).view("float32"), tl.float32)

    def create_dot(self, a, b, *rest):
        return original(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def _draw(problem: Problem) -> dict[str, torch.Tensor]:
    torch.manual_seed(problem.M + problem.N + problem.K)
    tensors = {}
    for operand in SPEC.operands(problem):
        tensors[operand.name] = (torch.randn(operand.shape) * operand.std).to(getattr(torch, operand.dtype))
    tensors["y"].fill_(float("nan"))
    return tensors


def _run(problem: Problem, config: Config, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    for launch in SPEC.launches(problem, config, tensors):
        launch.run()
    return tensors["y"]


def _assert_right(y: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
    """Each element is the float64 one but for float32 sums, which the interpreter makes whatever the precision."""
    x, weight, bias, scale = (tensors[name].double() for name in ("x", "weight", "bias", "scale"))
    exact = (x @ weight.T + bias) * scale
    summed = (x.abs() @ weight.abs().T + bias.abs()) * scale.abs()
    bound = 4 * 2.0**-24 * summed + ROUNDING[str(y.dtype).removeprefix("torch.")] * exact.abs() + 2.0**-25
    # Not `error > bound`: a NaN, for which every comparison is false, has to be wrong.
    right = (y.double() - exact).abs() <= bound
    assert bool(right.all()), f"{int((~right).sum())} of {y.numel()} elements are wrong"


@pytest.mark.usefixtures("bfloat16_dot")
@pytest.mark.parametrize("config", CONFIGS, ids=Config.label)
@pytest.mark.parametrize("dtype", ROUNDING)
@each_shape
def test_y_is_right_in_every_element_and_nothing_else_is_touched_whatever_the_tile(M, K, N, dtype, config, in_bounds):
    problem = make_problem(M, N, K, dtype)
    tensors = _draw(problem)
    in_bounds += tensors.values()
    before = {name: tensor.clone() for name, tensor in tensors.items() if name != "y"}
    _assert_right(_run(problem, config, tensors), tensors)
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
def test_every_precision_runs_the_same_arithmetic_here(precision):
    problem = make_problem(33, 50, 70, "float32", precision)
    tensors = _draw(problem)
    y = _run(problem, BASELINE, tensors).clone()
    assert torch.equal(y, _run(make_problem(33, 50, 70, "float32"), BASELINE, tensors))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@each_shape
def test_fused_gemm_scale_launches_the_kernel(M, K, N, dtype):
    problem = make_problem(M, N, K, dtype)
    tensors = _draw(problem)
    y = fused_gemm_scale(*(tensors[name] for name in ("x", "weight", "bias", "scale")))
    assert y.is_contiguous()
    _assert_right(y, tensors)


@pytest.mark.parametrize(
    "take",
    [
        pytest.param(lambda rows, columns: torch.randn(columns, rows).T, id="transposed"),
        pytest.param(lambda rows, columns: torch.randn(rows, 2 * columns)[:, ::2], id="every second column"),
        pytest.param(lambda rows, columns: torch.randn(3 * rows, columns)[::3], id="every third row"),
        pytest.param(lambda rows, columns: torch.randn(1, columns).expand(rows, columns), id="one row, expanded"),
    ],
)
def test_strided_x_and_weight_are_read_in_place(take):
    torch.manual_seed(3)
    x, weight = take(33, 70), take(50, 70) / 70**0.5
    bias, scale = torch.randn(2, 50)
    tensors = {"x": x, "weight": weight, "bias": bias, "scale": scale}
    _assert_right(fused_gemm_scale(**tensors), tensors)


FAR = 70_000_000
"""Elements from one column to the next: 2**31 are reached within a tile."""


def far_apart(rows, columns):
    """Random numbers in a huge storage of which nothing else is ever touched."""
    kept = torch.empty_strided((rows, columns), (1, FAR), dtype=torch.float16)
    return kept.copy_(torch.randn(rows, columns))


@pytest.mark.parametrize("which", ["x", "weight"])
def test_numbers_too_far_apart_for_32_bits_are_read_right(which):
    torch.manual_seed(5)
    near = {"x": torch.randn(8, 40).half(), "weight": torch.randn(16, 40).half() / 40**0.5}
    near[which] = far_apart(*near[which].shape)
    bias, scale = torch.randn(2, 16).half()
    tensors = {**near, "bias": bias, "scale": scale}
    y = fused_gemm_scale(**tensors)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    expected = (wide["x"] @ wide["weight"].T + wide["bias"]) * wide["scale"]
    assert float((y.double() - expected).norm() / expected.norm()) < 2e-3


def test_strided_bias_and_scale_are_read_right():
    torch.manual_seed(4)
    x, weight = torch.randn(5, 8), torch.randn(6, 8)
    bias, scale = torch.randn(6, 2).unbind(1)
    tensors = {"x": x, "weight": weight, "bias": bias, "scale": scale}
    _assert_right(fused_gemm_scale(**tensors), tensors)


def test_empty_inputs_give_what_pytorch_gives():
    bias, scale = torch.randn(2, 8)
    y = fused_gemm_scale(torch.empty(4, 0), torch.empty(8, 0), bias, scale)
    assert torch.equal(y, (bias * scale).expand(4, 8))
    assert fused_gemm_scale(torch.empty(0, 5), torch.empty(8, 5), bias, scale).shape == (0, 8)


def test_bfloat16_is_refused_because_the_interpreter_would_multiply_its_bits():
    x, weight = torch.randn(4, 8, dtype=torch.bfloat16), torch.randn(6, 8, dtype=torch.bfloat16)
    bias, scale = torch.randn(2, 6, dtype=torch.bfloat16)
    with pytest.raises(UsageError, match="interpreter cannot multiply bfloat16"):
        fused_gemm_scale(x, weight, bias, scale)


def test_a_dtype_that_the_kernel_does_not_know_is_computed_by_pytorch_here_as_well():
    x, weight = torch.randn(4, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)
    bias, scale = torch.randn(2, 6, dtype=torch.float64)
    expected = torch.nn.functional.linear(x, weight, bias) * scale
    assert torch.equal(fused_gemm_scale(x, weight, bias, scale), expected)


def test_gradients_are_those_of_the_plain_expression():
    torch.manual_seed(5)
    tensors = [torch.randn(7, 9), torch.randn(5, 9), torch.randn(5), torch.randn(5)]
    ours, plain = ([tensor.clone().requires_grad_() for tensor in tensors] for _ in range(2))
    along = torch.randn(7, 5)
    fused_gemm_scale(*ours).backward(along)
    x, weight, bias, scale = plain
    (torch.nn.functional.linear(x, weight, bias) * scale).backward(along)
    for mine, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


@pytest.mark.parametrize("training", [True, False])
def test_model_new_gives_what_the_plain_module_gives(training):
    torch.manual_seed(6)
    model = ModelNew(40, 24, (24,)).train(training)
    linear, bn = torch.nn.Linear(40, 24), torch.nn.BatchNorm1d(24).train(training)
    linear.load_state_dict(model.gemm.state_dict())
    bn.load_state_dict(model.bn.state_dict())
    for _ in range(3):
        x = torch.randn(33, 40)
        torch.testing.assert_close(model(x), bn(linear(x) * model.scale))
    torch.testing.assert_close(model.bn.running_mean, bn.running_mean)
    torch.testing.assert_close(model.bn.running_var, bn.running_var)
