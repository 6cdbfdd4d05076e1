"""Plans: what a call needs that does not change from call to call, made once for its shapes, strides and alignment."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from fusetune.nn.scratch import Kept
from fusetune.ops.direct import DirectLaunch, direct_launch
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.spec import Call, Launch, Operand, TileDescriptor
from fusetune.ops.stand_in import contiguous_strides

OPERANDS: Final = (
    *("x", "weight", "bias", "scale", "gamma", "beta", "running_mean", "running_var", "num_batches_tracked"),
    *("y", "scratch", "arrivals", "x_padded", "weight_padded"),
)
"""Tensors of a call, in the order of the pointers that a plan takes; after them come eps and momentum."""
SCRATCH: Final = OPERANDS.index("scratch")
ARRIVALS: Final = OPERANDS.index("arrivals")
EPS: Final = len(OPERANDS)
MOMENTUM: Final = EPS + 1
MOST_PLANS: Final = 8192
"""So many shapes; then all are forgotten, since a process with more has no hot ones."""
_ALIGNED: Final = 16

_empty_cuda: Callable[..., torch.Tensor] | None = getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None)


@dataclass(frozen=True)
class Plan:
    """The config of a call and its launches on one device.

    `launches` is None where the config is a library's, or where this Triton has no direct launches: then the launches
    are described anew at each call. `kept` gives scratch for the current stream where calls may share it; `own` is what
    each call allocates, with its place among the pointers. `copied` are the inputs whose strides are too large for any
    config: the launches are for copies without gaps.
    """

    config: Config
    problem: Problem
    launches: tuple[DirectLaunch, ...] | None
    own: tuple[tuple[int, Operand], ...]
    device: int
    kept: Callable[[int], Kept] | None = None
    generation: int = 0
    """`Plans.generation` before its config was looked up."""
    copied: tuple[str, ...] = ()

    def run(self, values: list[Any]) -> None:
        """Launch on the current stream of the current device; `values` holds OPERANDS' pointers, eps and momentum."""
        assert self.launches is not None, "a plan without launches is not run"
        stream = torch._C._cuda_getCurrentRawStream(self.device)
        if self.kept is not None:
            kept = self.kept(stream)  # a name for it: another thread may have it replaced before the launch
            values[SCRATCH], values[ARRIVALS] = kept.addresses
        # Allocated at each call: threads would have to share what is kept, from one launch to the next. And held until
        # all are launched: the next tensor would be given the memory of one that is dropped.
        held = []
        for place, operand in self.own:
            shape = operand.shape
            made = empty(shape, contiguous_strides(shape), getattr(torch, operand.dtype), self.device)
            values[place] = made.data_ptr()
            held.append(made)
        for launch in self.launches:
            launch(stream, values)


def empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, device: int) -> torch.Tensor:
    """A tensor on the current CUDA device `device`, past PyTorch's dispatcher where that can be done."""
    if _empty_cuda is not None:
        return _empty_cuda(shape, strides, dtype)
    return torch.empty_strided(shape, strides, dtype=dtype, device=torch.device("cuda", device))


def scratch_place(name: str) -> int:
    """Where a tensor of the workspace has its pointer: in a place of its own, or that of summands and moments."""
    return OPERANDS.index(name) if name in OPERANDS else SCRATCH


def direct_launches(
    launches: list[Launch | Call], tensors: Mapping[str, Any], scratch: Mapping[str, Any]
) -> tuple[DirectLaunch, ...] | None:
    """The launches of a call on `tensors`, each past Triton's JIT; None where one of them cannot be."""
    place = {id(tensor): OPERANDS.index(name) for name, tensor in tensors.items() if name in OPERANDS}
    place |= {id(tensor): scratch_place(name) for name, tensor in scratch.items()}
    found = []
    for launch in launches:
        if isinstance(launch, Call):
            return None
        sources = {"eps": EPS, "momentum": MOMENTUM}
        for name, value in launch.arguments.items():
            tensor = value.tensor if isinstance(value, TileDescriptor) else value
            # An argument that a kernel does not follow is given the bias: then no pointer is handed on.
            if id(tensor) in place and (tensor is not tensors["bias"] or name == "bias_ptr"):
                sources[name] = place[id(tensor)]
        direct = direct_launch(launch, {name: source for name, source in sources.items() if name in launch.arguments})
        if direct is None:
            return None
        found.append(direct)
    return tuple(found)


def alignment(tensors: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which tensors begin on 16 bytes: Triton compiles for that."""
    return tuple(tensor.data_ptr() % _ALIGNED == 0 for tensor in tensors.values())


class Plans:
    """The plans of this process. Threads may share it: a plan is made by one of them, and looked up without a lock."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Plan] = {}
        self.making = threading.RLock()
        self.count = 0
        """Plans made since the process began, those forgotten too."""
        self._generations = itertools.count(1)
        self.generation = 0
        """Another one whenever other configs are loaded: what began to be made before is used once, and not kept."""

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable) -> Plan | None:
        """The plan, if there is one."""
        return self._made.get(key)

    def put(self, key: Hashable, plan: Plan) -> None:
        """Keep a plan, unless other configs have been loaded meanwhile; the caller holds `making`."""
        self.count += 1
        made = self._made  # a name for it: what is forgotten is another one, whatever is put into this one
        if len(made) >= MOST_PLANS:
            made = self._made = {}
        if plan.generation == self.generation:
            made[key] = plan

    def drop(self, key: Hashable) -> None:
        """Forget one plan."""
        self._made.pop(key, None)

    def made_for(self, op: str) -> list[Plan]:
        """The plans of an op that are kept, oldest first."""
        return [plan for key, plan in self._made.copy().items() if isinstance(key, tuple) and key[0] == op]

    def forget(self) -> None:
        """Make all plans anew: other configs have been loaded."""
        self.generation = next(self._generations)  # before they are forgotten, so that none of before is kept after
        self._made = {}


PLANS: Final = Plans()
