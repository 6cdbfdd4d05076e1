"""leaky_relu(a @ b): `fusetune sweep --op examples/matmul_leaky_relu.py:SPEC --size m=512 --size n=512 --size k=64`."""

import triton
import triton.language as tl

from fusetune import KernelSpec, Launch, Operand, Space


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, m, n, k, TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr):
    rows = (tl.program_id(0) * TILE_M + tl.arange(0, TILE_M))[:, None]
    columns = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    acc = tl.zeros((TILE_M, TILE_N), tl.float32)
    for start in range(0, k, TILE_K):
        at = start + tl.arange(0, TILE_K)
        a = tl.load(a_ptr + rows * k + at, mask=(rows < m) & (at < k), other=0.0)
        b = tl.load(b_ptr + at[:, None] * n + columns, mask=(at[:, None] < k) & (columns < n), other=0.0)
        acc = tl.dot(a, b, acc)
    tl.store(c_ptr + rows * n + columns, tl.where(acc > 0, acc, 0.01 * acc), mask=(rows < m) & (columns < n))


class MatmulLeakyRelu(KernelSpec):  # a [m, k] by b [k, n]
    name, staged_loads = "matmul_leaky_relu", 2
    space = Space({"TILE_M": (64, 32, 128), "TILE_N": (64, 32, 128), "TILE_K": (32, 64), "num_warps": (4, 8)})

    def operands(self, problem):
        a, b = Operand("a", (problem.m, problem.k), "float16"), Operand("b", (problem.k, problem.n), "float16")
        return a, b, Operand("c", (problem.m, problem.n), "float16", "output")

    def launches(self, problem, config, tensors):
        arguments = {f"{name}_ptr": tensors[name] for name in "abc"} | {name: problem[name] for name in "mnk"}
        grid = (triton.cdiv(problem.m, config.TILE_M), triton.cdiv(problem.n, config.TILE_N))
        return [Launch(matmul, grid, arguments, config.constants(), config.options())]

    def reference(self, problem, inputs):
        c = inputs["a"].double() @ inputs["b"].double()
        return {"c": c.where(c > 0, 0.01 * c)}


SPEC = MatmulLeakyRelu()
