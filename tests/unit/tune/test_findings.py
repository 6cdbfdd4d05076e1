"""What a run found out about the program's own configs is said: a wrong one in its list, a tile that spills."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.cases import Case, KernelSeen
from fusetune.cli.tuned import notes_of, to_builtins
from fusetune.core.config import NamedConfig
from fusetune.core.resources import Resources
from fusetune.store.journal import Candidate, JournalWriter, read_run
from fusetune.tune.findings import findings_of
from fusetune.tune.program import Tuned
from tests.support.kept_verdicts import kept

BEFORE = NamedConfig(BLOCK=256, num_warps=4, num_stages=3)
CHOSEN = NamedConfig(BLOCK=64, num_warps=8, num_stages=3)
WRONG = NamedConfig(BLOCK=512, num_warps=4, num_stages=3)
CASE = Case(KernelSeen("k", "m", "m.py", 1), (1,), "tuple", {}, {}, {"BLOCK": 256}, {}, {}, findings=("seen before",))
SPILLS, NONE = Resources(255, 2048, 0), Resources(40, 0, 0)


def found(folder: Path, *records: Candidate) -> tuple[Tuned, tuple[str, ...]]:
    """A case that was tuned with these in its journal, where WRONG and CHOSEN stand in the program's list."""
    one = kept(CASE, BEFORE, CHOSEN, folder)
    assert one.result is not None
    start, end = read_run(one.result.journal)
    one.result.journal.unlink()
    with JournalWriter(one.result.journal) as journal:
        for record in (start, *records, end):
            journal.write(record)
    return one, findings_of(request_of(one), one.result)


def request_of(one: Tuned) -> Any:
    spec = SimpleNamespace(listed=lambda _: (WRONG, CHOSEN))
    return SimpleNamespace(spec=spec, problem=one.problem, reference=BEFORE)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("wrong_result", "holds one with which its result is wrong, BLOCK=512 w4 s3: error 3"),
        ("nan", "holds one with which its result is wrong, BLOCK=512 w4 s3: error 3"),
        ("crash", "holds one that fails, BLOCK=512 w4 s3: error 3"),
    ],
)
def test_a_wrong_config_of_the_program_s_own_list_is_named(tmp_path: Path, reason: str, told: str) -> None:
    _, findings = found(tmp_path, Candidate(3, WRONG, "failed", reason, "error 3", resources=NONE))
    assert findings == (f"its own list of configs {told}",)


def test_a_wrong_config_of_ours_and_a_right_one_of_the_list_are_none(tmp_path: Path) -> None:
    ours = NamedConfig(BLOCK=1024, num_warps=4, num_stages=3)
    _, findings = found(
        tmp_path,
        Candidate(1, ours, "failed", "wrong_result", resources=NONE),
        Candidate(2, WRONG, "checked", resources=SPILLS),
        Candidate(3, CHOSEN, "rejected", "shared_memory"),
    )
    assert findings == ()


@pytest.mark.parametrize(("chosen", "told"), [(SPILLS, "so does what was chosen"), (NONE, "what was chosen does not")])
def test_a_tile_that_runs_today_and_spills_is_named(tmp_path: Path, chosen: Resources, told: str) -> None:
    one, findings = found(
        tmp_path, Candidate(0, BEFORE, "compiled", resources=SPILLS), Candidate(1, CHOSEN, "checked", resources=chosen)
    )
    text = f"what runs today spills: BLOCK=256 w4 s3 keeps 2.0 KiB of each thread in local memory; {told}"
    assert findings == (text,)
    tuned = [structs.replace(one, findings=findings)] * 2
    assert notes_of(tuned) == [f"note: k: {text}"]
    told_cases = to_builtins("p.py", None, 1.0, tuned)["kernels"][0]["cases"]
    assert told_cases[0]["findings"] == ["seen before", text]


def test_without_a_gpu_what_an_autotuner_runs_is_not_known_and_not_said(tmp_path: Path) -> None:
    one, (measured,) = found(tmp_path, Candidate(0, BEFORE, "checked", resources=SPILLS))
    assert measured.startswith("what runs today spills: BLOCK=256 w4 s3")
    assert one.result is not None
    entry = SimpleNamespace(evidence="predicted", config=BEFORE)
    predicted: Any = SimpleNamespace(journal=one.result.journal, entry=entry)
    (told,) = findings_of(request_of(one), predicted)
    assert told.startswith("the first of its own list that compiles spills: BLOCK=256 w4 s3 keeps 2.0 KiB")
