"""One launch, repeated over several sets of tensors without going through Triton's JIT each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusetune.errors import MeasurementError
from fusetune.kernels.spec import Launch


class Launcher:
    """A launch that was described for the first of `sets`, for any of them.

    All sets are alike in shape, strides, dtype and alignment, so that what the JIT compiles for the first serves all. A
    sweep captures thousands of graphs of a hundred launches each: the JIT's own 30 us a launch would be most of it.
    Raises MeasurementError for a launch with a tensor that is not an operand: it would be shared by all sets.
    """

    def __init__(self, launch: Launch, sets: Sequence[Mapping[str, Any]]) -> None:
        # CompiledKernel takes every argument since Triton 3.3, the compile-time ones too.
        self._launch = launch.run()[(*launch.grid, 1, 1)[:3]]
        everything = {**launch.arguments, **launch.constants}
        template = [everything[name] for name in launch.kernel.arg_names]
        operand_of = {id(tensor): name for name, tensor in sets[0].items()}
        slots = {}
        for position, value in enumerate(template):
            if id(value) in operand_of:
                slots[position] = operand_of[id(value)]
            elif hasattr(value, "data_ptr"):
                name = launch.kernel.arg_names[position]
                raise MeasurementError(
                    f"argument {name} of {launch.kernel.__name__} is a tensor but no operand of the op"
                )
        self._arguments = [
            [tensors[slots[position]] if position in slots else value for position, value in enumerate(template)]
            for tensors in sets
        ]

    def launch(self, index: int) -> None:
        """Launch on the current stream with the tensors of set `index`."""
        self._launch(*self._arguments[index])
