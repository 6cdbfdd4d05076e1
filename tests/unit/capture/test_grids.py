"""How a grid follows from a launch's constants: callables, the caller's source, and numbers alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fusetune.capture.expressions import NotPureError, evaluated
from fusetune.capture.grids import GridRule, rule_of
from fusetune.capture.inferred import Point
from tests.support import launched_kernels as programs
from tests.support.launched_kernels import launched

X = torch.empty(100_000)


def test_a_callable_that_reads_the_tile_is_followed():
    rule = launched(programs.by_callable, X).rule
    assert (rule.kind, rule.reads) == ("callable", {"BLOCK"})
    assert [rule.at({"BLOCK": size}) for size in (256, 512, 1024)] == [(391,), (196,), (98,)]
    assert rule.text == "(cdiv(100000, BLOCK),)"


def test_a_callable_that_reads_an_argument_by_name_is_asked_again():
    rule = launched(programs.by_callable_of_arguments, X).rule
    assert (rule.kind, rule.reads) == ("callable", {"BLOCK"})
    assert rule.at({"BLOCK": 1024}) == (98,)


def test_source_is_found_for_what_a_callable_answers():
    assert launched(programs.by_callable_of_arguments, X).rule.text == "(cdiv(100000, BLOCK),)"

    def grid(meta):
        rows = -(-4096 // meta["BLOCK_H"])
        return (rows * -(-2048 // meta["BLOCK_W"]),)

    rule = rule_of(grid, (1024,), {"M": 4096, "N": 2048}, {"BLOCK_H": 128, "BLOCK_W": 64})
    assert rule.text == "(cdiv(2048, BLOCK_W) * cdiv(4096, BLOCK_H),)"


def test_a_callable_that_nothing_explains_has_no_source_and_is_asked():
    def grid(meta):
        found = [one for one in range(77) if one % meta["BLOCK"] == 0]
        return (len(found) + 3,)

    rule = rule_of(grid, (13,), {"n": 77}, {"BLOCK": 8})
    assert (rule.text, rule.at({"BLOCK": 4})) == ("", (23,))


def test_a_callable_around_a_local_that_is_passed_as_the_tile_follows_it():
    rule = launched(programs.by_callable_around_a_local, X).rule
    assert rule.at({"BLOCK": 1024}) == (98,)
    assert "around what the caller passes" in rule.why


def test_a_callable_around_a_count_of_tiles_that_was_made_before_follows_the_tile():
    rule = launched(programs.by_callable_around_a_count, X).rule
    assert (rule.kind, rule.text) == ("callable", "(cdiv(100000, BLOCK), 1)")
    assert launched(programs.by_callable_around_a_count, X, sizes=[1, 2]).rule.kind == "fixed"


def test_a_callable_with_a_literal_of_its_own_follows_nothing():
    rule = launched(programs.by_callable_of_another_literal, X).rule
    assert (rule.kind, rule.reads) == ("fixed", frozenset())
    assert "reads no constant" in rule.why


def test_a_callable_that_raises_for_some_constants_has_no_grid_for_these():
    def grid(meta):
        if meta["BLOCK"] > 512:
            raise ValueError("too large")
        return (100 // meta["BLOCK"] + 1,)

    rule = rule_of(grid, (1,), {"n": 100}, {"BLOCK": 512})
    assert rule.at({"BLOCK": 64}) == (2,)
    assert rule.at({"BLOCK": 1024}) is None


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (programs.by_tuple, "(cdiv(100000, BLOCK),)"),
        (programs.by_position, "((100000 + BLOCK - 1) // BLOCK, 1, 1)"),
        (programs.by_module_constant, "(cdiv(100000, BLOCK),)"),
        (programs.by_settings, "(cdiv(100000, BLOCK),)"),
        (programs.by_a_launcher, "(cdiv(100000, BLOCK),)"),
        (programs.by_run, "(cdiv(100000, BLOCK),)"),
    ],
)
def test_a_tuple_computed_by_the_caller_is_followed(function, text):
    one = launched(function, X)
    assert (one.rule.kind, one.rule.text) == ("expression", text)
    assert one.rule.at(one.constants) == one.real
    assert one.rule.at({"BLOCK": 2048})[0] == 49


def test_two_tiles_in_one_axis_are_followed_each():
    rule = launched(programs.multiplied, torch.empty(4096, 1024), torch.empty(1024, 2048)).rule
    assert rule.reads == {"BLOCK_H", "BLOCK_W"}
    assert rule.at({}) == (1024,)
    assert rule.at({"BLOCK_H": 64}) == (2048,)
    assert rule.at({"BLOCK_D": 64}) == (1024,)


def test_one_name_for_two_tiles_keeps_them_together():
    rule = launched(programs.multiplied_by_one_tile, torch.empty(4096, 1024), torch.empty(1024, 2048)).rule
    assert rule.at({"BLOCK_H": 128}) == rule.at({"BLOCK_H": 128, "BLOCK_W": 128}) == (512,)
    assert rule.at({"BLOCK_W": 128}) is None
    assert rule.arguments_at({"BLOCK_H": 128}) == {"BLOCK_W": 128}


def test_a_constant_that_is_a_count_of_another_s_tiles_follows_it_and_so_does_the_grid():
    for function in (programs.by_a_count_that_is_a_constant, programs.by_a_count_at_the_launch):
        rule = launched(function, X).rule
        assert (rule.text, rule.reads) == ("(cdiv(100000, BLOCK),)", {"BLOCK"})
        assert rule.at({"BLOCK": 1024}) == (98,)
        assert rule.arguments_at({"BLOCK": 1024}) == {"COUNT": 98}


def test_a_copy_of_a_tile_under_another_name_varies_by_itself():
    rule = launched(programs.tiled_by_a_copy, torch.empty(1000, 256), 1000).rule
    assert rule.at({"BLOCK_H": 128}) == (8, 16)
    assert rule.arguments_at({"BLOCK_H": 128}) == {}


def test_a_literal_written_in_the_grid_and_at_the_launch_is_one_tile():
    rule = launched(programs.literal_written_twice, X).rule
    assert rule.kind == "expression"
    assert rule.why.startswith("the caller writes the number again")
    assert rule.text == "((100000 + (BLOCK - 1)) // BLOCK,)"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (programs.tiled_by_numbers, "(cdiv(1000, BLOCK_H), cdiv(1000, BLOCK_W))"),
        (programs.tiled_by_counts_of_numbers, "(-(-1000 // BLOCK_H), (1000 + (BLOCK_W - 1)) // BLOCK_W)"),
        (programs.tiled_by_names_of_one_number, "(cdiv(1000, BLOCK_H), cdiv(1000, BLOCK_W))"),
        (programs.tiled_by_a_name_and_a_number, "(cdiv(1000, BLOCK_H), cdiv(1000, BLOCK_W))"),
    ],
)
def test_one_number_for_two_tiles_is_told_apart_by_what_the_kernel_does_with_each(function, text):
    # Both sizes are the same, so that only the axes tell.
    rule = launched(function, torch.empty(1000, 256), 1000).rule
    assert (rule.kind, rule.text, rule.suspects) == ("expression", text, frozenset())
    assert rule.at({"BLOCK_H": 128}) == (8, 16)
    assert rule.at({"BLOCK_W": 32}) == (16, 32)


@pytest.mark.parametrize("columns", [2048, 4096])
def test_two_tiles_on_one_axis_are_told_apart_by_the_size_that_each_cuts_up(columns):
    one = launched(programs.multiplied_by_numbers, torch.empty(4096, 1024), torch.empty(1024, columns))
    assert one.rule.text == f"(cdiv(4096, BLOCK_H) * cdiv({columns}, BLOCK_W),)"


def test_a_number_that_is_no_tile_s_is_left_alone_beside_one_that_is():
    rule = launched(programs.tiled_beside_another_number, torch.empty(1000, 256), 1000).rule
    assert rule.text == "(cdiv(1000, BLOCK_H), 32)"


def test_a_grid_that_does_not_follow_what_the_kernel_covers_is_no_tile_s():
    rule = launched(programs.tiled_twice_over, torch.empty(1000, 256), 1000).rule
    assert rule.at({"BLOCK_H": 32}) is None


def test_a_grid_from_elsewhere_is_told_apart_by_the_kernel_too():
    rule = launched(programs.tiled_by_a_grid_from_elsewhere, torch.empty(1000, 256), 1000, (16, 16)).rule
    assert (rule.kind, rule.text) == ("cdiv", "(cdiv(1000, BLOCK_H), cdiv(1000, BLOCK_W))")
    fixed = launched(programs.tiled_by_a_grid_from_elsewhere, torch.empty(1000, 256), 1000, (16, 20)).rule
    assert fixed.at({"BLOCK_H": 128}) == (8, 20)
    assert fixed.at({"BLOCK_W": 128}) == (16, 20)


def test_one_count_for_two_tiles_is_not_clear():
    rule = launched(programs.tiled_with_one_count, torch.empty(1000, 256)).rule
    assert (rule.kind, rule.suspects) == ("fixed", {"BLOCK_H", "BLOCK_W"})
    assert rule.why.endswith("64, which divides n, may be BLOCK_H or BLOCK_W")


def test_where_the_kernel_does_not_tell_two_tiles_of_one_number_stay():
    rule = launched(programs.placed_by_numbers, torch.empty(1000, 500)).rule
    assert (rule.kind, rule.suspects) == ("fixed", {"BLOCK_H", "BLOCK_W"})
    assert "may be BLOCK_H or BLOCK_W" in rule.why


def test_a_size_that_is_the_tile_s_number_is_not_taken_for_it():
    assert launched(programs.rounded_by_the_size).rule.text == "((64 + (BLOCK - 1)) // BLOCK,)"


def test_a_grid_from_another_literal_than_the_tile_follows_nothing():
    rule = launched(programs.over_launched, X).rule
    assert (rule.kind, rule.reads) == ("fixed", frozenset())
    assert "no constant of the kernel" in rule.why


def test_a_grid_of_rows_is_not_taken_for_tiles_of_all_elements():
    # 4096 rows are also cdiv(4096 * 1024, 1024).
    assert launched(programs.softmax_by_rows, torch.empty(4096, 1024)).rule.kind == "fixed"
    named = {"x": torch.empty(4096, 1024), "BLOCK": 1024}
    rule = rule_of((4096,), (4096,), named, {"BLOCK": 1024})
    assert rule.kind == "fixed"
    assert rule.at({"BLOCK": 512}) is None


def test_a_tile_that_was_changed_after_the_grid_was_made_is_not_followed():
    rule = launched(programs.reassigned, X).rule
    assert rule.at({"BLOCK": 1024}) is None or rule.kind == "fixed"
    assert "BLOCK" not in rule.reads


def test_a_grid_kept_from_elsewhere_is_explained_by_its_numbers():
    kept = SimpleNamespace(grid=(391, 1, 1))
    rule = launched(programs.kept_for_later, X, kept).rule
    assert (rule.kind, rule.text) == ("cdiv", "(cdiv(100000, BLOCK), 1, 1)")


def test_without_the_source_the_only_explanation_is_taken():
    rule = launched(programs.given_grid, X, (391,), 256).rule
    assert (rule.kind, rule.text) == ("cdiv", "(cdiv(100000, BLOCK),)")
    assert rule.at({"BLOCK": 128}) == (782,)


def test_a_size_that_is_an_argument_is_told_by_its_name():
    assert "cdiv(n, BLOCK)" in launched(programs.given_grid, X, (391,), 256).rule.why


def test_without_the_source_a_grid_that_nothing_explains_is_fixed():
    rule = launched(programs.given_grid, X, (400,), 256).rule
    assert rule.kind == "fixed"


def test_two_explanations_are_none_until_another_launch_tells_them_apart():
    constants = {"BLOCK_H": 64, "BLOCK_W": 64}
    first = Point((64,), {"M": 4096, "N": 512}, constants)
    other = Point((16,), {"M": 2048, "N": 512}, {"BLOCK_H": 128, "BLOCK_W": 64})
    alone = rule_of(first.grid, first.grid, first.named, constants)
    assert alone.kind == "fixed"
    assert "may be" in alone.why
    assert alone.at({"BLOCK_H": 32}) is None
    both = rule_of(first.grid, first.grid, first.named, constants, points=[other])
    assert (both.kind, both.reads) == ("cdiv", {"BLOCK_H"})


def test_a_buffer_that_is_sized_by_the_tile_is_named_with_its_line():
    rule = launched(programs.summed_in_parts, X).rule
    assert rule.reads == {"BLOCK"}
    assert "`torch.empty(blocks)`" in rule.buffers["BLOCK"]
    assert launched(programs.by_tuple, X).rule.buffers == {}


def test_a_grid_below_one_is_none():
    rule = GridRule("expression", "", (1,), {"BLOCK": 2}, frozenset({"BLOCK"}), "(4 // BLOCK,)")
    assert rule.at({"BLOCK": 8}) is None


def test_what_a_rule_evaluates_cannot_call_anything_else():
    with pytest.raises(NotPureError):
        evaluated("(exit(BLOCK),)", {"BLOCK": 1})
