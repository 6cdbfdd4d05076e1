"""The shortest way of a call, on the CPU in a GPU's place: which tensors may take it, and what is handed on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fusetune.nn import bound as module
from fusetune.nn.bound import BoundPlan
from fusetune.nn.plans import ARRIVALS, EPS, MOMENTUM, OPERANDS, SCRATCH


@pytest.fixture
def place(monkeypatch):
    """Two GPUs, `current` is where the thread is; what is launched is kept."""
    place = SimpleNamespace(current=0, launched=[])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: place.current, raising=False)
    monkeypatch.setattr(
        module, "empty", lambda shape, strides, dtype, device: torch.empty_strided(shape, strides, dtype=dtype)
    )
    return place


def _tensors(count=4):
    return tuple(torch.zeros(16, 16) for _ in range(count))


def _bound(place, tensors, device=0):
    plan = SimpleNamespace(device=device, run=place.launched.append)
    return BoundPlan(plan, tensors, torch.empty(16, 16), differentiates=False)


def test_a_plan_of_another_gpu_than_the_current_one_is_not_launched(place):
    tensors = _tensors()
    bound = _bound(place, tensors, device=1)
    assert bound.compute(tensors) is None
    assert not place.launched
    place.current = 1
    assert bound.compute(tensors) is not None
    assert len(place.launched) == 1


@pytest.mark.parametrize("count", [4, 8, 9])
def test_each_operand_s_pointer_lies_in_its_place_and_scratch_is_left_to_the_plan(place, count):
    tensors = _tensors(count)
    y = _bound(place, tensors).compute(tensors, 0.5, 0.25)
    (values,) = place.launched
    assert len(values) == len(OPERANDS) + 2
    assert values[:count] == [tensor.data_ptr() for tensor in tensors]
    assert values[OPERANDS.index("y")] == y.data_ptr()
    assert (values[SCRATCH], values[ARRIVALS], values[EPS], values[MOMENTUM]) == (0, 0, 0.5, 0.25)


def test_a_tensor_that_does_not_begin_on_16_bytes_goes_another_way(place):
    x, *rest = _tensors()
    bound = _bound(place, (x, *rest))
    assert bound.compute((torch.zeros(257)[1:].view(16, 16), *rest)) is None
    assert not place.launched
