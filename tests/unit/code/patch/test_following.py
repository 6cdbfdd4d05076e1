"""What follows a value that is written back: tied tiles, counts of tiles, and what a launch is given beside."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from fusetune.code.patch.change import Accepted, Change, Launched
from fusetune.code.patch.plan import planned

KERNEL = """import torch
import triton
import triton.language as tl


@triton.jit
def sums(x_ptr, y_ptr, n, count, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, NUM: tl.constexpr):
    pass


"""
BEFORE = {"BLOCK_H": 64, "BLOCK_W": 64, "NUM": 16, "num_warps": 4, "num_stages": 3}
WANTED = {**BEFORE, "BLOCK_H": 128, "BLOCK_W": 128, "NUM": 8}
FOLLOWING = {"BLOCK_W": "BLOCK_H", "NUM": "cdiv(1024, BLOCK_H)"}


def change_of(file: Path, body: str, wanted: dict[str, Any] = WANTED, **more: Any) -> Change:
    file.write_text(KERNEL + body, encoding="utf-8")
    tree = ast.parse(file.read_bytes())
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and isinstance(one.func, ast.Subscript)]
    (kernel,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "sums"]
    told = {"following": FOLLOWING, "follows": ("BLOCK_H", "BLOCK_W"), **more}
    launch = Launched(
        str(file),
        calls[0].lineno,
        "sums",
        str(file),
        kernel.lineno - 1,
        tuple(one.arg for one in kernel.args.args),
        calls[0].col_offset,
        **told,
    )
    return Change(launch, BEFORE, wanted, us=1.0)


def after(change: Change) -> str:
    plan = planned([change])
    assert plan.findings == ()
    (patch,) = plan.files
    assert planned([change]).files == (patch,)
    return patch.after.decode().removeprefix(KERNEL)


def refused(change: Change) -> str:
    plan = planned([change])
    assert plan.files == ()
    (finding,) = plan.findings
    assert finding.file == change.launch.file
    return f"{finding.line - KERNEL.count(chr(10))}: {finding.text}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


COUNTED = """def launch(x, y, n):
    BLOCK = 64
    tiles = triton.cdiv(n, BLOCK)
    sums[(tiles,)](x, y, n, 3, BLOCK_H=BLOCK, BLOCK_W=BLOCK, NUM=tiles)
"""


def test_tiles_of_one_name_are_written_at_its_one_place_and_a_count_of_them_needs_no_edit(file: Path) -> None:
    change = change_of(file, COUNTED)
    assert after(change) == COUNTED.replace("BLOCK = 64", "BLOCK = 128")
    file.write_text(KERNEL + COUNTED.replace("BLOCK = 64", "BLOCK = 128"), encoding="utf-8")
    assert planned([change]).files == (), "the source says it already"


def test_a_count_that_a_launch_is_given_at_run_time_follows_too(file: Path) -> None:
    body = COUNTED.replace("n, 3,", "n, tiles,")
    following = {**FOLLOWING, "count": "cdiv(1024, BLOCK_H)"}
    assert after(change_of(file, body, following=following)) == body.replace("BLOCK = 64", "BLOCK = 128")
    told = refused(change_of(file, body))
    assert told == "4: what BLOCK_H is given feeds count, too, which is to stay as it is"


def test_tables_and_attributes_of_one_key_are_one_place(file: Path) -> None:
    body = (
        'SIZES = {"tile": 64, "wide": 64}\n\n\ndef launch(x, y, n):\n'
        '    sums[(triton.cdiv(n, SIZES["tile"]),)](\n'
        '        x, y, n, SIZES["wide"], SIZES["tile"], SIZES["tile"], NUM=triton.cdiv(n, SIZES["tile"])\n    )\n'
    )
    assert after(change_of(file, body)) == body.replace('"tile": 64', '"tile": 128')


@pytest.mark.parametrize("wanted", [32, 64])
def test_a_copy_that_is_to_have_another_number_is_refused_where_it_stands(file: Path, wanted: int) -> None:
    """A copy of a tile under another name is a knob of its own."""
    body = (
        "def launch(x, y, n):\n    BLOCK = 64\n    same = BLOCK\n"
        "    sums[(triton.cdiv(n, BLOCK),)](x, y, n, 3, BLOCK_H=BLOCK, BLOCK_W=same, NUM=16)\n"
    )
    apart = {**BEFORE, "BLOCK_H": 128, "BLOCK_W": wanted}
    told = refused(change_of(file, body, apart, following={}, follows=()))
    assert told.startswith("4: what BLOCK_H is given feeds BLOCK_W, too")
    both = {**BEFORE, "BLOCK_H": 128, "BLOCK_W": 128}
    alike = after(change_of(file, body, both, following={}, follows=()))
    assert alike == body.replace("BLOCK = 64", "BLOCK = 128")


def test_a_number_written_at_the_launch_twice_and_in_the_grid_is_changed_in_all_places(file: Path) -> None:
    body = (
        "def launch(x, y, n):\n"
        "    sums[(triton.cdiv(n, 64), triton.cdiv(n, 64))](x, y, n, 3, BLOCK_H=64, BLOCK_W=64, NUM=16)\n"
    )
    both = {**BEFORE, "BLOCK_H": 128, "BLOCK_W": 128}
    assert after(change_of(file, body, both, following={})) == body.replace("64", "128")
    one = {**BEFORE, "BLOCK_H": 128}
    assert "whose number cannot be told from BLOCK_W's" in refused(change_of(file, body, one, following={}))


def test_a_follower_with_a_number_of_its_own_is_written_there(file: Path) -> None:
    body = "def launch(x, y, n):\n    sums[(7,)](x, y, n, 3, BLOCK_H=64, BLOCK_W=64, NUM=16)\n"
    told = after(change_of(file, body, follows=()))
    assert told == body.replace("64", "128").replace("NUM=16", "NUM=8")


def test_a_follower_that_is_computed_elsewhere_is_refused_with_its_place(file: Path) -> None:
    body = (
        "def launch(x, y, n):\n    BLOCK = 64\n"
        "    sums[(7,)](x, y, n, 3, BLOCK_H=BLOCK, BLOCK_W=BLOCK, NUM=count_of(n))\n"
    )
    assert refused(change_of(file, body, follows=())) == "3: `count_of(n)` is computed, so there is no value to write"


def test_warps_that_a_constant_is_given_too_are_written_at_the_launch_alone(file: Path) -> None:
    body = "def launch(x, y, n):\n    W = 16\n    sums[(7,)](x, y, n, 3, 64, 64, NUM=W, num_warps=W)\n"
    change = change_of(file, body, {**BEFORE, "num_warps": 8}, following={}, follows=())
    change = Change(change.launch, {**BEFORE, "num_warps": 16}, change.wanted, us=1.0)
    assert after(change) == body.replace("num_warps=W", "num_warps=8")


def test_cases_that_differ_in_a_count_alone_want_the_same(file: Path) -> None:
    longer = change_of(file, COUNTED)
    shorter = Change(longer.launch, {**BEFORE, "NUM": 4}, {**WANTED, "NUM": 2}, us=0.5)
    plan = planned([longer, shorter])
    assert (plan.findings, plan.made) == ((), (longer,))
    stays = Change(longer.launch, {**BEFORE, "NUM": 4}, {**BEFORE, "NUM": 4}, us=0.5)
    assert "another one what runs" in planned([longer, stays]).findings[0].text
    takes = Change(stays.launch, stays.before, stays.wanted, accepts=(Accepted({**WANTED, "NUM": 2}),), us=0.5)
    assert planned([longer, takes]).made == (longer,)


def test_an_autotuner_gives_tied_tiles_and_no_count_of_them(file: Path) -> None:
    grid = 'lambda meta: (triton.cdiv(n, meta["BLOCK_H"]),)'
    body = f"def launch(x, y, n):\n    BLOCK = 64\n    sums[{grid}](x, y, n, 3, BLOCK_H=BLOCK, BLOCK_W=BLOCK, NUM=16)\n"
    wanted = {**WANTED, "NUM": 16}
    change = change_of(file, body, wanted, following={"BLOCK_W": "BLOCK_H"})
    tried = Change(change.launch, BEFORE, wanted, (wanted, BEFORE), key=("n",), us=1.0)
    (patch,) = planned([tried]).files
    text = patch.after.decode()
    assert 'triton.Config({"BLOCK_H": 128, "BLOCK_W": 128}, num_warps=4, num_stages=3)' in text
    assert "(x, y, n, 3, NUM=16)" in text
    counted = change_of(file, body.replace("NUM=16", "NUM=triton.cdiv(n, BLOCK)"))
    (finding,) = planned([Change(counted.launch, BEFORE, WANTED, (WANTED, BEFORE), us=1.0)]).findings
    assert "NUM is computed from BLOCK_H before an autotuner has chosen" in finding.text
