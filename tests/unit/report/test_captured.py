"""What is told of a program's cases."""

from __future__ import annotations

import re

import pytest
from msgspec import structs

from fusetune.capture.cases import Case, KernelSeen, Looked, NotCaptured, TensorSeen
from fusetune.capture.gpu_share import GpuTime
from fusetune.errors import UsageError
from fusetune.report.captured import besides, notes_on, of_what, selected, table_of, to_explanation


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
        roles={"table_ptr": "read", "x_ptr": "both"},
        tables={"table_ptr": "both"},
        unsure=("x_ptr",),
    )
    lines = to_explanation([case]).splitlines()
    assert lines[0].startswith("k  m.py:3  1 launch, ")
    assert "  table_ptr: int64 [4], read, its integers are addresses of memory that is read and written" in lines
    surely = ", not surely: some access may be another tensor's"
    assert f"  x_ptr: float32 [4], read and written{surely}, shares its memory with y_ptr" in lines
    assert "  y_ptr: float32 [4], shares its memory with x_ptr" in lines


def launched(name: str, *findings: str) -> Case:
    return Case(
        kernel=KernelSeen(name, "m", "m.py", 3),
        grid=(4,),
        grid_kind="fixed",
        tensors={},
        values={},
        constants={},
        options={},
        before={},
        findings=findings,
    )


def test_a_name_that_no_kernel_has_is_a_mistake_that_names_those_that_there_are():
    looked = Looked((launched("add"), launched("add"), launched("sub")))
    with pytest.raises(UsageError, match="--kernel mul names no kernel of the program; it launches add, sub"):
        selected(looked, kernel="mul")
    assert selected(looked, kernel="a*") == list(looked.cases[:2])
    assert selected(Looked(()), kernel="mul") == []


def test_launches_that_are_no_case_are_told_by_their_kernel_s_place_and_the_reason():
    star = NotCaptured(KernelSeen("many", "m", "m.py", 8), "its arguments have no names", 2)
    told = "2 launches of many (m.py:8): not captured, and not tuned, as its arguments have no names"
    looked = Looked((launched("add"),), not_captured=(star,))
    assert told in besides(looked, looked.cases)
    assert besides(Looked((), not_captured=(star,)), ()) == [
        "the program launched no Triton kernel that could be captured",
        told,
    ]
    with pytest.raises(UsageError, match=re.escape(f"--kernel man*: {told}")):
        selected(looked, kernel="man*")


def test_what_is_not_shown_is_counted_by_whose_it_is_and_a_note_is_told_once():
    looked = Looked((launched("add"), launched("add"), launched("sub", "odd")), trials=1, bypassed={"mul": 2})
    assert besides(looked, looked.cases[:1]) == [
        "1 more case of other kernels; --kernel, --top or --share picks them",
        "1 more case of the same kernels, of less time or fewer launches",
        "1 launch of autotuners that only timed: not the program's",
        "2 launches of mul past Triton's JIT: not captured",
    ]
    assert notes_on([*looked.cases, *looked.cases]) == ["note: sub: odd"]


def shares(looked: Looked) -> list[str]:
    table = table_of(looked, looked.cases)
    (column,) = [column for column in table.columns if column.header == "share"]
    return [str(cell) for cell in column.cells]


def test_a_share_is_that_of_all_kernels_where_these_were_seen():
    cases = tuple(structs.replace(launched(name), us=us) for name, us in (("add", 30.0), ("sub", 10.0)))
    alone = Looked(cases, gpu="NVIDIA Something", no_gpu_time="the profiler saw no kernel")
    assert shares(alone) == ["75 %", "25 %"]
    assert of_what(alone) == ["share: of the time of the Triton kernels alone: the profiler saw no kernel"]
    among = structs.replace(alone, gpu_time=GpuTime(200.0, 40.0), no_gpu_time=None)
    assert shares(among) == ["15 %", "5 %"]
    assert of_what(among) == [
        "share: of the program's GPU time; Triton's kernels are 20 % of 200 us, by a profile of one more run"
    ]
    assert of_what(Looked((launched("add"),))) == []
