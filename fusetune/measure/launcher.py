"""Launches of a compiled kernel past the JIT, which would look every argument up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusetune.errors import MeasurementError
from fusetune.ops.parameters import completed
from fusetune.ops.spec import Call, Launch, TileDescriptor


class Launcher:
    """A launch that was described for the first of `sets`, for any of them.

    All sets are alike in shape, strides, dtype and alignment, so that what the JIT compiles for the first serves all. A
    sweep captures thousands of graphs of a hundred launches each: the JIT's own 30 us a launch would be most of it.
    `scratch` are tensors that all sets share. Raises MeasurementError for a launch with another tensor.
    """

    def __init__(
        self, launch: Launch | Call, sets: Sequence[Mapping[str, Any]], scratch: Mapping[str, Any] | None = None
    ) -> None:
        operand_of = {id(tensor): name for name, tensor in sets[0].items()}
        shared = {id(tensor) for tensor in (scratch or {}).values()}
        self._launches: list[Callable[[], Any]]
        if isinstance(launch, Call):
            own = [
                {name: _of_set(value, name, operand_of, shared, tensors) for name, value in launch.arguments.items()}
                for tensors in sets
            ]
            self._launches = [_bound(launch.function, (), arguments) for arguments in own]
            return
        # CompiledKernel takes every argument since Triton 3.3, the compile-time ones too.
        kernel = launch.run()[(*launch.grid, 1, 1)[:3]]
        launch = completed(launch)
        everything = {**launch.arguments, **launch.constants}
        template = [(name, everything[name]) for name in launch.kernel.arg_names]
        self._launches = [
            _bound(kernel, [_of_set(value, name, operand_of, shared, tensors) for name, value in template], {})
            for tensors in sets
        ]

    def launch(self, index: int) -> None:
        """Launch on the current stream with the tensors of set `index`."""
        self._launches[index]()


def _bound(function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: function(*arguments, **named)


def _of_set(value: Any, name: str, operand_of: Mapping[int, str], shared: set[int], tensors: Mapping[str, Any]) -> Any:
    """What stands for an argument of the first set in another set."""
    if isinstance(value, TileDescriptor):
        return replace(value, tensor=_of_set(value.tensor, name, operand_of, shared, tensors)).made()
    if id(value) in operand_of:
        return tensors[operand_of[id(value)]]
    if type(value) is tuple:
        return tuple(_of_set(one, name, operand_of, shared, tensors) for one in value)
    if hasattr(value, "data_ptr") and id(value) not in shared:
        raise MeasurementError(f"argument {name} of a launch is a tensor, but no operand of the op and no workspace")
    return value
