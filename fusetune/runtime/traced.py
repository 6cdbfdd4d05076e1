"""The choice of a config while torch.compile traces a launch: plain comparisons, which become guards on its shapes.

torch (2.11 to 2.13) gives up an Autotuner to Dynamo by isinstance and never calls its `run`; it traces
`early_config_prune`, with the values that the launch gives by name, and takes the one config that comes back. What this
compares is what is guarded: a number that no entry asks for stays free, one that an entry asks for is held to its
bucket, and to itself only where several entries are near.

The grid is not known then, nor where a tensor begins: the grid is left open, and tensors count as aligned, as for the
kernels that torch.compile makes. Constants that are dtypes or functions are nothing that a trace can compare.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fusetune.core.values import Value
from fusetune.ops.arguments import specialized
from fusetune.runtime.launch_configs import KernelFacts
from fusetune.runtime.matching import AXES

_INT32_MOST = (1 << 31) - 1


class Rule(NamedTuple):
    """When a config is right: `place` is its own in the list of configs, `order` that of its file.

    `tensors` have the dtype of an argument, `same` its value, `sizes` its bounds, whether it is divisible by 16 (None
    where that does not count), and the size that was tuned.
    """

    place: int
    order: int
    tensors: tuple[tuple[str, torch.dtype], ...]
    same: tuple[tuple[str, Any], ...]
    sizes: tuple[tuple[str, int, int, bool | None, int], ...]


def rule_of(
    known: KernelFacts,
    problem: Mapping[str, Value],
    also: Mapping[str, Any],
    given: Container[str],
    place: int,
    order: int,
) -> Rule | None:
    """The rule of an entry's problem; None for one that a trace cannot tell.

    `given` are the arguments that a caller gives, by the kernel's own names, and `also` those that have to be so.
    """
    tensors: list[tuple[str, torch.dtype]] = []
    same: list[tuple[str, Any]] = list(also.items())
    sizes: list[tuple[str, int, int, bool | None, int]] = []
    for name, value in problem.items():
        parameter = known.parameters.get(name)
        if parameter is None:
            if name in AXES:
                continue
            return None
        if parameter.name not in given:
            continue
        if parameter.constant or value is None or isinstance(value, bool):
            same.append((parameter.name, value))
        elif type(value) is int:
            if value <= 1:
                same.append((parameter.name, value))
            else:
                sizes.append(_size(parameter.name, value, parameter.triton))
        elif isinstance(value, str):
            dtype = getattr(torch, value, None)
            if isinstance(dtype, torch.dtype):
                tensors.append((parameter.name, dtype))
            elif value not in {"inf", "-inf", "nan"}:
                return None
        elif not isinstance(value, float):
            return None
    return Rule(place, order, tuple(tensors), tuple(same), tuple(sizes))


def _size(name: str, value: int, triton: Any) -> tuple[str, int, int, bool | None, int]:
    bits = (value - 1).bit_length()
    most = 1 << bits
    kind = specialized(value, triton)
    by_16 = value % 16 == 0 if isinstance(kind, tuple) and _counts_alignment(triton) else None
    return name, 1 << (bits - 1), min(most, _INT32_MOST) if value <= _INT32_MOST else most, by_16, value


def _counts_alignment(triton: Any) -> bool:
    return not getattr(triton, "do_not_specialize_on_alignment", False)


class Traced:
    """What an Autotuner gives as `early_config_prune`: the tuned config of a launch, or the default one.

    `rules` go by the places of the list of configs, whose first `listed` are the user's; `default` is the place of the
    default, where one was named. `prune_listed` and `perf_model` are the user's. `defaults` are the kernel's own for
    arguments that are not given. `tell`, a method, is called where no rule fits.
    """

    def __init__(
        self,
        listed: int,
        default: int | None,
        prune_listed: Callable[..., Any] | None,
        perf_model: Callable[..., Any] | None,
        defaults: Mapping[str, Any],
        tell: Callable[[], None],
    ) -> None:
        self.listed, self.default, self.defaults = listed, default, dict(defaults)
        self.prune_listed, self.perf_model = prune_listed, perf_model
        self.rules: tuple[Rule, ...] = ()
        self.missed = _telling(tell)

    def prune(self, configs: Sequence[Any], named_args: Mapping[str, Any], **rest: Any) -> list[Any]:
        """The one config for these arguments."""
        given = {**self.defaults, **named_args, **rest}
        found = []
        for rule in self.rules:
            if _fits(rule, given):
                found.append(rule)  # noqa: PERF401 - traced
        if not found:
            self.missed()
            return [self.default_of(configs, named_args, rest)]
        if len(found) == 1:
            return [configs[found[0].place]]
        return [configs[_nearest(found, given).place]]

    def first(self, configs: Sequence[Any]) -> Any:
        """The default where one was named, else the first: what needs no arguments to be asked."""
        return configs[self.default or 0]

    def default_of(
        self,
        configs: Sequence[Any],
        named_args: Mapping[str, Any],
        rest: Mapping[str, Any],
        without: Sequence[Any] = (),
    ) -> Any:
        """The default that was named; else of what the user does not prune the best by his model, or the first.

        `without` are those that cannot be launched, a named default first; None where nothing is left.
        """
        if self.default is not None and not without:
            return configs[self.default]
        left = configs[: self.listed]
        if self.prune_listed is not None:
            left = self.prune_listed(left, named_args, **rest)
        if without:
            left = [one for one in left if one not in without]
            if not left:
                return None
        if self.perf_model is None or len(left) == 1:
            return left[0]
        best, least = left[0], math.inf
        for one in left:
            us = self.perf_model(**named_args, **rest, **one.all_kwargs())
            if us < least:
                best, least = one, us
        return best


def traces_choices() -> bool:
    """Whether torch can choose of a list that it makes anew while it traces: of torch 2.11 and 2.12 that is not known.

    There Dynamo computes heuristics below a tuner for each config, and so gives a kernel its own num_warps, in a tuner
    of its own, and fails where that has an `early_config_prune`.
    """
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 13)


def is_traced() -> bool:
    """Whether Dynamo traces in this thread."""
    return torch._guards.TracingContext.try_get() is not None


def _fits(rule: Rule, given: Mapping[str, Any]) -> bool:
    for name, dtype in rule.tensors:
        one = given.get(name)
        if not isinstance(one, torch.Tensor) or one.dtype != dtype:
            return False
    for name, value in rule.same:
        if name not in given or not _is_same(given[name], value):
            return False
    for name, low, high, by_16, _ in rule.sizes:  # noqa: SIM110 - traced
        if not _is_within(given.get(name), low, high, by_16):
            return False
    return True


def _is_within(one: Any, low: int, high: int, by_16: bool | None) -> bool:
    if one is None or isinstance(one, torch.Tensor | float) or not low < one <= high:
        return False
    if by_16 is None:
        return True
    rest = one % 16  # compared as Dynamo has guards for: not as `(one % 16 == 0) == by_16`
    if by_16:
        return bool(rest == 0)
    return bool(rest != 0)


def _is_same(one: Any, value: Any) -> bool:
    if one is None or value is None or isinstance(one, torch.Tensor):
        return one is None and value is None
    return _is_of_kind(one, value) and one == value


def _is_of_kind(one: Any, value: Any) -> bool:
    if isinstance(value, str):
        return isinstance(one, str)
    return isinstance(one, bool) == isinstance(value, bool) and isinstance(one, int | float)


def _nearest(rules: Sequence[Rule], given: Mapping[str, Any]) -> Rule:
    """Exact, then of the earlier file, then the nearest by the product of ratios, then as `matching` orders equals."""
    for rule in rules:
        if all(given[name] == value for name, _, _, _, value in rule.sizes):
            return rule
    first = min(rule.order for rule in rules)
    best = None
    best_more = best_less = 1
    for rule in rules:
        if rule.order != first:
            continue
        more = less = 1
        for name, _, _, _, value in rule.sizes:
            one = given[name]
            if one > value:
                more, less = more * one, less * value
            else:
                more, less = more * value, less * one
        mine, least = more * best_less, best_more * less
        if best is None or mine < least or (mine == least and _stands_before(rule, best, given)):
            best, best_more, best_less = rule, more, less
    assert best is not None, "of the first file there is one"
    return best


def _stands_before(rule: Rule, other: Rule, given: Mapping[str, Any]) -> bool:
    """Of two that are as near: the one of the larger sizes, which are compared where they are not the launch's own."""
    one, two = _other_sizes(rule, given), _other_sizes(other, given)
    for place in range(min(len(one), len(two))):
        if one[place] != two[place]:
            return bool(one[place] > two[place])
    return len(one) < len(two)


def _other_sizes(rule: Rule, given: Mapping[str, Any]) -> list[int]:
    found = []
    for name, _, _, _, value in rule.sizes:
        if given[name] != value:
            found.append(value)
    return found


def _telling(tell: Callable[[], None]) -> Callable[[], int]:
    """A function that calls a method of an object that may be gone; while Dynamo traces, it calls it for each trace."""
    held = weakref.WeakMethod(tell)

    def missed() -> int:
        method = held()
        if method is not None:
            method()
        return 0

    # As torch._dynamo.assume_constant_result does, which takes seconds to load. It has no arguments: what Dynamo makes
    # of an attribute may be nothing that it can pass on.
    missed._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return missed
