"""The fused modules stand where PyTorch's stood: whatever is done with them, and whatever they are given."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from fusetune import (
    FusedLinearScale,
    FusedLinearScaleBatchNorm,
    ModelNew,
    fused_gemm_scale,
    fused_gemm_scale_batch_norm,
)
from fusetune.nn import dispatch
from tests.support.gemm_scale.drop_in import (
    CHANGES,
    KINDS,
    NORM_CHANGES,
    WATCHES,
    WAYS,
    K,
    N,
    assert_same,
    outcome,
    pair,
    rows,
)

PARTS = [
    *((FusedLinearScale, change) for change in CHANGES),
    *((ModelNew, change) for change in (*CHANGES, *NORM_CHANGES)),
]
each_kind = pytest.mark.parametrize("kind", [FusedLinearScale, ModelNew], ids=lambda kind: kind.__name__)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
pytestmark = pytest.mark.filterwarnings("ignore")  # of what PyTorch will do without some day

X_SHAPES = [
    (5, K),
    (1, K),
    (0, K),
    (K,),
    (3, K),
    (0, 3, K),
    (2, 0, K),
    (2, N, K),
    (2, 5, K),
    (1, 1, K),
    (2, 2, N, K),
    (),
]
X_SHAPES += [(5, K + 1), (2, N, 0), (K, 5), (0,)]
SCALE_SHAPES = [(N,), (1, N), (1, 1, N), (), (1,), (5, N), (5, 1), (N, 1), (2, 1, N), (N + 1,), (0,), (2, N, N)]
SCALE_DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.bool,
    torch.complex64,
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PRODUCTS = [*((dtype, dtype) for dtype in DTYPES), (torch.float32, torch.float64), (torch.bfloat16, torch.float32)]


def _compare(ours, plain, *xs):
    """The same calls of both, in turn, of which the last one is compared with all that it leaves."""

    def called(module):
        torch.manual_seed(7)  # for what is made at the first call
        for x in xs[:-1]:
            module(x)
        return module(xs[-1])

    assert_same(*(outcome(module, lambda module=module: called(module)) for module in (ours, plain)))


@each_mode
@pytest.mark.parametrize("way", WAYS)
@each_kind
def test_every_way_to_run_a_module_gives_what_it_gives_for_the_plain_one(kind, way, training):
    ours, plain = pair(kind, training=training)
    assert_same(*(outcome(module, lambda module=module: WAYS[way](module, rows())) for module in (ours, plain)))


@each_mode
@pytest.mark.parametrize(("kind", "change"), PARTS, ids=lambda value: value if isinstance(value, str) else None)
def test_whatever_was_done_to_the_parts_is_heeded(kind, change, training):
    ours, plain = pair(kind, training=training)
    for module in (ours, plain):
        {**CHANGES, **NORM_CHANGES}[change](module)
    dtype = _dtype_of(plain)
    _compare(ours, plain, rows(seed=3).to(dtype), rows().to(dtype))


def _dtype_of(module):
    """Of the weights, which to ask for may be seen."""
    return next((one.dtype for name, one in module.named_parameters() if name.startswith("gemm")), torch.float32)


@each_mode
@pytest.mark.parametrize("watch", WATCHES)
@each_kind
def test_whoever_looks_on_sees_what_the_plain_module_does(kind, watch, training):
    told, seen = [], []
    for module in pair(kind, training=training):
        x = rows()
        with WATCHES[watch]() as what:
            told.append(outcome(module, lambda module=module, x=x: module(x)))
        seen.append(what)
    assert_same(*told)
    assert seen[0] == seen[1]
    assert seen[0] or "backward" in watch or (kind is FusedLinearScale and "orm" in watch), "nothing was looked at"


@each_mode
@each_kind
def test_x_and_scale_of_all_shapes_go_as_the_plain_module_s(kind, training):
    for x_shape, scale_shape in itertools.product(X_SHAPES, SCALE_SHAPES):
        ours, plain = pair(kind, training=training)
        generator = torch.Generator().manual_seed(2)
        x, scale = (torch.randn(shape, generator=generator) for shape in (x_shape, scale_shape))
        for module in (ours, plain):
            module.scale = nn.Parameter(scale.clone())
        try:
            _compare(ours, plain, x)
        except AssertionError as error:
            raise AssertionError(f"x {x_shape}, scale {scale_shape}") from error


@each_mode
@each_kind
def test_x_and_parts_of_all_dtypes_go_as_the_plain_module_s(kind, training):
    norms, scales = (DTYPES[:3], SCALE_DTYPES[::2]) if kind is ModelNew else (DTYPES[:1], SCALE_DTYPES)
    for (of_x, of_gemm), of_norm, of_scale in itertools.product(PRODUCTS, norms, [None, *scales]):
        ours, plain = pair(kind, training=training)
        for module in (ours, plain):
            module.gemm.to(of_gemm)
            scale = module.scale.detach().to(of_scale or of_gemm)
            del module.scale
            module.scale = scale
            if kind is not FusedLinearScale:
                module.bn.to(of_norm)
        try:
            _compare(ours, plain, rows(4).to(of_x))
        except AssertionError as error:
            raise AssertionError(f"x {of_x}, gemm {of_gemm}, bn {of_norm}, scale {of_scale}") from error


@pytest.mark.parametrize("shape", [(0, 3, K), (2, 0, K), (2, 5, 0), (0, K), (0, 0), (K,)], ids=str)
def test_the_function_takes_an_x_of_no_elements_as_pytorch_does(shape):
    x, weight, bias, scale = torch.randn(shape), torch.randn(N, shape[-1]), torch.randn(N), torch.randn(N)
    assert torch.equal(fused_gemm_scale(x, weight, bias, scale), nn.functional.linear(x, weight, bias) * scale)


def test_a_batch_of_one_row_is_counted_before_it_is_refused():
    ours, plain = pair(ModelNew)
    _compare(ours, plain, rows(), rows(1))
    assert int(ours.bn.num_batches_tracked) == 2


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_mode
def test_a_compiled_model_takes_few_rows_as_the_plain_one_does(count, dynamic, training):
    told = []
    for module in pair(ModelNew, training=training):
        torch._dynamo.reset()
        compiled = torch.compile(module, backend="aot_eager", dynamic=dynamic)
        told.append(outcome(module, lambda compiled=compiled: compiled(rows(count))))
    assert_same(*told)


@pytest.fixture(scope="module", autouse=True)
def _nobody_times_guards():
    """Of whatever is compiled, PyTorch times the guards, behind an emptied cache: a tenth of what compiling takes."""
    from torch._dynamo import guards

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "profile_guard_manager", lambda *_: 0.0, raising=False)
        yield


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Let torch.compile see the operators on a CPU as well, where they are computed by PyTorch."""
    on = dispatch._has_kernels_for
    monkeypatch.setattr(dispatch, "_has_kernels_for", lambda x, compiling: compiling or on(x, compiling))


def _mixed(module, of_gemm, of_scale, of_norm):
    module.gemm.to(of_gemm)
    module.scale.data = module.scale.data.to(of_scale)
    module.bn.to(of_norm)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float32,) * 3,
        (torch.bfloat16,) * 3,
        (torch.float16,) * 3,
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("momentum", [0.25, None])
@each_mode
def test_the_operators_that_a_compiler_sees_compute_as_eager_calls_do(dtypes, momentum, training, as_on_a_gpu):
    ours, plain = pair(ModelNew, training=training)
    for module in (ours, plain):
        _mixed(module, *dtypes)
        module.bn.momentum = momentum
    torch._dynamo.reset()
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    compiled, x = torch.compile(ours, backend=backend, fullgraph=True), rows().to(dtypes[0])
    told = [outcome(ours, lambda: compiled(x)), outcome(plain, lambda: plain(x))]
    loose = {} if dtypes[0] == torch.float32 else {"rtol": 5e-2, "atol": 0.2}
    assert_same(*told, **loose)
    assert any("fusetune.gemm_scale_bn" in target for target in seen)


@pytest.mark.parametrize("change", [*CHANGES, *NORM_CHANGES])
def test_no_operator_takes_a_changed_part_s_place(change, as_on_a_gpu):
    """Compiled as on a GPU: where an operator is used after all, it gives what the plain module gives."""
    told = []
    for module in pair(ModelNew):
        {**CHANGES, **NORM_CHANGES}[change](module)
        torch._dynamo.reset()
        compiled = torch.compile(module, backend="eager")
        x = rows().to(_dtype_of(module))
        torch.manual_seed(7)
        told.append(outcome(module, lambda compiled=compiled, x=x: compiled(x)))
    # In 16 bits the gradient of what training cancels is noise.
    assert_same(*told, rtol=2e-2, atol=2e-2 if x.dtype == torch.float32 else 0.2)


FUNCTIONS = {
    "product": lambda x, weight, bias, scale, *_: fused_gemm_scale(x, weight, bias, scale),
    "train": lambda *tensors: fused_gemm_scale_batch_norm(*tensors, training=True),
    "eval": lambda *tensors: fused_gemm_scale_batch_norm(*tensors, training=False),
}


class Called(nn.Module):
    """A user's module with one of the functions, or what it is in PyTorch."""

    def __init__(self, function, fused):
        super().__init__()
        torch.manual_seed(0)
        self.gemm, self.scale, self.bn = nn.Linear(K, N), nn.Parameter(torch.randn(N)), nn.BatchNorm1d(N)
        self.function, self.fused = function, fused

    def forward(self, x):
        gemm, bn = self.gemm, self.bn
        if self.fused:
            tensors = gemm.weight, gemm.bias, self.scale, bn.weight, bn.bias, bn.running_mean, bn.running_var
            return FUNCTIONS[self.function](x, *tensors)
        y = gemm(x) * self.scale
        if self.function == "product":
            return y
        training = self.function == "train"
        return nn.functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, training)


@pytest.mark.parametrize("way", [way for way in WAYS if way not in {"jit.script", "jit.trace, operators"}])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_way_to_run_a_function_gives_what_it_gives_for_pytorch_s(function, way):
    told = []
    for fused in (True, False):
        module = Called(function, fused)
        told.append(outcome(module, lambda module=module: WAYS[way](module, rows())))
    assert_same(*told)


@pytest.mark.parametrize("dtype", SCALE_DTYPES, ids=str)
def test_the_function_s_scale_may_be_of_any_dtype(dtype):
    x, weight, bias, scale = rows(), torch.randn(N, K), torch.randn(N), torch.randn(N).to(dtype)
    expected = nn.functional.linear(x, weight, bias) * scale
    y = fused_gemm_scale(x, weight, bias, scale)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)


def test_a_module_put_in_torchscript_keeps_a_subclass_s_own_forward():
    class Own(ModelNew):
        def forward(self, x):
            return 2 * x

    assert torch.equal(torch.jit.script(Own(K, N, (N,)))(rows()), 2 * rows())


def test_two_names_of_one_module_are_one():
    assert KINDS[ModelNew] is KINDS[FusedLinearScaleBatchNorm]
    assert ModelNew.forward is FusedLinearScaleBatchNorm.forward


def test_a_patch_that_is_taken_back_leaves_nothing():
    ours, plain = pair(ModelNew)
    for module in (ours, plain):
        forward = module.gemm.forward
        module.gemm.forward = lambda x, forward=forward: 3 * forward(x)
    _compare(ours, plain, rows())
    for module in (ours, plain):
        del module.gemm.forward
    _compare(copy.deepcopy(ours), copy.deepcopy(plain), rows())


@pytest.mark.parametrize("strict", [False, True])
@each_kind
def test_an_exported_program_holds_pytorch_s_operators_alone(kind, strict, as_on_a_gpu):
    """Whoever loads it, or converts it to ONNX, need not know ours."""
    torch._dynamo.reset()
    module, _ = pair(kind, training=False)
    graph = torch.export.export(module, (rows(),), strict=strict).graph
    assert not [node for node in graph.nodes if "fusetune" in str(node.target)]
