"""What is told of a program's cases."""

from __future__ import annotations

from fusetune.capture.cases import Case, KernelSeen, TensorSeen
from fusetune.report.captured import to_explanation


def test_a_tensor_is_told_with_all_that_the_kernel_does_to_it():
    def tensor(dtype: str, storage: int) -> TensorSeen:
        return TensorSeen(dtype, (4,), (1,), storage, 0, 64, aligned=True)

    case = Case(
        kernel=KernelSeen("k", "m", "m.py", 3),
        grid=(4,),
        grid_kind="fixed",
        tensors={"table_ptr": tensor("int64", 0), "x_ptr": tensor("float32", 1), "y_ptr": tensor("float32", 1)},
        values={},
        constants={},
        options={},
        before={},
        roles={"table_ptr": "read", "x_ptr": "written"},
        tables={"table_ptr": "both"},
        unsure=("x_ptr",),
    )
    lines = to_explanation([case]).splitlines()
    assert "  table_ptr: int64 [4], read, its integers are addresses of memory that is read and written" in lines
    surely = ", not surely: some access may be another tensor's"
    assert f"  x_ptr: float32 [4], written{surely}, shares its memory with y_ptr" in lines
    assert "  y_ptr: float32 [4], shares its memory with x_ptr" in lines
