"""A config that cannot take the tensors of a call gives way to BASELINE; nothing is raised."""

from __future__ import annotations

import pytest
import torch

from fusetune.nn import dispatch
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.reach import takes

PERSISTENT = Config(variant="persistent", BLOCK_M=128, BLOCK_N=128, num_warps=8)
WHOLE = Config(BLOCK_M=32, BLOCK_N=16)
SMALL = Config(BLOCK_M=16, BLOCK_N=16)
SPLIT = Config(variant="split_k", SPLIT_K=4)
JOINED = Config(variant="split_k", BLOCK_M=16, BLOCK_N=16, SPLIT_K=4)
PERSISTENT_SPLIT = Config(variant="persistent", BLOCK_M=32, BLOCK_N=32, SPLIT_K=4)


def _tensors(**changed):
    tensors = {"x": torch.zeros(24, 32), "weight": torch.zeros(16, 32), "y": torch.zeros(24, 16)}
    return {**tensors, "bias": torch.zeros(16), "scale": torch.zeros(16), **changed}


UNFIT = [
    pytest.param({"x": torch.zeros(24 * 32 + 1)[1:].view(24, 32)}, id="x begins in the middle of 16 bytes"),
    pytest.param({"x": torch.zeros(32, 24).T}, id="x is transposed"),
    pytest.param({"x": torch.zeros(24, 64)[:, ::2]}, id="x has gaps in its rows"),
    pytest.param({"x": torch.zeros(24, 33)[:, :32]}, id="rows of x begin anywhere"),
    pytest.param({"x": torch.zeros(1, 32).expand(24, 32)}, id="x repeats one row"),
    pytest.param({"weight": torch.zeros(16, 33)[:, 1:]}, id="rows of the weight begin anywhere"),
    pytest.param({"weight": torch.zeros(32, 16).T}, id="the weight is transposed"),
    pytest.param({"x": torch.zeros(24, 31), "weight": torch.zeros(16, 31)}, id="K is odd"),
    pytest.param({"weight": torch.zeros(15, 32), "y": torch.zeros(24, 15)}, id="N is odd"),
    pytest.param({name: torch.zeros(24, 28).half() for name in ("x", "weight")}, id="K of 16 bits has 56 bytes"),
]


@pytest.mark.parametrize("changed", UNFIT)
def test_the_copy_engine_does_not_take_what_is_not_aligned_while_tiles_do(changed):
    assert not takes(PERSISTENT, _tensors(**changed))
    assert not takes(PERSISTENT_SPLIT, _tensors(**changed))
    assert takes(BASELINE, _tensors(**changed))
    assert takes(SPLIT, _tensors(**changed))


def test_the_copy_engine_takes_aligned_rows_with_gaps_between_them():
    assert takes(PERSISTENT, _tensors())
    assert takes(PERSISTENT, _tensors(x=torch.zeros(24, 64)[:, :32], weight=torch.zeros(32, 32)[::2]))


@pytest.fixture
def launched(monkeypatch):
    """Configs and workspaces of the launches, none of which runs."""
    seen = []

    def record(problem, config, tensors, ending, **options):
        names = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name not in _tensors()}
        seen.append((config, names))
        return ()

    monkeypatch.setattr(dispatch, "gemm_launches", record)
    return seen


@pytest.mark.parametrize(
    ("config", "ending", "tensors", "expected"),
    [
        (PERSISTENT, "scale", _tensors(), (PERSISTENT, {})),
        (PERSISTENT, "train", _tensors(), (PERSISTENT, {})),
        (PERSISTENT, "scale", _tensors(x=torch.zeros(32, 24).T), (BASELINE, {})),
        (PERSISTENT, "train", _tensors(x=torch.zeros(32, 24).T), (BASELINE, {})),
        (PERSISTENT_SPLIT, "train", _tensors(), (PERSISTENT_SPLIT, {"partial": (1, 4, 32, 32), "arrivals": (1,)})),
        (PERSISTENT_SPLIT, "scale", _tensors(x=torch.zeros(32, 24).T), (BASELINE, {})),
        (SPLIT, "scale", _tensors(), (SPLIT, {"partial": (4, 24, 16)})),
        (SPLIT, "train", _tensors(), (SPLIT, {"partial": (4, 24, 16)})),
        (JOINED, "scale", _tensors(), (JOINED, {"partial": (2, 4, 16, 16), "arrivals": (2,)})),
        (JOINED, "train", _tensors(), (JOINED, {"partial": (4, 24, 16)})),
        (SMALL, "train", _tensors(), (SMALL, {"moments": (2, 2, 16)})),
        (SMALL, "scale", _tensors(), (SMALL, {})),
    ],
)
def test_a_config_is_launched_with_its_own_workspace_or_gives_way(
    monkeypatch, launched, config, ending, tensors, expected
):
    monkeypatch.setattr(dispatch, "config_for", lambda op, problem, index: config)
    problem = make_problem(24, 16, 32, "float32", mode=None if ending == "scale" else ending)
    dispatch.launch("an op", problem, tensors, ending)
    assert launched == [expected]


@pytest.mark.parametrize(("rows", "scratch"), [(24, {}), (32, {}), (33, {"moments": (2, 2, 16)})])
def test_a_config_tuned_for_fewer_rows_gets_room_for_what_a_tile_no_longer_holds(monkeypatch, launched, rows, scratch):
    monkeypatch.setattr(dispatch, "config_for", lambda op, problem, index: WHOLE)
    tensors = _tensors(x=torch.zeros(rows, 32), y=torch.zeros(rows, 16))
    dispatch.launch("an op", make_problem(rows, 16, 32, "float32", mode="train"), tensors, "train")
    assert launched == [(WHOLE, scratch)]
