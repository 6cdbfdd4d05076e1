"""Sweeps and predictions on a machine that does not let every candidate be tried, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.trouble import Trouble
from fusetune.errors import FusetuneError, MachineError, NothingTunedError, UsageError
from fusetune.measure.protocol import Failure
from fusetune.store.journal import Candidate, Note, RunEnd, read_journal
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest, SweepResult
from fusetune.tune.sweep import sweep
from tests.support.fake_compiler import BreakingMeasurer, FailBlock, FakeCompiler, install
from tests.support.sample import BASELINE, Config
from tests.unit.tune.test_sweep import FAST, OTHER, RTX4090, SAFE, WARPS8, last_words, request_of

TIMES = {BASELINE: 20.0, FAST: 8.0, SAFE: 10.0, OTHER: 15.0, WARPS8: 18.0}
FULL = Trouble("No space left on device: Triton's cache /c; make room there")
SETTING = Trouble("Triton's cache /c cannot be used (Not a directory); mend TRITON_CACHE_DIR", is_setting=True)


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


@pytest.fixture
def request_(tmp_path: Path) -> SweepRequest:
    """The same command each time, which takes over what it may."""
    return request_of(tmp_path, *(config for config in TIMES if config != BASELINE), fresh=False)


def run(
    request: SweepRequest, failures: Mapping[Config, Failure] | None = None, fail_block: FailBlock | None = None
) -> SweepResult:
    measurer = BreakingMeasurer(RTX4090, TIMES.__getitem__, failures=failures or {}, fail_block=fail_block)
    return sweep(request, measurer, SilentProgress())


def notes_of(result: SweepResult) -> list[str]:
    return [record.text for record in read_journal(result.journal) if isinstance(record, Note)]


@pytest.mark.parametrize("trouble", [FULL, SETTING, Trouble("took more than 60 s"), Trouble("was ended by SIGKILL")])
def test_a_candidate_that_the_machine_kept_from_compiling_is_noted_and_tried_by_the_next_run(
    request_: SweepRequest, compiler: FakeCompiler, trouble: Trouble
) -> None:
    compiler.planted = {FAST: trouble}
    first = run(request_)
    assert (first.entry.config, first.entry.verdict) == (SAFE, "keep")
    candidate = last_words(list(read_journal(first.journal)))[FAST]
    assert (candidate.status, candidate.reason, candidate.detail) == ("skipped", "not_tried", trouble.detail)
    assert notes_of(first) == [
        f"1 of 5 candidates were not tried because of the machine ({trouble.detail}); run the command again to try them"
    ]
    compiler.planted = {}
    second = run(request_)
    reused = {config: record.reused for config, record in last_words(list(read_journal(second.journal))).items()}
    assert reused == {config: config != FAST for config in TIMES}, "all else is taken over"
    assert (second.entry.config, notes_of(second)) == (FAST, [])


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("compile_error", "OSError: [Errno 28] No space left on device"),
        ("compile_error", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("compile_error", "PTXASError: `ptxas` failed with error code -9\n`ptxas` stderr:\n"),
        ("compile_error", "cuobjdump could not read the compiled kernel: no device code"),
        ("compile_timeout", "took more than 60 s to compile"),
        ("compiler_crash", "the compiler process died with exit code -9"),
        ("compiler_crash", "the compiler process died with exit code -6"),
    ],
)
def test_a_rejection_by_the_machine_in_a_journal_of_an_older_version_is_tried_again(
    request_: SweepRequest, compiler: FakeCompiler, reason: str, detail: str
) -> None:
    compiler.planted = {FAST: Rejection(reason, detail)}
    assert run(request_).entry.config == SAFE
    compiler.planted = {}
    assert run(request_).entry.config == FAST


@pytest.mark.parametrize(
    "made", [Rejection("compile_error", "ptxas error: uses too much shared data"), Resources(255, 64, 4096)]
)
def test_what_the_compiler_made_of_a_kernel_is_still_remembered(
    request_: SweepRequest, compiler: FakeCompiler, made: Resources | Rejection
) -> None:
    compiler.planted = {FAST: made}
    run(request_)
    compiler.planted, compiler.compiled = {}, []
    assert run(request_).entry.config == SAFE
    assert compiler.compiled == []


@pytest.mark.parametrize(
    ("reason", "detail", "again"),
    [
        ("out_of_memory", "others hold it", True),
        ("killed", "the worker was ended by SIGKILL", True),
        ("hang", "not done after 20 s", True),
        ("crash", "the worker died with exit code -9", True),
        ("launch_error", "OSError: [Errno 28] No space left on device", True),
        ("crash", "the worker died with exit code -11", False),
        ("launch_error", "RuntimeError: CUDA error: an illegal memory access was encountered", False),
        ("wrong_result", "y: relative error 1.00e-01", False),
    ],
)
def test_a_check_that_failed_by_the_machine_is_done_again_and_one_that_failed_by_the_kernel_is_not(
    request_: SweepRequest, reason: str, detail: str, again: bool
) -> None:
    assert run(request_, {FAST: Failure(reason, detail)}).entry.config == SAFE
    assert run(request_).entry.config == (FAST if again else SAFE)


@pytest.mark.parametrize(
    "hit",
    [(BASELINE,), tuple(TIMES), (FAST, SAFE, OTHER), (FAST, SAFE, OTHER, WARPS8)],
    ids=["BASELINE", "all", "most", "all but BASELINE"],
)
@pytest.mark.parametrize(("trouble", "code"), [(FULL, 4), (SETTING, 2)], ids=["machine", "setting"])
@pytest.mark.parametrize("way", ["sweep", "predict"])
def test_where_the_machine_lets_too_little_be_tried_nothing_is_written_and_the_next_run_goes_on(
    request_: SweepRequest, compiler: FakeCompiler, hit: tuple[Config, ...], trouble: Trouble, code: int, way: str
) -> None:
    def go() -> SweepResult:
        return run(request_) if way == "sweep" else predict(request_, RTX4090, SilentProgress())

    compiler.planted = dict.fromkeys(hit, trouble)
    with pytest.raises(FusetuneError, match=r"No space left|mend TRITON_CACHE_DIR") as caught:
        go()
    assert caught.value.exit_code == code
    assert isinstance(caught.value, NothingTunedError if code == 4 else UsageError)
    assert "\n" not in str(caught.value)
    assert not list(request_.output.rglob("*.yaml"))
    (journal,) = request_.runs.glob("*.jsonl")
    records = list(read_journal(journal))
    assert not [record for record in records if isinstance(record, RunEnd)]
    told = {record.status for record in records if isinstance(record, Candidate) and record.config in hit}
    assert told == {"skipped"}
    compiler.planted = {}
    result = go()
    assert result.file is not None
    if way == "sweep":
        assert (result.entry.config, result.journal) == (FAST, journal)


def test_rules_that_cannot_compile_baseline_end_likewise(request_: SweepRequest, compiler: FakeCompiler) -> None:
    compiler.planted = {BASELINE: FULL}
    with pytest.raises(NothingTunedError, match="No space left on device"):
        run(msgspec.structs.replace(request_, space="rules"))


def test_what_the_file_keeps_does_not_lose_without_having_been_tried(
    request_: SweepRequest, compiler: FakeCompiler
) -> None:
    first = run(request_)
    assert first.file is not None
    before = first.file.read_text()
    compiler.planted = {FAST: FULL}
    with pytest.raises(NothingTunedError, match="which the file keeps for this problem, could not be tried"):
        run(msgspec.structs.replace(request_, fresh=True))
    assert first.file.read_text() == before


def test_where_others_hold_the_gpu_s_memory_nothing_is_decided(request_: SweepRequest) -> None:
    no_memory = Failure("out_of_memory", "others hold it")
    with pytest.raises(NothingTunedError, match=r"4 of 5 candidates could not be tried: out_of_memory"):
        run(request_, dict.fromkeys([FAST, SAFE, OTHER, WARPS8], no_memory))
    assert run(request_).entry.config == FAST


@pytest.mark.parametrize("reason", ["killed", "out_of_memory"])
def test_a_finalist_whose_worker_somebody_ends_is_not_decided_against_and_the_next_run_goes_on(
    request_: SweepRequest, reason: str
) -> None:
    gone = Failure(reason, "planted")
    with pytest.raises(NothingTunedError, match=f"could not be timed .{reason}: planted"):
        run(request_, fail_block=lambda _, config, __: gone if config == FAST else None)
    assert not list(request_.output.rglob("*.yaml"))
    assert run(request_).entry.config == FAST


def test_a_pool_of_processes_that_cannot_be_had_ends_a_sweep_in_one_line(
    request_: SweepRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise MachineError("Too many open files; raise `ulimit -n`")

    monkeypatch.setattr("fusetune.tune.plan.compile_jobs", none)
    with pytest.raises(NothingTunedError, match="Too many open files"):
        run(request_)
