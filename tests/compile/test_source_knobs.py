"""From a capture to the numbers that only the program's source can vary, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.look import look
from fusetune.capture.programs import Program, parse_program
from fusetune.cli.source_knobs import SourceKnob, proposed_for, source_knobs
from fusetune.cli.source_trials import try_sources
from fusetune.code.patch.plan import Plan, joined, planned
from fusetune.code.patch.source_file import Sources
from fusetune.core.config import NamedConfig
from fusetune.tune.program import Tuned
from tests.support.kept_verdicts import kept

FILE = Path(__file__).parents[1] / "support" / "programs" / "only_by_source.py"
AMBIGUOUS = """

@triton.jit
def negated(x_ptr, y_ptr, m, n, TALL: tl.constexpr, WIDE: tl.constexpr):
    program = tl.program_id(0)
    across = tl.cdiv(n, WIDE)
    rows = (program // across) * TALL + tl.arange(0, TALL)
    columns = (program % across) * WIDE + tl.arange(0, WIDE)
    at = rows[:, None] * n + columns[None, :]
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(y_ptr + at, -tl.load(x_ptr + at, mask=mask), mask=mask)


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        m, n = x.shape
        negated[(((m + 15) // 16) * ((n + 15) // 16),)](x, y, m, n, TALL=16, WIDE=16)
        return grouped(y), total(y)
"""
NOTHING = Plan((), (), ())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("knobs") / "program.py"
    path.write_text(FILE.read_text(encoding="utf-8") + AMBIGUOUS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(file: Path) -> tuple[Tuned, ...]:
    """What became of each, where nothing was kept."""
    found = look(parse_program([str(file)]), target="rtx4090")
    assert found.failed is None
    return tuple(
        Tuned(case=case, op=case.kernel.name, problem=None, before=None, baseline=None, end="revert")
        for case in found.cases
    )


def by_label(knobs: list[SourceKnob]) -> dict[str, SourceKnob]:
    return {knob.label(): knob for knob in knobs}


def test_numbers_are_found_with_what_they_feed_and_why_no_launch_varies_them(tuned: tuple[Tuned, ...]) -> None:
    found = by_label(source_knobs(tuned, NOTHING, Sources()))
    groups, sums = (found[one] for one in ("BLOCK of into_groups, out_of_groups", "BLOCK of partial_sums"))
    assert (groups.value, groups.line) == (32, 8)
    assert groups.why.startswith("what BLOCK is given feeds `")
    assert (sums.value, sums.line) == (32, 38)
    assert sums.why.startswith("a buffer of the program is sized by it: line 40")


def test_a_trial_changes_the_number_and_all_that_it_feeds(file: Path, tuned: tuple[Tuned, ...]) -> None:
    sources = Sources()
    found = by_label(source_knobs(tuned, NOTHING, sources))
    changes = [*found["BLOCK of into_groups, out_of_groups"].changes(64), *found["BLOCK of partial_sums"].changes(256)]
    (patch,) = planned(changes, sources, everywhere=True).files
    expected = file.read_text(encoding="utf-8").replace("GROUP = 32", "GROUP = 64").replace("block = 32", "block = 256")
    assert patch.after.decode() == expected


def test_numbers_of_a_grid_that_may_be_of_either_tile_go_with_both(file: Path, tuned: tuple[Tuned, ...]) -> None:
    sources = Sources()
    knob = by_label(source_knobs(tuned, NOTHING, sources))["TALL, WIDE of negated"]
    assert "whose number cannot be told from WIDE's" in knob.why
    (patch,) = planned(knob.changes(32), sources, everywhere=True).files
    launch = "negated[(((m + 31) // 32) * ((n + 31) // 32),)](x, y, m, n, TALL=32, WIDE=32)"
    assert launch in patch.after.decode()


def test_what_was_decided_of_a_launch_and_a_trial_of_it_are_written_together(tuned: tuple[Tuned, ...]) -> None:
    sources = Sources()
    knob = by_label(source_knobs(tuned, NOTHING, sources))["BLOCK of partial_sums"]
    (change, _) = knob.fed[0]
    warps = structs.replace(change, wanted={**change.wanted, "num_warps": 8}, comment=("num_warps 4 -> 8",))
    kept = planned([warps], sources)
    (patch,) = joined(kept, planned(knob.changes(64, ["BLOCK 32 -> 64"]), sources, everywhere=True), sources).files
    text = patch.after.decode()
    assert "    block = 64\n" in text
    assert "    # fusetune: num_warps 4 -> 8\n    # fusetune: BLOCK 32 -> 64\n    partial_sums[" in text
    assert "BLOCK=block, num_warps=8)" in text


def test_a_number_that_is_written_already_is_not_tried(tuned: tuple[Tuned, ...]) -> None:
    sources = Sources()
    knob = by_label(source_knobs(tuned, NOTHING, sources))["BLOCK of partial_sums"]
    written = planned(knob.changes(64), sources, everywhere=True)
    assert "BLOCK of partial_sums" not in by_label(source_knobs(tuned, written, sources))


def test_what_a_kernel_was_fastest_with_by_itself_is_proposed(tuned: tuple[Tuned, ...], tmp_path: Path) -> None:
    knob = by_label(source_knobs(tuned, NOTHING, Sources()))["BLOCK of into_groups, out_of_groups"]
    case, other = (
        next(one.case for one in tuned if one.case.kernel.name == name) for name in ("out_of_groups", "partial_sums")
    )
    before, chosen = (NamedConfig(BLOCK=size, num_warps=4, num_stages=3) for size in (32, 256))
    one = kept(case, before, chosen, tmp_path)
    assert proposed_for(knob, [one]) == [256]
    assert proposed_for(knob, [structs.replace(one, end="revert")]) == []
    assert proposed_for(knob, [kept(other, before, chosen, tmp_path)]) == []


def test_tiles_of_one_value_that_are_wrong_by_themselves_are_changed_together(
    tuned: tuple[Tuned, ...], file: Path
) -> None:
    # Each has its own number now, and a grid that follows it.
    path = file.with_name("apart.py")
    text = file.read_text(encoding="utf-8").replace("BLOCK=GROUP", "BLOCK=32")
    path.write_text(text.replace("(programs(n, GROUP),)", 'lambda meta: (meta["BLOCK"],)'), encoding="utf-8")
    apart = []
    for one in tuned:
        assert one.case.site is not None
        site = structs.replace(one.case.site, file=str(path), files={})
        kernel = structs.replace(one.case.kernel, file=str(path))
        apart.append(structs.replace(one, case=structs.replace(one.case, site=site, kernel=kernel)))
    assert not [name for name in by_label(source_knobs(apart, NOTHING, Sources())) if "groups" in name]
    wrong = [structs.replace(one, failures={"wrong_result": 2}) for one in apart]
    found = by_label(source_knobs(wrong, NOTHING, Sources()))
    knob = found["BLOCK of into_groups, out_of_groups"]
    (patch,) = planned(knob.changes(64), Sources(), everywhere=True).files
    assert patch.after.decode().count("BLOCK=64") == 2
    assert list(found)[-1] == knob.label(), "those that are surely one come first"


def test_a_script_that_gives_nothing_is_not_run_for_a_trial(tuned: tuple[Tuned, ...]) -> None:
    def source_of(_: Plan) -> Any:
        pytest.fail("the program is run")

    options: Any = {"budget_s": 60.0, "min_gain": 0.02, "limit_s": None, "gpu": "NVIDIA H200"}
    found = try_sources(Program("script", "bench.py"), tuned, NOTHING, Sources(), source_of, **options)
    assert found is not None
    (line,) = found.lines()
    assert line.startswith("In the source: no other value was tried of TALL, WIDE of negated, 16; ")
    assert line.endswith(": the program gives nothing to compare a trial with")
    assert found.to_builtins()["why_not"] == "the program gives nothing to compare a trial with"
    options["budget_s"] = 0.0
    assert try_sources(Program("script", "bench.py"), tuned, NOTHING, Sources(), source_of, **options) is None
