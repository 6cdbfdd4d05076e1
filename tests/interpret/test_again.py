"""A program runs again with other configs, on the CPU: a right one leaves its result, a wrong one is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.capture.again import run_again
from fusetune.capture.changes import Change
from fusetune.capture.programs import Program, run_program
from fusetune.capture.results import Difference
from fusetune.core.config import NamedConfig
from fusetune.core.progress import SilentProgress
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.again import ask_program
from tests.support.kept_verdicts import kept
from tests.support.launch_cases import launches_of

pytestmark = pytest.mark.usefixtures("programs_are_forked")
FILE = Path(__file__).parents[1] / "support" / "programs" / "rows_and_points.py"
PROGRAM = Program("model", str(FILE), reference=str(FILE))


@pytest.fixture(scope="module")
def cases():
    found, _ = launches_of(lambda: run_program(PROGRAM))
    return {case.kernel.name: case for case in found}


@pytest.fixture(scope="module")
def before(cases, tmp_path_factory):
    """The program as it is, and where its result lies."""
    path = tmp_path_factory.mktemp("before") / "result.pt"
    changes = [Change(case, {}, {}) for case in cases.values()]
    return run_again(PROGRAM, changes, apply=False, save=path), path


def test_as_it_is_nothing_is_changed_and_its_reference_agrees(before):
    ran, path = before
    assert ran.failed is None
    assert (ran.launches, [one.applied for one in ran.launched]) == (2, [0, 0])
    assert ran.gives
    assert ran.reference is not None
    assert (ran.reference.wrong, ran.reference.error < 1e-6) == (None, True)
    assert path.is_file()


def test_a_right_config_reaches_the_launch_with_its_grid_and_leaves_the_result(cases, before):
    change = Change(cases["twice"], {"BLOCK": 64}, {"num_warps": 2, "num_stages": 2})
    ran = run_again(PROGRAM, [change], apply=True, against=before[1])
    assert ran.failed is None
    (launched,) = ran.launched
    assert (launched.applied, launched.left, launched.grid) == (1, {}, (10,))
    assert launched.constants == {"BLOCK": 64}
    assert launched.options == {"num_warps": 2, "num_stages": 2}
    assert ran.difference is not None
    assert (ran.difference.error, ran.difference.wrong) == (0.0, None)


def test_a_tile_that_is_tied_to_the_shape_makes_a_wrong_result(cases, before):
    change = Change(cases["row_softmax"], {"BLOCK": 64}, {"num_warps": 4})
    ran = run_again(PROGRAM, [change], apply=True, against=before[1])
    assert ran.launched[0].applied == 1
    for found in (ran.difference, ran.reference):
        assert found is not None
        assert found.wrong is not None or found.error > 0.01


@pytest.mark.parametrize(("block", "is_known"), [(256, True), (64, False)])
def test_the_reference_is_not_asked_again_by_a_run_that_gives_the_very_same(cases, before, block, is_known):
    change, known = Change(cases["row_softmax"], {"BLOCK": block}, {}), Difference(error=0.25, part="result")
    ran = run_again(PROGRAM, [change], apply=True, against=before[1], reference=known)
    assert ran.difference is not None
    assert ran.difference.is_none() is is_known
    assert (ran.reference == known) is is_known


def test_of_two_kept_configs_the_one_that_spoils_the_result_is_taken_back(cases, tmp_path):
    tuned = [
        kept(cases[name], NamedConfig(BLOCK=block, num_warps=8), NamedConfig(BLOCK=64), tmp_path)
        for name, block in (("row_softmax", 128), ("twice", 256))
    ]
    left, word = ask_program(PROGRAM, tuned, SilentProgress())
    assert [one.end for one in left] == ["revert", "keep"]
    assert word is not None
    assert (word.changes, word.applied, word.launches, word.right) == (2, 1, 1, True)
    assert [(one.change, one.why) for one in word.reverted] == [(0, "wrong")]
    entries = [read_config_file(one.result.file).entries[0] for one in left]
    assert [(one.verdict, one.config["BLOCK"]) for one in entries] == [("revert", 128), ("keep", 64)]
    assert entries[0].reason == "program_result_wrong"
