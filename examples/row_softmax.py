"""Softmax of each row: `fusetune sweep --op examples/row_softmax.py:SPEC --size rows=4096 --size columns=1000`."""

import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def softmax(y_ptr, x_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + at, mask=at < columns, other=float("-inf"))
    raised = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row + at, raised / tl.sum(raised, axis=0), mask=at < columns)


class RowSoftmax(KernelSpec):
    """x and y are [rows, columns]; the tile is tied to the row, so that only warps vary."""

    name = "row_softmax"
    space = Space({"num_warps": (1, 2, 4, 8, 16), "num_stages": (2,)})

    def operands(self, problem):
        shape = (problem.rows, problem.columns)
        return Operand("x", shape, "float32"), Operand("y", shape, "float32", "output")

    def launches(self, problem, config, tensors):
        arguments = {"y_ptr": tensors["y"], "x_ptr": tensors["x"], "columns": problem.columns}
        constants = {"BLOCK": triton.next_power_of_2(problem.columns)}
        return [Launch(softmax, (problem.rows,), arguments, constants, config.options())]

    def reference(self, problem, inputs):
        return {"y": inputs["x"].double().softmax(dim=1)}


SPEC = RowSoftmax()
