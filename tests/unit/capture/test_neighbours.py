"""Which configs lie around one of a captured kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.capture.cases import Case, KernelSeen, KnobSeen, WorkSeen
from fusetune.capture.kept import VERSION, Kept, PlainKept
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import NamedConfig
from fusetune.core.target import find_target

ADA = find_target("rtx4090")


def spec_of(work: WorkSeen | None) -> CapturedSpec:
    case = Case(
        kernel=KernelSeen("norm", "m", "m.py", 1),
        grid=(8,),
        grid_kind="callable",
        tensors={},
        values={},
        constants={"BLOCK_C": 128},
        options={},
        before={"num_warps": 4, "num_stages": 3},
        knobs=(KnobSeen("BLOCK_C", 128, True, "", (32, 64, 128, 256, 512)),),
        work=work,
    )
    spec = CapturedSpec.__new__(CapturedSpec)
    spec.folder = Path("kept")
    spec.kept = Kept(
        version=VERSION,
        id="a",
        made="2026-11-29T07:00:00Z",
        program="m.py",
        case=case,
        module="m",
        kernel="norm",
        arguments={"BLOCK_C": PlainKept(128)},
        storages=(),
        grid_text="(cdiv(1000, BLOCK_C),)",
        grid_reads=frozenset({"BLOCK_C"}),
    )
    return spec


def tiles_beside(spec: CapturedSpec, tile: int) -> set[object]:
    around = spec.neighbours(spec.captured_problem(), NamedConfig(num_warps=4, num_stages=2, BLOCK_C=tile), ADA)
    return {one["BLOCK_C"] for one in around}


@pytest.mark.parametrize("work", [None, WorkSeen(multiplies=True)])
def test_a_tile_of_products_goes_down_to_16(work: WorkSeen | None) -> None:
    spec = spec_of(work)
    assert tiles_beside(spec, 32) == {16, 32, 64}
    assert tiles_beside(spec, 16) == {16, 32}


def test_a_tile_of_a_kernel_without_products_goes_down_to_1() -> None:
    spec = spec_of(WorkSeen(multiplies=False))
    assert tiles_beside(spec, 16) == {8, 16, 32}
    assert tiles_beside(spec, 1) == {1, 2}
