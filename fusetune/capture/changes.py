"""Which launches of a program are a tuned case, and what they are to run with instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fusetune.capture.cases import Case, KernelSeen, TensorSeen
from fusetune.capture.launches import described
from fusetune.core.config import OPTIONS
from fusetune.ops.arguments import specialized, told


class Change(msgspec.Struct, frozen=True):
    """A case of a program and the config that it is to run with: `constants` by the kernel's own names, and `options`.

    Constants of the case that are not named stay as they are.
    """

    case: Case
    constants: dict[str, Any]
    options: dict[str, int]

    def told(self) -> str:
        """The kernel and what it is given, for people: `softmax with BLOCK=512 num_warps=2`."""
        given = {**self.constants, **self.options}
        return f"{self.case.kernel.name} with {' '.join(f'{name}={value}' for name, value in given.items())}"


def as_it_ran(case: Case) -> Change:
    """The change of a case to what ran when it was captured."""
    options = {name: value for name in OPTIONS if (value := case.before.get(name)) is not None}
    return Change(case, dict(case.constants), options)


def kernel_key(kernel: KernelSeen) -> tuple[str, ...]:
    """What makes two kernels of two processes the same one: file, name and code; the line where there is no code."""
    return (kernel.file, kernel.name, kernel.source_hash or str(kernel.line))


def launch_key(
    tensors: Mapping[str, TensorSeen],
    values: Mapping[str, Any],
    constants: Mapping[str, Any],
    options: Mapping[str, Any],
    free: frozenset[str],
) -> str:
    """What of a launch has to be as it was captured, but for what is `free`, as an autotuner's constants are.

    Floats are no part of it, since nothing is specialized for them, nor are the sizes of storages.
    """
    seen = [
        (name, one.dtype, one.shape, one.stride, one.storage, one.aligned, one.block)
        for name, one in sorted(tensors.items())
    ]
    numbers = [(name, "float" if isinstance(one, float) else one) for name, one in _fixed(values, free)]
    return repr((seen, numbers, _fixed(constants, free), _fixed(options, free)))


def alike_numbers(values: Mapping[str, Any], differing: Collection[str], kernel: Any) -> dict[str, Any]:
    """Run-time values, of those that are others in each launch of a case no more than what Triton's JIT makes of them.

    `kernel` is the JITFunction, which may ask for less.
    """
    parameters = {one.name: one for one in getattr(kernel, "params", ())}
    kinds = {
        name: specialized(values[name], parameters.get(name.partition(".")[0])) for name in differing if name in values
    }
    return {**values, **kinds}


def _fixed(named: Mapping[str, Any], free: frozenset[str]) -> list[tuple[str, Any]]:
    return sorted((name, value) for name, value in named.items() if name not in free)


def free_names(tuners: Sequence[Any]) -> frozenset[str]:
    """The constants and options that autotuners and heuristics above a launch give it."""
    found: set[str] = set()
    for tuner in tuners:
        values = getattr(tuner, "values", None)
        found.update(values if isinstance(values, Mapping) else ())
        configs = [one for one in getattr(tuner, "configs", ()) if hasattr(one, "all_kwargs")]
        found.update(OPTIONS if configs else ())
        found.update(*(one.all_kwargs() for one in configs))
    return frozenset(found)


_Table = dict[tuple[str, ...], dict[str, list[int]]]
"""The changes of a kernel by their launch_key, apart by the numbers that differed."""


class Changes:
    """Finds the change for a launch, by its number."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self.all = tuple(changes)
        self._of_kernel: dict[tuple[str, ...], list[int]] = {}
        for number, change in enumerate(self.all):
            self._of_kernel.setdefault(kernel_key(change.case.kernel), []).append(number)
        self._tables: dict[tuple[tuple[str, ...], frozenset[str]], _Table] = {}

    def are_of(self, kernel: KernelSeen) -> bool:
        """Whether any is of this kernel."""
        return kernel_key(kernel) in self._of_kernel

    def find(
        self,
        seen: KernelSeen,
        kernel: Any,
        bound: Mapping[str, Any],
        options: Mapping[str, Any],
        free: frozenset[str],
        grid: tuple[int, ...] | None = None,
    ) -> int | None:
        """The number of the change for a launch of the kernel `seen`; None where it is none of the cases.

        What of `free` the launch has, and its grid then, decide only between cases that are else the same one; where
        nothing is free the grid has to be the case's. None leaves it open. Numbers that differed between the launches
        of a case need only be of one kind.
        """
        tensors, values, constants = described(kernel, bound)
        options = {name: told(value) for name, value in options.items()}
        found: list[int] = []
        for differing, table in self._table(seen, kernel, free).items():
            numbers = alike_numbers(values, differing, kernel)
            found += table.get(launch_key(tensors, numbers, constants, options, free), [])
        if grid is not None and (len(found) > 1 or not free):
            found = [number for number in found if self.all[number].case.grid == grid]
        if len(found) < 2:
            return found[0] if found else None
        ran = {**constants, **options}
        same = [number for number in found if _is_like(self.all[number].case.constants, ran, free)]
        return same[0] if len(same) == 1 else None

    def _table(self, seen: KernelSeen, kernel: Any, free: frozenset[str]) -> _Table:
        own = kernel_key(seen)
        made = self._tables.get((own, free))
        if made is None:
            made = self._tables[own, free] = {}
            for number in self._of_kernel.get(own, ()):
                case = self.all[number].case
                numbers = alike_numbers(case.values, case.differing, kernel)
                key = launch_key(case.tensors, numbers, case.constants, case.options, free)
                made.setdefault(case.differing, {}).setdefault(key, []).append(number)
        return made


def _is_like(constants: Mapping[str, Any], ran: Mapping[str, Any], free: frozenset[str]) -> bool:
    return all(ran.get(name) == value for name, value in constants.items() if name in free)
