"""What reaches Triton where launches are given other configs, compiled for a GPU that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.capture.again import Ran, run_again
from fusetune.capture.applying import Applier, Launched
from fusetune.capture.cases import Case, Looked
from fusetune.capture.changes import Change
from fusetune.capture.programs import Program, parse_program, run_program
from fusetune.capture.stand_in import stand_in
from fusetune.capture.watch import Watch
from fusetune.core.target import find_target
from tests.support.launch_cases import Launch, launches_of

SUPPORT = Path(__file__).parents[1] / "support"
ADA = find_target("rtx4090")
OTHER = {"num_warps": 2, "num_stages": 1}
"""Options that none of the programs asks for."""


def program(name: str, *arguments: str) -> Program:
    (path,) = SUPPORT.glob(f"*/{name}*.py")
    return parse_program([str(path), *arguments])


def watched(asked: Program) -> Looked:
    """What a program launches, as another process reads it."""
    watch = Watch()
    with stand_in(ADA):
        watch.install()
        try:
            run_program(asked)
        finally:
            watch.remove()
    return msgspec.json.decode(msgspec.json.encode(watch.looked()), type=Looked)


def cases_of(asked: Program) -> dict[str, Case]:
    """The cases of a program by their kernels."""
    return {case.kernel.name: case for case in watched(asked).cases}


def applied(
    asked: Program, *changes: Change, apply: bool = True, held: tuple[Case, ...] = ()
) -> tuple[list[Launch], tuple[Launched, ...], Applier]:
    """What reaches Triton with the changes, and what is told of it."""
    applier = Applier(changes, apply=apply, held=held)

    def run() -> None:
        applier.install()
        try:
            run_program(asked)
        finally:
            applier.remove()

    with stand_in(ADA):
        _, launches = launches_of(run)
    return launches, applier.launched(), applier


def of(launches: list[Launch], kernel: str) -> list[tuple[tuple[int, ...], Any, dict[str, Any]]]:
    """Grid, BLOCK and options of a kernel's launches."""
    return [(grid, named["BLOCK"], options) for name, grid, named, options in launches if name == kernel]


def test_an_autotuner_takes_the_config_and_times_nothing_and_its_grid_follows():
    asked = program("autotuned_add", "5000")
    change = Change(cases_of(asked)["add"], {"BLOCK": 512}, OTHER)
    launches, (launched,), applier = applied(asked, change)
    assert [(grid, block) for grid, block, _ in of(launches, "add")] == [((10,), 512)] * 3
    assert all(options.items() >= OTHER.items() for _, _, options in of(launches, "add"))
    assert (launched.applied, launched.grid, launched.left) == (3, (10,), {})
    assert (applier.launches, applier.others) == (3, 0), "none of them was a trial"


def test_a_case_that_is_held_runs_as_it_was_captured_and_is_not_timed_again():
    asked = program("autotuned_add", "5000")
    case = cases_of(asked)["add"]
    (block,) = {256, 1024} - {case.constants["BLOCK"]}  # Not the one that would be chosen again.
    other = msgspec.structs.replace(case, constants={"BLOCK": block}, before={**case.before, **OTHER})
    launches, (launched,), applier = applied(asked, Change(case, {"BLOCK": 512}, OTHER), apply=False, held=(other,))
    assert {seen for _, seen, _ in of(launches, "add")} == {block}
    assert all(options.items() >= OTHER.items() for _, _, options in of(launches, "add"))
    assert (applier.launches, launched.applied) == (3, 0)
    launches, _, _ = applied(asked, Change(case, {"BLOCK": 512}, OTHER), held=(other,))
    assert {seen for _, seen, _ in of(launches, "add")} == {512}, "a change comes first"


def test_without_changes_or_for_another_size_all_is_as_it_was():
    case = cases_of(program("autotuned_add", "5000"))["add"]
    launches, (launched,), applier = applied(program("autotuned_add", "6000"), Change(case, {"BLOCK": 512}, OTHER))
    assert launched == Launched()
    assert (applier.launches, applier.others) == (3, 3)
    assert {block for _, block, _ in of(launches, "add")} <= {256, 1024}


def test_all_launches_change_of_a_case_whose_numbers_count_steps():
    asked = program("in_a_loop")
    merged = next(case for case in watched(asked).cases if case.kernel.name == "decay" and case.differing)
    assert set(merged.differing) == {"step", "rate"}
    launches, (launched,), _ = applied(asked, Change(merged, {"BLOCK": 128}, OTHER))
    ran = of(launches, "decay")
    with_it = [(grid, block) for grid, block, options in ran if options.items() >= OTHER.items()]
    assert with_it == [((8,), 128)] * 93, "all steps from 2 to 100 but for those that 16 divides"
    assert (launched.applied, len(ran)) == (merged.launches, 100)


def test_a_grid_computed_in_the_caller_follows_and_one_of_a_number_of_its_own_stays():
    asked = program("trap_02")
    cases = cases_of(asked)
    changes = [Change(cases[name], {"BLOCK": 512}, OTHER) for name in ("shift", "clip")]
    launches, (shift, clip), _ = applied(asked, *changes)
    assert [(grid, block) for grid, block, _ in of(launches, "shift")] == [((128,), 512)]
    assert shift.applied == 1
    assert [(grid, block) for grid, block, _ in of(launches, "clip")] == [((64,), 512)]
    assert clip.grid == (64,)
    assert of(launches, "scale")[0][1] == 1024


def test_a_tile_that_sizes_a_buffer_is_left_alone_with_its_reason():
    asked = program("trap_06")
    launches, (launched,), _ = applied(asked, Change(cases_of(asked)["partial_sums"], {"BLOCK": 256}, OTHER))
    ((_, block, options),) = of(launches, "partial_sums")
    assert (block, options) == (512, {})
    assert launched.applied == 0
    ((why, count),) = launched.left.items()
    assert count == 1
    assert "buffer" in why


def test_options_alone_change_where_a_tile_stays():
    asked = program("trap_01")
    launches, (launched,), _ = applied(asked, Change(cases_of(asked)["row_softmax"], {}, OTHER))
    ((grid, block, options),) = of(launches, "row_softmax")
    assert (grid, block, options) == ((512,), 1024, OTHER)
    assert launched.options == OTHER


def test_heuristics_are_computed_again_below_a_tuner_of_the_program_s_own():
    asked = program("trap_11")
    change = Change(cases_of(asked)["negate"], {"BLOCK": 2048}, OTHER)
    launches, (launched,), _ = applied(asked, change)
    (named,) = [named for name, _, named, _ in launches if name == "negate"]
    assert (named["BLOCK"], named["EVEN"]) == (2048, False), "5 * 1024 is no multiple of it"
    assert (launched.applied, launched.grid) == (1, (3,))


def test_a_config_s_hook_still_runs_with_the_new_tile(tmp_path, capfd):
    text = Path(program("trap_11").what).read_text(encoding="utf-8")
    told = tmp_path / "hooked.py"
    told.write_text(text.replace('args["counts_ptr"].zero_()', 'print("zeroed", args["BLOCK"])'), encoding="utf-8")
    asked = parse_program([str(told)])
    change = Change(cases_of(asked)["count_classes"], {"BLOCK": 1024}, OTHER)
    capfd.readouterr()
    ran = in_a_process(asked, change)
    assert (ran.launched[0].applied, ran.launched[0].grid) == (1, (98,))
    assert "zeroed 1024" in capfd.readouterr().err


def test_what_one_call_of_a_model_launches_is_counted():
    asked = program("rows_and_points")
    cases = cases_of(asked)
    ran = in_a_process(asked, Change(cases["twice"], {"BLOCK": 64}, OTHER), Change(cases["row_softmax"], {}, OTHER))
    assert ran.launches == 2
    assert [one.applied for one in ran.launched] == [1, 1]
    assert ran.launched[0].grid == (10,)


def in_a_process(asked: Program, *changes: Change) -> Ran:
    ran = run_again(asked, changes, apply=True, target=ADA.name, limit_s=240)
    assert ran.failed is None
    return ran


@pytest.mark.parametrize("name", ["autotuned_add", "trap_11"])
def test_after_it_triton_is_as_it_was(name):
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction

    held = (JITFunction.run, Autotuner.run, Heuristics.run, Autotuner._bench)
    asked = program(name, *(["5000"] if name == "autotuned_add" else []))
    applied(asked)
    assert held == (JITFunction.run, Autotuner.run, Heuristics.run, Autotuner._bench)


def test_what_a_program_benchmarks_alone_takes_its_config(tmp_path: Path):
    (tmp_path / "bench.py").write_text(
        """import torch
import triton
import triton.language as tl


@triton.jit
def copied(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


x, y = torch.rand(1000, device="cuda"), torch.empty(1000, device="cuda")
triton.testing.do_bench(lambda: copied[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, y, 1000, BLOCK=128))
""",
        encoding="utf-8",
    )
    asked = parse_program([str(tmp_path / "bench.py")])
    change = Change(cases_of(asked)["copied"], {"BLOCK": 512}, OTHER)
    launches, (launched,), _ = applied(asked, change)
    assert [(grid, block) for grid, block, _ in of(launches, "copied")] == [((2,), 512)]
    assert (launched.applied, launched.left) == (1, {})
