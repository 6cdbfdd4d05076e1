"""The shortest way of a call: a plan, and the check that it is right for the tensors at hand."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Sequence
from typing import Any, Final

import torch

from fusetune.nn.guards import make_check
from fusetune.nn.plans import PLANS, Plan, empty
from fusetune.ops.stand_in import contiguous_strides
from fusetune.runtime.configs import forget_at_load

MOST_BOUND: Final = 4096
"""So many calls are known; then all are forgotten, since what died is among them."""
_ALIGNED: Final = 15


class BoundPlan:
    """A plan with the check of the tensors it was made for, the first of OPERANDS, all aligned and contiguous vectors.

    `differentiates` says that a backward pass may come.
    """

    __slots__ = ("_dtype", "_elsewhere", "_shape", "_strides", "check", "differentiates", "plan")

    def __init__(self, plan: Plan, tensors: Sequence[torch.Tensor], y: torch.Tensor, differentiates: bool) -> None:
        self.plan, self.check, self.differentiates = plan, make_check(tensors), differentiates
        self._shape, self._strides, self._dtype = tuple(y.shape), contiguous_strides(tuple(y.shape)), y.dtype
        self._elsewhere = torch.cuda.device_count() > 1

    def compute(self, tensors: Sequence[torch.Tensor], eps: float = 0.0, momentum: float = 0.0) -> torch.Tensor | None:
        """The output for tensors that the check has passed; None where they are not aligned or on another device.

        The device that counts is the current one: a kernel is loaded on one, and launched where the thread is.
        """
        if len(tensors) == 4:  # written out, as this is what every call does
            x, weight, bias, scale = tensors
            a, b, c, d = x.data_ptr(), weight.data_ptr(), bias.data_ptr(), scale.data_ptr()
            together = a | b | c | d
            pointers: tuple[Any, ...] = (a, b, c, d, 0, 0, 0, 0, 0)
        else:
            pointers = tuple([tensor.data_ptr() for tensor in tensors])
            together = 0
            for pointer in pointers:
                together |= pointer
            if len(pointers) == 8:
                pointers += (0,)
        plan = self.plan
        if together & _ALIGNED or (self._elsewhere and torch._C._cuda_getDevice() != plan.device):
            return None
        y = empty(self._shape, self._strides, self._dtype, plan.device)
        plan.run([*pointers, y.data_ptr(), 0, 0, 0, 0, eps, momentum])  # what lies between is the plan's to give
        return y


_ALL: Final[list[BoundPlans]] = []


def _after_fork() -> None:
    # What was loaded belongs to the parent's CUDA context, and a lock may have been held by a thread that is not here.
    PLANS.making = threading.RLock()
    forget_plans()


os.register_at_fork(after_in_child=_after_fork)


def forget_plans() -> None:
    """Plan every call anew: other configs have been loaded."""
    PLANS.forget()
    for bound in _ALL:
        bound.forget()


forget_at_load(forget_plans)


class BoundPlans:
    """The calls that were made before, by what is cheapest to tell them by; a BoundPlan's own check decides."""

    def __init__(self) -> None:
        _ALL.append(self)
        self._known: dict[Hashable, BoundPlan] = {}
        self.get = self._known.get

    def __len__(self) -> int:
        return len(self._known)

    def remember(
        self, key: Hashable, plan: Plan, tensors: Sequence[torch.Tensor], y: torch.Tensor, differentiates: bool
    ) -> None:
        """Keep the way for the next call like this one, if it is one that can be short."""
        if plan.launches is None or plan.copied or any(tensor.data_ptr() & _ALIGNED for tensor in tensors):
            return
        if len(self._known) >= MOST_BOUND:
            self.forget()
        self._known[key] = BoundPlan(plan, tensors, y, differentiates)
        if plan.generation != PLANS.generation:  # other configs were loaded since it was made, or a moment ago
            self._known.pop(key, None)

    def forget(self) -> None:
        """Other configs have been loaded."""
        self._known.clear()
