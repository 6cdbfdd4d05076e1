"""Where everything but BASELINE is rejected, a sweep or a prediction says so and why, and writes no entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.errors import EXIT_INCONCLUSIVE, NoCandidateError
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import Failure
from fusetune.report.run_summary import summarize_run
from fusetune.store.journal import read_run
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import FakeCompiler, ListedSpec, install
from tests.support.sample import BASELINE, OP, Config, make_problem, tile

RTX4090 = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
FAST, WARPS8 = tile(rows=64, columns=16, depth=128, num_stages=3), Config(num_warps=8)
HUGE = tile(rows=256, columns=256, depth=256, num_stages=5)
LIBRARY = Config(variant="library")
SPILLS = Resources(255, 80, 4096)
BROKEN = Rejection("compile_error", "planted")


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


def request_of(tmp_path: Path, *configs: Config, **changes: Any) -> SweepRequest:
    spec = ListedSpec(*configs, references=changes.pop("references", ()))
    request = SweepRequest(spec=spec, problem=PROBLEM, output=tmp_path / "configs", runs=tmp_path / "runs")
    return msgspec.structs.replace(request, **{"space": "full", **changes})


def measured(request: SweepRequest, **fake: Any) -> SweepResult:
    return sweep(request, FakeMeasurer(RTX4090, lambda config: 10.0, **fake), SilentProgress())


def predicted(request: SweepRequest) -> SweepResult:
    return predict(request, RTX4090, SilentProgress())


def told(tmp_path: Path, error: NoCandidateError) -> str:
    """The message, after it was made sure that nothing was written but a journal that a report shows."""
    assert error.exit_code == EXIT_INCONCLUSIVE
    assert not (tmp_path / "configs").exists()
    (journal,) = (tmp_path / "runs").glob("*.jsonl")
    summary = summarize_run(read_run(journal))
    assert summary.finished
    assert summary.entry is None
    assert summary.file is None
    assert summary.message is not None
    assert str(error).startswith(summary.message)
    assert journal.name in str(error)
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("run", [measured, predicted])
def test_what_the_compiler_makes_nothing_of_is_counted_by_reason(
    tmp_path: Path, compiler: FakeCompiler, run: Any
) -> None:
    others = [Config(num_warps=8, num_stages=stages) for stages in (2, 3, 4)]
    compiler.planted = {FAST: BROKEN, **dict.fromkeys(others, SPILLS)}
    with pytest.raises(NoCandidateError) as caught:
        run(request_of(tmp_path, FAST, *others))
    assert (
        f"{OP}: nothing is left beside BASELINE, since none of 4 other candidates can be used: 3 spills, "
        "1 compile_error (such as 64x64x32 w8 s"
    ) in told(tmp_path, caught.value)


@pytest.mark.parametrize("run", [measured, predicted])
def test_what_the_numbers_reject_needs_no_compiler(tmp_path: Path, compiler: FakeCompiler, run: Any) -> None:
    with pytest.raises(NoCandidateError) as caught:
        run(request_of(tmp_path, HUGE))
    assert "none of 1 other candidates can be used: 1 " in told(tmp_path, caught.value)
    assert {job.config for job in compiler.compiled} <= {BASELINE}


def test_what_fails_its_check_is_no_candidate_either(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted = {WARPS8: SPILLS}
    with pytest.raises(NoCandidateError) as caught:
        measured(request_of(tmp_path, FAST, WARPS8), failures={FAST: Failure("nan", "planted")})
    message = told(tmp_path, caught.value)
    assert "1 nan" in message
    assert "1 spills" in message
    assert (caught.value.tried, caught.value.failures) == (2, {"nan": 1, "spills": 1})


@pytest.mark.parametrize("run", [measured, predicted])
@pytest.mark.parametrize("space", ["full", "rules"])
def test_a_space_of_baseline_alone_is_no_such_case(
    tmp_path: Path, compiler: FakeCompiler, run: Any, space: str
) -> None:
    compiler.planted[BASELINE] = Resources(registers=200, stack_bytes=0, shared_bytes=32768)
    large = make_problem(4096, 4096, 4096, "float32")
    result = run(request_of(tmp_path, space=space, problem=large))
    assert result.entry.config == BASELINE
    assert result.file is not None


def test_a_library_that_may_win_is_a_candidate(tmp_path: Path, compiler: FakeCompiler) -> None:
    compiler.planted = {FAST: SPILLS}
    result = measured(request_of(tmp_path, FAST, references=(LIBRARY,), allow_library=True))
    assert result.entry.config == BASELINE, "it is no faster here"
    with pytest.raises(NoCandidateError):
        measured(request_of(tmp_path, FAST, references=(LIBRARY,), fresh=True))


def test_an_entry_that_is_there_stays(tmp_path: Path, compiler: FakeCompiler) -> None:
    kept = measured(request_of(tmp_path, FAST))
    assert kept.file is not None
    before = kept.file.read_bytes()
    compiler.planted = {FAST: SPILLS}
    with pytest.raises(NoCandidateError):
        measured(request_of(tmp_path, FAST, fresh=True))
    assert kept.file.read_bytes() == before
