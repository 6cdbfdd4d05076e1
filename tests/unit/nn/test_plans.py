"""What a plan gives its launches of scratch: what calls share, what each has of its own, each in its place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fusetune.nn import plans as module
from fusetune.nn.plans import ARRIVALS, OPERANDS, SCRATCH, Plan, scratch_place
from fusetune.nn.scratch import shared_scratch
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.launches import workspace
from fusetune.ops.gemm_scale.problem import make_problem

COPIES = ("x_padded", "weight_padded")
PLACES = {"partial": SCRATCH, "moments": SCRATCH, "arrivals": ARRIVALS} | {one: OPERANDS.index(one) for one in COPIES}
CASES = {
    "copies": (None, Config("padded", 64, 64, 32), COPIES, ()),
    "copies and summands that a second kernel adds": (
        None,
        Config("padded", 64, 64, 32, SPLIT_K=4),
        (*COPIES, "partial"),
        (),
    ),
    "copies and summands that are joined": (
        None,
        Config("padded", 16, 16, 32, SPLIT_K=2),
        COPIES,
        ("partial", "arrivals"),
    ),
    "copies and moments": ("train", Config("padded", 32, 64, 32), (*COPIES, "moments"), ()),
    "moments": ("train", Config("persistent", 32, 64, 32), ("moments",), ()),
    "nothing": (None, Config("persistent", 32, 64, 32), (), ()),
}


@pytest.fixture
def made(monkeypatch):
    """Stands for the GPU's memory: the tensors that are made, each forgotten when a plan drops it."""
    found = []

    def empty(shape, strides, dtype, device):
        tensor = torch.empty_strided(shape, strides, dtype=dtype)
        found.append((tuple(shape), dtype, device, tensor.data_ptr()))
        return tensor

    monkeypatch.setattr(module, "empty", empty)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 99, raising=False)
    return found


@pytest.mark.parametrize(("mode", "config", "own", "shared"), CASES.values(), ids=CASES)
def test_each_scratch_tensor_is_shared_or_the_call_s_own_and_lies_in_its_place(mode, config, own, shared, made):
    problem = make_problem(100, 77, 201, "float16", mode=mode)
    scratch = workspace(problem, config, mode or "scale")
    assert [operand.name for operand in shared_scratch(scratch)] == list(shared)
    owned = [operand for operand in scratch if operand.name not in shared]
    assert sorted(operand.name for operand in owned) == sorted(own)
    assert {operand.name: scratch_place(operand.name) for operand in scratch} == {
        operand.name: PLACES[operand.name] for operand in scratch
    }
    launched = []
    plan = Plan(
        config,
        problem,
        (lambda stream, values: launched.append((stream, list(values))),) * 2,
        tuple((scratch_place(operand.name), operand) for operand in owned),
        1,
        (lambda stream: SimpleNamespace(addresses=(stream + 1, stream + 2))) if shared else None,
    )
    given = [4096 + place for place in range(len(OPERANDS))]
    for name in PLACES:
        given[PLACES[name]] = 0
    plan.run([*given, 0.5, 0.25])
    expected = [*given, 0.5, 0.25]
    if shared:
        expected[SCRATCH], expected[ARRIVALS] = 100, 101
    assert [shape for shape, *_ in made] == [operand.shape for operand in owned]
    for operand, (_, dtype, device, address) in zip(owned, made, strict=True):
        assert (dtype, device) == (getattr(torch, operand.dtype), 1)
        expected[PLACES[operand.name]] = address
    assert launched == [(99, expected)] * 2
    # Held at once, or one of them would have been given another's memory.
    assert len({address for *_, address in made}) == len(made)
