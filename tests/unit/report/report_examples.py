"""A measured run, a predicted one and a reverted problem, with figures that are easy to check by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from fusetune.core.decision import Gain, KeepRule
from fusetune.core.resources import Resources
from fusetune.report.html.data import RunsData
from fusetune.report.html.render import render_html
from fusetune.report.model import load_run
from fusetune.store.journal import (
    JOURNAL_VERSION,
    Block,
    Candidate,
    Comparison,
    JournalWriter,
    Note,
    PhaseTime,
    Record,
    RunEnd,
    RunStart,
    Sample,
)
from fusetune.store.schema import (
    ConfigFile,
    ConservativeGain,
    Entry,
    Environment,
    Library,
    LibraryGain,
    TargetIdentity,
    Times,
)
from tests.support import sample
from tests.support.sample import BASELINE, LARGE_TILE, OP, Config, make_problem, tile

H200 = TargetIdentity("NVIDIA H200", "9.0", 132)
RTX_4090 = TargetIdentity("NVIDIA GeForce RTX 4090", "8.9", 128)

MEASURED_WITH = Environment(
    triton="3.7.1", kernel_hash="a3f9c2d17b04", ptxas="12.9.86", torch="2.13.0", cuda="13.0", driver="580.82.07"
)
COMPILED_WITH = Environment(triton="3.7.1", kernel_hash="a3f9c2d17b04", ptxas="12.9.86")

SMALL = make_problem(128, 512, 1024, "float32")
LARGE = make_problem(16384, 4096, 4096, "float16")
WIDE = make_problem(1024, 8192, 8192, "float32")

WINNER = tile(rows=64, columns=16, depth=128, num_stages=3)
CONSERVATIVE = tile(rows=64, columns=16, depth=128)

LIBRARY = Library(Config(variant="library"), 7.1, LibraryGain(0.2535, 0.251, 0.256, blocks=25))
FASTER_LIBRARY = Library(Config(variant="library"), 1800.0, LibraryGain(-0.0467, -0.049, -0.044, blocks=25))

KEEP_RUN = "20261123T101500-3f9a"
REVERT_RUN = "20261123T111500-77aa"
PREDICTED_RUN = "20261123T121500-c0de"


def gain_of(median: float, spread: float = 0.003, blocks: int = 50) -> Gain:
    """A gain with an interval of `spread` on either side."""
    return Gain(median, median - spread, median + spread, confidence=0.95, min_gain=0.02, blocks=blocks)


KEPT = Entry(
    problem=SMALL,
    config=WINNER,
    evidence="measured",
    verdict="keep",
    reason="gain_confirmed",
    environment=MEASURED_WITH,
    run=KEEP_RUN,
    date="2026-11-23",
    gain=Gain(0.598, 0.596, 0.601, confidence=0.95, min_gain=0.02, blocks=50),
    gain_over_conservative=ConservativeGain(0.195, 0.190, 0.201, blocks=50, config=CONSERVATIVE),
    time_us=Times(baseline=13.2, conservative=6.6, config=5.3),
)
REVERTED = Entry(
    problem=LARGE,
    config=BASELINE,
    evidence="measured",
    verdict="revert",
    reason="gain_below_minimum",
    environment=MEASURED_WITH,
    run=REVERT_RUN,
    date="2026-11-22",
    gain=Gain(-0.001, -0.004, 0.003, confidence=0.95, min_gain=0.02, blocks=25),
    time_us=Times(baseline=1884.0, conservative=1884.0, config=1884.0),
)
PREDICTED = Entry(
    problem=WIDE,
    config=LARGE_TILE,
    evidence="predicted",
    verdict="unverified",
    reason="predicted_not_timed",
    environment=COMPILED_WITH,
    run=PREDICTED_RUN,
    date="2026-11-21",
    predicted_us=Times(baseline=1303.0, conservative=650.0, config=502.0),
)

MEASURED_FILE = ConfigFile(schema=2, op=OP, target=H200, entries=(KEPT, REVERTED))
PREDICTED_FILE = ConfigFile(schema=2, op=OP, target=RTX_4090, entries=(PREDICTED,))
FILES = [
    (Path(f"configs/nvidia-h200/{OP}.yaml"), MEASURED_FILE),
    (Path(f"configs/nvidia-geforce-rtx-4090/{OP}.yaml"), PREDICTED_FILE),
]


def start(entry: Entry, target: TargetIdentity) -> RunStart:
    """The first line of the run that decided `entry`."""
    return RunStart(
        journal=JOURNAL_VERSION,
        run=entry.run,
        started="2026-11-23T10:15:00Z",
        fusetune="0.1.0",
        op=OP,
        problem=entry.problem,
        target=target,
        evidence=entry.evidence,
        environment=entry.environment,
        space="full",
        seed=7,
        rule=KeepRule(),
    )


def ladder(first_id: int, count: int) -> list[tuple[int, Config]]:
    """`count` configs that differ in a constant, numbered from `first_id`."""
    return list(enumerate(sample.ladder(count), first_id))


def measured_run() -> Iterator[Record]:
    """Fifteen candidates: BASELINE 0, the winner 1, the conservative 2, twelve more; then five that fell."""
    yield start(KEPT, H200)
    yield PhaseTime("compile", 41.2)
    runners = [(0, BASELINE), (1, WINNER), (2, CONSERVATIVE), *ladder(10, 12)]
    for number, config in runners:
        yield Candidate(number, config, "compiled")
    for number, config in runners:
        yield Candidate(number, config, "checked", resources=Resources(96 + number, 0, 49152), error=1e-3)
    yield Candidate(40, tile(rows=256), "rejected", "spills")
    for number in (41, 42, 43):
        yield Candidate(number, tile(depth=128, num_stages=number - 35), "rejected", "shared_memory")
    yield Candidate(44, tile(rows=16), "failed", "wrong_result", detail="error 0.3 is over 0.001")
    # Round 0 ran at higher clocks: its times are lower throughout and may not be compared with those of round 1.
    for number, _ in runners:
        for extra in (0.0, 0.2, 5.0):
            yield Sample(number, 0, (20.0 if number == 0 else 5.0 + number / 10) + extra)
    for number, times in ((0, (13.1, 13.3)), (1, (5.4, 5.3, 5.9)), (2, (6.5, 6.7)), (21, (7.0, 7.2))):
        for time_us in times:
            yield Sample(number, 1, time_us)
    for phase, against, blocks in (("control", 0, 25), ("confirm", 1, 50), ("revalidate", 1, 25)):
        for block in range(blocks):
            slow = phase == "confirm" and block < 3
            capped = ("power_cap",) if phase == "revalidate" and block == 0 else ()
            yield Block(phase, 0, against, 13.2, 5.3, discarded="thermal" if slow else None, flags=capped)
    yield Comparison("control", 0, 0, gain_of(0.0004, 0.001, 25), "revert")
    yield Comparison("confirm", 0, 1, gain_of(0.61), "keep", discarded_blocks=3)
    yield Comparison("confirm", 0, 2, gain_of(0.5), "keep")
    yield Comparison("confirm", 2, 1, gain_of(0.195), "keep")
    yield Comparison("revalidate", 0, 1, gain_of(0.598, blocks=25), "keep")
    yield Note("another process used the GPU [pid 4711]")
    yield PhaseTime("screen", 30.0)
    yield RunEnd(KEPT, f"configs/nvidia-h200/{OP}.yaml", "kept")


def predicted_run() -> Iterator[Record]:
    """BASELINE, the winner and one more, all compiled and predicted; one rejected."""
    yield start(PREDICTED, RTX_4090)
    for number, config, predicted_us in ((0, BASELINE, 1303.0), (1, CONSERVATIVE, 650.0), (2, LARGE_TILE, 502.0)):
        yield Candidate(number, config, "compiled", resources=Resources(128, 0, 98304), predicted_us=predicted_us)
    yield Candidate(3, tile(rows=256), "rejected", "registers")
    yield RunEnd(PREDICTED, f"configs/nvidia-geforce-rtx-4090/{OP}.yaml", "predicted")


def write_run(folder: Path, run: str, records: Iterable[Record]) -> Path:
    """A journal on disk, named after the run."""
    path = folder / f"{run}.jsonl"
    with JournalWriter(path) as journal:
        for record in records:
            journal.write(record)
    return path


def page_of(run: str, folder: Path) -> str:
    """The page of a run whose journal is in the folder."""
    data = RunsData()
    return render_html(load_run(run, [folder], summarize=data.summarize), data.by_run)


def with_libraries() -> list[tuple[Path, ConfigFile]]:
    """FILES, with a slower library beside what was kept and a faster one beside what was reverted."""
    kept, reverted = replace(KEPT, library=LIBRARY), replace(REVERTED, library=FASTER_LIBRARY)
    return [(FILES[0][0], replace(MEASURED_FILE, entries=(kept, reverted))), FILES[1]]


def run_with_a_library() -> list[Record]:
    """The measured run, and the blocks of its library."""
    *records, end = measured_run()
    assert isinstance(end, RunEnd)
    return [
        *records,
        Candidate(50, LIBRARY.config, "checked", resources=Resources(32, 0, 0), error=1e-3),
        Comparison("reference", 0, 50, gain_of(0.462, blocks=25), "keep"),
        Comparison("reference", 1, 50, gain_of(-0.3396, blocks=25), "revert"),
        replace(end, entry=replace(KEPT, library=LIBRARY)),
    ]
