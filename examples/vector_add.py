"""z = x + y: `fusetune sweep --op examples/vector_add.py:SPEC --size n=16777216`."""

import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def add(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    total = tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside)
    tl.store(z_ptr + at, total, mask=inside)


class VectorAdd(KernelSpec):
    """x, y and z have n elements."""

    name = "vector_add"
    space = Space({"BLOCK": (1024, 256, 512, 2048, 4096, 8192), "num_stages": (2,)})

    def operands(self, problem):
        return tuple(Operand(name, (problem.n,), "float32", role) for name, role in ROLES.items())

    def launches(self, problem, config, tensors):
        arguments = {"x_ptr": tensors["x"], "y_ptr": tensors["y"], "z_ptr": tensors["z"], "n": problem.n}
        grid = (triton.cdiv(problem.n, config.BLOCK),)
        return [Launch(add, grid, arguments, {"BLOCK": config.BLOCK}, config.options())]

    def reference(self, problem, inputs):
        return {"z": inputs["x"].double() + inputs["y"].double()}


ROLES = {"x": "input", "y": "input", "z": "output"}
SPEC = VectorAdd()
