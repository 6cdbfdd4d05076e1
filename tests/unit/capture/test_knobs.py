"""Which parameters of a launch may vary: one kernel for each way in which programs come by a tile, and its traps."""

from __future__ import annotations

import torch

from fusetune.capture.knobs import Knob, knobs_of
from tests.support import launched_kernels as programs
from tests.support.launched_kernels import Launched, launched

X = torch.empty(100_000)


def knobs(one: Launched, proposals=(), **options) -> dict[str, Knob]:
    found = knobs_of(one.kernel, one.named, one.constants, one.rule, options, proposals=proposals)
    assert all(knob.reason and knob.value in knob.values for knob in found)
    return {knob.name: knob for knob in found}


def test_a_list_of_configs_is_proposals_and_not_limits():
    """Class A."""
    proposals = [{"BLOCK": 512, "num_warps": 4}, {"BLOCK": 8192, "num_warps": 32}]
    found = knobs(launched(programs.by_callable, X), proposals)
    assert found["BLOCK"].varies
    assert {512, 8192, 1024} <= set(found["BLOCK"].values)
    assert 32 in found["num_warps"].values


def test_what_a_list_varies_is_known_to_vary_though_nothing_else_says_so():
    proposals = [{"GROUP": 1}, {"GROUP": 8}]
    one = launched(programs.multiplied, torch.empty(4096, 1024), torch.empty(1024, 2048))
    assert knobs(one, proposals)["GROUP"].values == (1, 8)
    assert not knobs(one)["GROUP"].varies


def test_a_tile_that_a_callable_grid_reads_varies():
    """Class B."""
    knob = knobs(launched(programs.by_callable, X))["BLOCK"]
    assert knob.varies
    assert knob.values == (128, 256, 512, 1024, 2048)


def test_a_tile_that_the_caller_computes_the_grid_from_varies():
    """Class C."""
    knob = knobs(launched(programs.by_tuple, X))["BLOCK"]
    assert knob.varies
    assert "cdiv(100000, BLOCK)" in knob.reason


def test_tiles_of_the_grid_and_of_the_loop_vary_but_not_how_programs_are_grouped():
    found = knobs(launched(programs.multiplied, torch.empty(4096, 1024), torch.empty(1024, 2048)))
    assert [name for name, one in found.items() if one.varies] == [
        "num_warps",
        "num_stages",
        "BLOCK_H",
        "BLOCK_W",
        "BLOCK_D",
    ]
    assert "a loop of the kernel steps by it" in found["BLOCK_D"].reason
    assert "no size of a block" in found["GROUP"].reason


def test_tiles_that_are_given_one_value_are_one_knob():
    found = knobs(launched(programs.multiplied_by_one_tile, torch.empty(4096, 1024), torch.empty(1024, 2048)))
    assert (found["BLOCK_H"].varies, found["BLOCK_H"].values) == (True, (16, 32, 64, 128, 256))
    assert found["BLOCK_H"].reason.startswith("the grid follows it, BLOCK_W with it: ")
    assert found["BLOCK_W"].reason == "it goes with BLOCK_H: the caller gives both one value"


def test_a_loop_s_tile_among_those_limits_them():
    found = knobs(launched(programs.tiled_by_one_size, torch.empty(1000, 100), 500))
    assert found["BLOCK_H"].values == (16, 32, 64, 128)
    assert [found[name].varies for name in ("BLOCK_H", "BLOCK_W", "BLOCK_D")] == [True, False, False]


def test_tiles_of_one_value_stay_where_the_grid_follows_but_one_of_them():
    found = knobs(launched(programs.tiled_by_one_size_and_a_fixed_width, torch.empty(1000, 256), 1000))
    assert not found["BLOCK_H"].varies
    assert found["BLOCK_H"].reason.endswith("and how the grid follows each of them is not known")


def test_tiles_of_the_same_that_are_given_one_value_go_with_the_one_that_the_grid_reads():
    one = launched(programs.by_one_size_for_the_same, X)
    found = knobs(one)
    assert found["BLOCK"].reason.startswith("the grid follows it, SCALES with it: ")
    assert found["SCALES"].reason == "it goes with BLOCK: the caller gives both one value"
    assert (one.rule.at({"BLOCK": 512}), one.rule.arguments_at({"BLOCK": 512})) == ((196,), {"SCALES": 512})


def test_a_tile_computed_from_a_size_that_is_a_constant_varies_by_itself():
    found = knobs(launched(programs.by_a_tile_of_a_constant_size, torch.empty(30, 200)))
    assert (found["BV"].varies, found["V"].varies) == (True, False)


def test_a_count_of_tiles_that_is_a_constant_goes_with_the_tile():
    found = knobs(launched(programs.by_a_count_that_is_a_constant, X))
    assert found["BLOCK"].varies
    assert found["COUNT"].reason == "the caller computes it from BLOCK"


def test_a_tile_tied_to_the_row_stays():
    """Class D, and the first trap: a smaller one computes a part of each row."""
    for columns in (1000, 1024):
        one = launched(programs.softmax_by_rows, torch.empty(4096, columns))
        knob = knobs(one)["BLOCK"]
        assert not knob.varies
        assert "a smaller one would compute a part of it" in knob.reason


def test_a_reason_has_the_program_s_own_words():
    # The rows are as many as the columns, so that the shape's first number would do as well.
    knob = knobs(launched(programs.softmax_by_rows, torch.empty(1024, 1024)))["BLOCK"]
    assert knob.reason.startswith("it is the size 1024, by the caller's `triton.next_power_of_2(columns)`: ")
    knob = knobs(launched(programs.softmax_of_columns, torch.empty(64, 1000), 1024))["BLOCK"]
    assert knob.reason.startswith("it is the next power of two of columns, 1000: ")
    assert programs.launched(programs.softmax_of_a_square, torch.empty(64, 64)).rule.sources == {"BLOCK": "n"}


def test_a_loop_that_takes_one_step_may_take_more_but_no_larger_one():
    knob = knobs(launched(programs.sum_by_rows, torch.empty(4096, 1000), 1024))["BLOCK"]
    assert knob.varies
    assert knob.values == (256, 512, 1024)


def test_a_tile_that_sizes_a_buffer_stays():
    """Class E, and the sixth trap: a smaller one writes behind the buffer's end."""
    knob = knobs(launched(programs.summed_in_parts, X))["BLOCK"]
    assert not knob.varies
    assert "a buffer of the program is sized by it: line" in knob.reason


def test_a_buffer_made_elsewhere_is_seen_by_its_size():
    knob = knobs(launched(programs.summed_into, X, torch.empty(196)))["BLOCK"]
    assert not knob.varies
    assert "part_ptr.shape[0] is 196, cdiv(" in knob.reason
    assert knobs(launched(programs.summed_into, X, torch.empty(500)))["BLOCK"].varies


def test_a_kernel_without_a_tile_has_its_options():
    """Class F."""
    found = knobs(launched(programs.one_by_one, X), num_warps=8, num_stages=2)
    assert list(found) == ["num_warps", "num_stages", "num_ctas", "maxnreg"]
    assert (found["num_warps"].value, found["num_warps"].varies) == (8, True)
    assert (found["num_ctas"].reason, found["maxnreg"].varies) == ("on request", False)


def test_stages_stay_where_no_loop_loads():
    assert knobs(launched(programs.one_by_one, X))["num_stages"].reason == "no loop to pipeline"
    assert knobs(launched(programs.sum_by_rows, torch.empty(64, 4096)))["num_stages"].varies


def test_a_tile_of_a_loop_alone_varies():
    """Class G."""
    one = launched(programs.sum_by_rows, torch.empty(4096, 2048))
    assert knobs(one)["BLOCK"].values == (16, 32, 64, 128, 256)
    assert one.rule.at({"BLOCK": 128}) == (4096,)


def test_a_tile_that_happens_to_equal_another_dimension_still_varies_where_the_loop_covers_more():
    assert knobs(launched(programs.sum_by_rows, torch.empty(64, 2048)))["BLOCK"].varies


def test_a_grid_from_another_literal_than_the_tile_keeps_the_tile():
    """The second trap."""
    for function in (programs.over_launched, programs.by_callable_of_another_literal):
        assert not knobs(launched(function, X))["BLOCK"].varies
    assert knobs(launched(programs.literal_written_twice, X))["BLOCK"].varies


def test_a_layout_stays_though_a_loop_steps_by_it():
    """The fifth trap."""
    knob = knobs(launched(programs.paged, torch.empty(4096), torch.empty(300, dtype=torch.int32)))["PAGE_SIZE"]
    assert not knob.varies
    assert knob.reason == "by its name it says how the input lies in memory"


def test_a_tile_is_held_within_the_group_that_shares_a_scale():
    """The seventh trap."""
    knob = knobs(launched(programs.dequantised, torch.empty(1, 4096)))["BLOCK_D"]
    assert knob.values == (16, 32, 64, 128)
    assert knob.reason.endswith("at most group_size, 128")


def test_arguments_that_the_caller_computes_from_the_tile_follow_it():
    one = launched(programs.by_a_count, X)
    found = knobs(one)
    assert found["BLOCK"].varies
    assert found["EVEN"].reason == "it is a bool, no size"
    assert one.rule.arguments_at({"BLOCK": 32}) == {"blocks": 3125, "EVEN": True}
    assert one.rule.arguments_at({}) == {}


def test_an_argument_that_is_computed_from_the_tile_out_of_sight_keeps_it():
    one = launched(programs.by_a_count_made_elsewhere, X)
    assert "computes blocks from it" in knobs(one)["BLOCK"].reason
    assert one.rule.arguments_at({"BLOCK": 32}) is None


def test_a_tile_that_the_grid_grows_with_is_a_size():
    knob = knobs(launched(programs.softmax_of_a_square, torch.empty(1024, 1024)))["BLOCK"]
    assert not knob.varies
    assert "so it is a size and no tile" in knob.reason


def test_constants_that_are_no_sizes_stay_each_with_its_kind():
    """The fourteenth trap: None, strings, bools and dtypes among the arguments."""
    found = knobs(launched(programs.of_many_kinds, X))
    assert found["BLOCK"].varies
    assert found["ACTIVATION"].reason == "it is a string, no size"
    assert found["SQUARE"].reason == "it is a bool, no size"
    assert found["TO"].reason == "it is a dtype, no size"


def test_programs_that_stay_on_the_gpu_keep_their_number_and_vary_their_tile():
    """The fifteenth trap: the grid is what the GPU holds at once, and sizes the partial sums."""
    one = launched(programs.on_every_processor, torch.empty(4096, 1000))
    found = knobs(one)
    assert "a buffer of the program is sized by it" in found["PROGRAMS"].reason
    assert found["BLOCK"].varies
    assert one.rule.at({"BLOCK": 512}) == (132,)


def test_of_what_stays_the_program_may_be_run_with_another_value_where_the_program_alone_keeps_it():
    by_buffer = knobs(launched(programs.summed_in_parts, X))["BLOCK"]
    by_grid = knobs(launched(programs.literal_written_twice, X))["BLOCK"]
    by_another_literal = knobs(launched(programs.over_launched, X))["BLOCK"]
    tied_to_the_row = knobs(launched(programs.softmax_by_rows, torch.empty(64, 1000)))["BLOCK"]
    a_layout = knobs(launched(programs.dequantised, torch.empty(64, 1024)))
    assert (by_buffer.varies, by_buffer.again) == (False, True)
    assert (by_grid.varies, by_grid.again) == (True, False)
    assert (by_another_literal.varies, by_another_literal.again) == (False, True)
    assert (tied_to_the_row.varies, tied_to_the_row.again) == (False, False)
    assert not any(one.again for name, one in a_layout.items() if not one.varies and name.startswith("num_"))
