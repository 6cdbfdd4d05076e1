"""A capture answers what the program would have launched with other constants."""

from __future__ import annotations

import msgspec
import pytest

from fusetune.capture.cases import Case, KernelSeen
from fusetune.capture.kept import MANIFEST, VERSION, Kept, Placed, PlainKept, read_kept
from fusetune.capture.naming import problem_of
from fusetune.errors import CaptureError


def kept(**more: object) -> Kept:
    case = Case(
        kernel=KernelSeen("add", "m", "m.py", 1),
        grid=(8,),
        grid_kind="callable",
        tensors={},
        values={"n": 1000},
        constants={"BLOCK": 128, "EVEN": False},
        options={},
        before={"num_warps": 4},
    )
    return Kept(
        version=VERSION,
        id="a",
        made="2026-11-29T07:00:00Z",
        program="m.py",
        case=case,
        module="m",
        kernel="add",
        arguments={"n": PlainKept(1000), "BLOCK": PlainKept(128), "EVEN": PlainKept(False)},
        storages=(),
        **more,
    )


def test_its_own_constants_have_its_own_grid() -> None:
    assert kept().at({"BLOCK": 128}) == Placed({}, (8,))


def test_what_the_program_answered_while_it_lived_goes_before_its_source() -> None:
    one = kept(
        grid_text="(cdiv(1000, BLOCK),)",
        grid_reads=frozenset({"BLOCK"}),
        placed=(Placed({"BLOCK": 8}, (125,), {"EVEN": True}), Placed({"BLOCK": 16}, None)),
    )
    assert one.at({"BLOCK": 8}) == Placed({"BLOCK": 8}, (125,), {"EVEN": True})
    assert one.at({"BLOCK": 16}) is None, "the program said that there is none"
    assert one.at({"BLOCK": 256}) == Placed({"BLOCK": 256}, (4,))


def test_what_a_grid_may_follow_unseen_is_not_changed() -> None:
    assert kept(suspects=frozenset({"BLOCK"})).at({"BLOCK": 64}) is None


def test_an_argument_that_follows_in_a_way_that_is_not_understood_keeps_a_constant() -> None:
    derived = {"tiles": ("", frozenset({"BLOCK"}))}
    assert kept(derived_texts=derived).at({"BLOCK": 64}) is None
    known = {"tiles": ("cdiv(1000, BLOCK)", frozenset({"BLOCK"}))}
    assert kept(derived_texts=known).at({"BLOCK": 64}) == Placed({"BLOCK": 64}, (8,), {"tiles": 16})


def test_a_constant_that_goes_with_another_takes_its_value_and_is_no_part_of_the_problem() -> None:
    one = kept(grid_text="(cdiv(1000, BLOCK),)", grid_reads=frozenset({"BLOCK"}))
    two = msgspec.structs.replace(
        one,
        case=msgspec.structs.replace(one.case, constants={"BLOCK": 128, "OTHER": 128}),
        arguments={**one.arguments, "OTHER": PlainKept(128)},
        tied={"BLOCK": ("BLOCK", "OTHER"), "OTHER": ("BLOCK", "OTHER")},
        derived_texts={"OTHER": ("BLOCK", frozenset({"BLOCK"}))},
    )
    assert two.at({"BLOCK": 256}) == Placed({"BLOCK": 256}, (4,), {"OTHER": 256})
    assert two.at({"OTHER": 256}) is None
    assert two.following(frozenset({"BLOCK"})) == {"OTHER"}
    assert "OTHER" not in repr(problem_of(two, frozenset({"BLOCK"})))
    assert "OTHER" in repr(problem_of(two, frozenset()))


def test_a_capture_is_read_back_and_what_is_none_is_named(tmp_path) -> None:
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(kept(placed=(Placed({"BLOCK": 8}, (125,)),))))
    assert read_kept(tmp_path).at({"BLOCK": 8}) == Placed({"BLOCK": 8}, (125,))
    with pytest.raises(CaptureError, match="holds no capture"):
        read_kept(tmp_path / "none")
    (tmp_path / MANIFEST).write_text('{"version": 99}')
    with pytest.raises(CaptureError, match="later fusetune"):
        read_kept(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(CaptureError, match="damaged"):
        read_kept(tmp_path)
