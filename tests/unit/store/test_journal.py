from __future__ import annotations

import gzip
import math
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_examples import (
    ENVIRONMENT,
    RTX4090,
    amounts,
    configs,
    entries,
    environments,
    gains,
    maybe_texts,
    measured,
    numbers,
    problem,
    problems,
    targets,
    texts,
    times_us,
)

from fusetune.core.decision import Gain, KeepRule
from fusetune.core.resources import Resources
from fusetune.errors import JournalError
from fusetune.store import journal
from fusetune.store.journal import (
    JOURNAL_VERSION,
    Block,
    Candidate,
    Comparison,
    Growth,
    JournalWriter,
    Note,
    PhaseTime,
    Record,
    RunEnd,
    RunStart,
    Sample,
    Sampling,
    read_journal,
)
from tests.support.sample import BASELINE, FILE, OP, Config

START = RunStart(
    journal=JOURNAL_VERSION,
    run="20261123T101500-3f9a",
    started="2026-11-23T10:15:00Z",
    fusetune="1.0.0",
    op=OP,
    problem=problem(),
    target=RTX4090,
    evidence="measured",
    environment=ENVIRONMENT,
    space="default",
    seed=7,
    rule=KeepRule(),
)
RESOURCES = Resources(registers=255, stack_bytes=120, shared_bytes=4096)
GAIN = Gain(median=0.5, low=0.4, high=0.6, confidence=0.95, min_gain=0.02, blocks=25)
ONE_OF_EACH: list[Record] = [
    START,
    Candidate(0, BASELINE, "rejected", "spills", "120 bytes", RESOURCES, 8.5),
    Sampling(4, 20, 1 << 28, 1 << 26, 7),
    Candidate(1, Config(num_warps=8), "checked", error=1e-4, rough_us=9.5),
    Sample(0, 1, 13.25),
    Growth(1, (0, 1), 3),
    Block("confirm", 0, 1, 13.25, 6.5, discarded="thermal", flags=("power_cap",), sm_mhz=2520, power_w=301.5),
    Comparison("control", 0, 0, GAIN, "revert", 2),
    PhaseTime("screen", 12.5),
    Note("another process uses the GPU"),
    RunEnd(measured(), FILE, "kept"),
]

integers = st.integers(0, 2**31)
phases = st.sampled_from(["control", "confirm", "revalidate", "gate"])
resources = st.builds(Resources, registers=integers, stack_bytes=integers, shared_bytes=integers)
rules = st.builds(
    KeepRule, st.floats(0, 0.99), st.floats(0.51, 0.99), st.lists(st.integers(1, 10**6), min_size=1).map(tuple)
)
records = st.one_of(
    st.builds(
        RunStart,
        journal=st.just(JOURNAL_VERSION),
        run=texts,
        started=texts,
        fusetune=texts,
        op=texts,
        problem=problems,
        target=targets,
        evidence=st.sampled_from(["measured", "predicted"]),
        environment=environments,
        space=texts,
        seed=integers,
        rule=rules,
        cache=texts,
    ),
    st.builds(
        Candidate,
        id=integers,
        config=configs,
        status=st.sampled_from(["rejected", "compiled", "failed", "checked"]),
        reason=maybe_texts,
        detail=maybe_texts,
        resources=st.none() | resources,
        predicted_us=st.none() | times_us,
        error=st.none() | numbers,
    ),
    st.builds(Sampling, integers, integers, integers, integers, integers),
    st.builds(Sample, id=integers, round=integers, us=times_us),
    st.builds(
        Block,
        phase=phases,
        baseline_id=integers,
        id=integers,
        baseline_us=times_us,
        us=times_us,
        discarded=maybe_texts,
        flags=st.lists(texts).map(tuple),
        sm_mhz=st.none() | integers,
        power_w=st.none() | amounts,
        launches=st.none() | st.tuples(integers, integers),
    ),
    st.builds(
        Comparison,
        phase=phases,
        baseline_id=integers,
        id=integers,
        gain=gains,
        outcome=st.sampled_from(["keep", "revert", "inconclusive"]),
        discarded_blocks=integers,
    ),
    st.builds(PhaseTime, name=texts, seconds=amounts),
    st.builds(Note, text=texts),
    st.builds(RunEnd, entry=st.none() | entries, file=maybe_texts, message=texts),
)


def write(path: Path, *written: Record) -> Path:
    with JournalWriter(path) as writer:
        for record in written:
            writer.write(record)
    return path


def test_every_kind_of_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert {type(record) for record in ONE_OF_EACH} == set(Record.__args__)
    assert list(read_journal(write(tmp_path / "run.jsonl", *ONE_OF_EACH))) == ONE_OF_EACH


@settings(deadline=None)  # it goes through the disk
@given(st.lists(records, max_size=5))
def test_any_records_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[Record]
) -> None:
    # A journal names a candidate before anything else is said of it.
    numbers_used = {number for record in written for number in journal.candidates_of(record)}
    written = [START, *(Candidate(number, BASELINE, "compiled") for number in sorted(numbers_used)), *written]
    path = write(tmp_path_factory.mktemp("any") / "run.jsonl", *written)
    assert list(read_journal(path)) == written
    assert path.read_bytes().count(b"\n") == len(written)


def test_an_unbounded_interval_and_a_nan_error_survive_the_journal(tmp_path: Path) -> None:
    unbounded = Comparison("confirm", 0, 1, msgspec.structs.replace(GAIN, low=-math.inf, high=math.inf), "inconclusive")
    nan = Candidate(1, BASELINE, "failed", "wrong result", error=math.nan)
    right = Candidate(0, BASELINE, "checked")
    _, _, candidate, comparison = read_journal(write(tmp_path / "run.jsonl", START, right, nan, unbounded))
    assert comparison == unbounded
    assert isinstance(candidate, Candidate)
    assert candidate.error is not None
    assert math.isnan(candidate.error)


def test_a_gzipped_journal_is_read_as_the_plain_one(tmp_path: Path) -> None:
    plain = write(tmp_path / "run.jsonl", *ONE_OF_EACH)
    packed = tmp_path / "run.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_journal(packed)) == ONE_OF_EACH


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:12] + b"\xff\xff\xff" + data[15:]])
def test_a_damaged_gzip_is_an_error_that_names_the_file(tmp_path: Path, damage) -> None:
    packed = tmp_path / "run.jsonl.gz"
    packed.write_bytes(damage(gzip.compress(b'{"kind":"note","text":"a long enough line"}\n' * 50)))
    with pytest.raises(JournalError, match=r"cannot read the journal .*run\.jsonl\.gz"):
        list(read_journal(packed))


def test_a_last_line_that_was_cut_off_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", START, Note("half an é"))
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for length in range(first_line, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert list(read_journal(path)) == [START]


def test_a_last_line_that_lacks_only_its_line_break_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", START, Note("whole"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert list(read_journal(path)) == [START, Note("whole")]


@pytest.mark.parametrize(
    "line",
    [b'{"kind":"note","te', b'{"kind":"rumour","text":""}', b'{"kind":"note","text":"\xff"}', b"[]", b"nonsense"],
)
def test_a_broken_line_before_the_end_is_an_error_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "run.jsonl", START, Note("one"), Note("three"))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[2:], b""]))
    reading = read_journal(path)
    assert [next(reading), next(reading)] == [START, Note("one")]
    with pytest.raises(JournalError, match=r"run\.jsonl, line 3: not a journal record"):
        next(reading)


@pytest.mark.parametrize("first_line", [{"kind": "run", "journal": 99}, {"kind": "start", "journal": 99, "run": [1]}])
def test_a_journal_of_a_newer_fusetune_is_refused_even_where_its_first_line_looks_different(
    tmp_path: Path, first_line: dict[str, object]
) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(msgspec.json.encode(first_line) + b"\n")
    with pytest.raises(JournalError, match=r"newer fusetune \(journal 99\); upgrade fusetune"):
        list(read_journal(path))


def test_a_missing_journal_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"nowhere\.jsonl"):
        list(read_journal(tmp_path / "nowhere.jsonl"))


def test_a_record_is_on_disk_before_the_next_one_is_written(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "run.jsonl") as writer:
        writer.write(START)
        assert list(read_journal(writer.path)) == [START]
        writer.write(Note("next"))
        assert list(read_journal(writer.path)) == [START, Note("next")]
    with pytest.raises(ValueError, match="closed"):
        writer.write(Note("too late"))


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "runs" / "run.jsonl", START)
    with pytest.raises(JournalError, match="never overwritten"):
        JournalWriter(path)
    assert list(read_journal(path)) == [START]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match=r"cannot make the journal .*FUSETUNE_RUNS"):
        JournalWriter(tmp_path / "file" / "run.jsonl")


def test_a_full_disk_is_an_error_that_names_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    writer = JournalWriter(tmp_path / "run.jsonl")
    monkeypatch.setattr(writer, "_file", full.open("wb", buffering=0))
    with pytest.raises(JournalError, match=r"cannot write the journal .*run\.jsonl: No space left"):
        writer.write(START)


@contextmanager
def small_files(limit_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond the limit, as on a disk that is full by then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("limit_bytes", [0, 100, 3000])
def test_a_disk_that_fills_under_the_journal_ends_in_the_journal_s_error_not_in_that_of_closing_it(
    tmp_path: Path, limit_bytes: int
) -> None:
    path = tmp_path / "run.jsonl"

    def fill() -> None:
        with JournalWriter(path) as writer:
            for _ in range(100):
                writer.write(START)

    told = r"cannot write the journal .*run\.jsonl: File too large; raise `ulimit -f`"
    with small_files(limit_bytes), pytest.raises(JournalError, match=told):
        fill()
    # What was written before is kept, and the run can go on.
    kept = list(read_journal(path))
    with JournalWriter(path, resume=True) as writer:
        writer.write(START)
    assert list(read_journal(path)) == [*kept, START]


def _fail_with_something_buffered(writer: JournalWriter) -> None:
    writer._file.write(b"still buffered")
    raise ZeroDivisionError("inside")


def test_closing_says_what_the_file_system_refuses_once_and_hides_no_other_error(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "1.jsonl")
    with small_files(0):
        writer._file.write(b"still buffered")
        with pytest.raises(JournalError, match="cannot write the journal"):
            writer.close()
        writer.close()
        with pytest.raises(ZeroDivisionError, match="inside"), JournalWriter(tmp_path / "2.jsonl") as other:
            _fail_with_something_buffered(other)


def test_a_journal_that_cannot_be_gone_on_with_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot go on with the journal .*: No such file"):
        JournalWriter(tmp_path / "run.jsonl", resume=True)


def test_the_version_of_the_journal_is_the_one_that_is_written() -> None:
    assert journal.JOURNAL_VERSION == 1
