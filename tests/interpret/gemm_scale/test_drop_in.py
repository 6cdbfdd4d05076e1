"""The fused modules by their kernels on the CPU: a kernel is launched only where it gives what PyTorch gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fusetune import FusedLinearScale, ModelNew
from fusetune.nn import dispatch
from tests.support.gemm_scale.drop_in import (
    CHANGES,
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

each_kind = pytest.mark.parametrize("kind", [FusedLinearScale, ModelNew], ids=lambda kind: kind.__name__)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
pytestmark = pytest.mark.filterwarnings("ignore")
CLOSE = {"rtol": 1e-3, "atol": 1e-3}

BY_KERNELS = {"eager", "no_grad", "inference_mode", "functional_call", "batched gradients", "a default device"}
BY_KERNELS |= {"deepcopy", "pickle", "state_dict", "checkpoint", "DataParallel's replica"}
"""Ways in which nobody else than the caller sees a call."""
BY_COMPILERS = {way for way in WAYS if "compile" in way}
KEPT = {
    "no bias",
    "frozen weights",
    "tied weights",
    "a scale in a buffer",
    "a scale of one dimension more",
    "pruned scale",
}
KEPT |= {"parametrized scale", "bn: no statistics", "bn: not affine", "bn: averages", "bn: frozen", "bn: trains alone"}
KEPT |= {"bn: no longer tracking", "bn: no gamma", "bn: no beta", "bn: nothing counted"}
"""Changes that a kernel heeds."""
COUNTING = {
    "bn: neither mean nor variance",
    "bn: nothing counted, averages",
    "bn: counted in floats",
    "bn: counted in two",
}
"""Those that an evaluation does not depend on."""
OF_NORM = {"BatchNorm1d.forward", "the forward of all norms", "BatchNorm1d.__call__", "functional.batch_norm"}
"""Who looks at BatchNorm alone, behind which the product may be a kernel's."""


@pytest.fixture
def launched(monkeypatch):
    """The ops that were launched, in order."""
    ops = []
    launch = dispatch.plan_for
    monkeypatch.setattr(dispatch, "plan_for", lambda op, *rest: ops.append(op) or launch(op, *rest))
    return ops


@each_mode
@pytest.mark.parametrize("way", [way for way in WAYS if way not in BY_COMPILERS])
@each_kind
def test_kernels_are_launched_where_nobody_looks_on_and_give_what_pytorch_gives(kind, way, training, launched):
    ours, plain = pair(kind, training=training)
    expected = outcome(plain, lambda: WAYS[way](plain, rows()))
    assert_same(outcome(ours, lambda: WAYS[way](ours, rows())), expected, **CLOSE)
    assert bool(launched) == (way in BY_KERNELS)


@each_mode
@pytest.mark.parametrize("change", [*CHANGES, *NORM_CHANGES])
def test_a_kernel_heeds_what_was_done_to_the_parts_or_leaves_it_to_them(change, training, launched):
    ours, plain = pair(ModelNew, training=training)
    for module in (ours, plain):
        {**CHANGES, **NORM_CHANGES}[change](module)
    told = []
    for module in (ours, plain):
        weights = [one for name, one in module.named_parameters() if name.startswith("gemm")]
        x = rows().to(weights[0].dtype if weights else torch.float32)
        torch.manual_seed(7)
        told.append(outcome(module, lambda module=module, x=x: module(x)))
    assert_same(*told, **CLOSE)
    if change in KEPT or (change in COUNTING and not training):
        assert set(launched) == {"gemm_scale_bn"}
    else:
        assert set(launched) <= ({"gemm_scale"} if change in NORM_CHANGES else set())


@each_mode
@pytest.mark.parametrize("watch", WATCHES)
def test_no_kernel_hides_a_call_from_those_who_look_on(watch, training, launched):
    told, seen = [], []
    for module in pair(ModelNew, training=training):
        x = rows()
        with WATCHES[watch]() as what:
            told.append(outcome(module, lambda module=module, x=x: module(x)))
        seen.append(what)
    assert_same(*told, **CLOSE)
    assert seen[0] == seen[1]
    assert set(launched) <= ({"gemm_scale"} if watch in OF_NORM else set())


@each_mode
@each_kind
def test_x_and_scale_of_all_shapes_go_as_the_plain_module_s(kind, training, launched):
    shapes = [(5, K), (1, K), (0, K), (K,), (2, N, K), (2, 0, K), (2, 5, K), (5, K + 1)]
    for x_shape, scale_shape in itertools.product(shapes, [(N,), (1, N), (1, 1, N), (), (5, N), (N, 1), (N + 1,)]):
        ours, plain = pair(kind, training=training)
        scale = torch.linspace(1, 2, max(torch.Size(scale_shape).numel(), 1)).reshape(scale_shape)
        for module in (ours, plain):
            module.scale = nn.Parameter(scale.clone())
        x = torch.randn(x_shape, generator=torch.Generator().manual_seed(2))
        try:
            assert_same(*(outcome(one, lambda one=one, x=x: one(x)) for one in (ours, plain)), rtol=1e-2, atol=1e-2)
        except AssertionError as error:
            raise AssertionError(f"x {x_shape}, scale {scale_shape}") from error
    assert launched


@pytest.mark.parametrize("place", range(3), ids=["x", "weight", "scale"])
def test_a_view_whose_numbers_are_still_to_be_negated_is_not_read_as_it_lies(place):
    ours, plain = pair(FusedLinearScale)
    made = [rows(), ours.gemm.weight.detach(), ours.scale.detach()]
    negated = torch.complex(torch.zeros_like(made[place]), made[place]).conj().imag
    assert negated.is_neg()
    made[place] = negated
    expected = nn.functional.linear(made[0], made[1], plain.gemm.bias) * made[2]
    ours.gemm._parameters["weight"], ours._parameters["scale"] = made[1:]
    torch.testing.assert_close(ours(made[0]), expected, **CLOSE)


@each_mode
def test_a_batch_of_one_row_is_counted_before_it_is_refused(training):
    told = [outcome(module, lambda module=module: module(rows(1))) for module in pair(ModelNew, training=training)]
    assert_same(*told, **CLOSE)
