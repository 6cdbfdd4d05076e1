"""RMSNorm; :IN_PLACE, too. `fusetune sweep --op examples/rms_norm.py:SPEC --size rows=16384 --size columns=4096`."""

import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def normalize(x_ptr, gain_ptr, y_ptr, columns, eps, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64) * columns, tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + at, mask=at < columns, other=0.0).to(tl.float32)
    gain = tl.load(gain_ptr + at, mask=at < columns, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / columns + eps) * gain
    tl.store(y_ptr + row + at, y.to(y_ptr.dtype.element_ty), mask=at < columns)


class RmsNorm(KernelSpec):  # where y is x, that is a `state`: every check begins with it as it was
    space = Space({"num_warps": (4, 1, 2, 8, 16), "num_stages": (2,)})

    def __init__(self, name, y):
        self.name, self.y = name, y

    def operands(self, problem):
        x, gain = (problem.rows, problem.columns), (problem.columns,)
        y = Operand(self.y, x, "float16", "state" if self.y == "x" else "output")
        return *(() if self.y == "x" else (Operand("x", x, "float16"),)), Operand("gain", gain, "float16", mean=1.0), y

    def launches(self, problem, config, tensors):
        pointers = {"x_ptr": tensors["x"], "gain_ptr": tensors["gain"], "y_ptr": tensors[self.y]}
        constants = {"BLOCK": triton.next_power_of_2(problem.columns)}
        arguments = {**pointers, "columns": problem.columns, "eps": 1e-6}
        return [Launch(normalize, (problem.rows,), arguments, constants, config.options())]

    def reference(self, problem, inputs):
        x, gain = inputs["x"].double(), inputs["gain"].double()
        return {self.y: x * (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt() * gain}


SPEC, IN_PLACE = RmsNorm("rms_norm", "y"), RmsNorm("rms_norm_in_place", "x")
