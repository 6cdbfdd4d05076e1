"""RMSNorm in place: `fusetune sweep --op examples/rms_norm.py:SPEC --size rows=16384 --size columns=4096`."""

import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def normalize(x_ptr, gain_ptr, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + at, mask=at < columns, other=0.0).to(tl.float32)
    gain = tl.load(gain_ptr + at, mask=at < columns, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / columns + eps) * gain
    tl.store(x_ptr + row + at, y.to(x_ptr.dtype.element_ty), mask=at < columns)


class RmsNorm(KernelSpec):
    """x [rows, columns] is changed in place: a `state`, which every check begins with as it was."""

    name = "rms_norm"
    space = Space({"num_warps": (4, 1, 2, 8, 16), "num_stages": (2,)})

    def operands(self, problem):
        x = Operand("x", (problem.rows, problem.columns), "float16", "state")
        return x, Operand("gain", (problem.columns,), "float16", mean=1.0, std=0.1)

    def launches(self, problem, config, tensors):
        arguments = {"x_ptr": tensors["x"], "gain_ptr": tensors["gain"], "columns": problem.columns, "eps": 1e-6}
        constants = {"BLOCK": triton.next_power_of_2(problem.columns)}
        return [Launch(normalize, (problem.rows,), arguments, constants, config.options())]

    def reference(self, problem, inputs):
        x, gain = inputs["x"].double(), inputs["gain"].double()
        return {"x": x * (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt() * gain}


SPEC = RmsNorm()
