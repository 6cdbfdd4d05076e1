"""benchmarks/predictions.py: the list that it hands over, and which journals stay."""

from __future__ import annotations

import gzip
from pathlib import Path

import predictions
from family_sweeps import family

from fusetune.core.decision import KeepRule
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.types import types_of
from fusetune.store.journal import JOURNAL_VERSION, JournalWriter, RunEnd, RunStart
from fusetune.store.schema import Entry, Times
from fusetune.store.shapes import read_shapes

RTX_4090 = find_target("rtx4090")


def test_the_list_holds_every_cell_of_the_family_as_it_is(tmp_path: Path) -> None:
    cells = family()
    path = tmp_path / "shapes.csv"
    predictions.write_shapes(path, cells)
    shapes = read_shapes(path, "gemm_scale", {}, lambda op, values: types_of(op).make(values))
    assert [(shape.op, shape.problem) for shape in shapes] == [(cell.spec_name, cell.problem) for cell in cells]
    assert len(cells) >= 63


def journal(folder: Path, run: str, problem: Problem, *, evidence: str = "predicted", gpu: str = RTX_4090.name) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(triton="3.7.1", kernel_hash="0" * 16)
    entry = Entry(
        problem=problem,
        config=Config(num_warps=8),
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=environment,
        run=run,
        date="2026-11-23",
        predicted_us=Times(baseline=14.0, conservative=14.0, config=9.0),
    )
    path = folder / f"{run}.jsonl"
    with JournalWriter(path) as writer:
        writer.write(
            RunStart(
                journal=JOURNAL_VERSION,
                run=run,
                started="2026-11-23T10:15:00Z",
                fusetune="0.1",
                op="gemm_scale",
                problem=problem,
                target=TargetIdentity(name=gpu, capability="8.9", sms=128),
                evidence=evidence,  # type: ignore[arg-type]
                environment=environment,
                space="standard",
                seed=0,
                rule=KeepRule(),
            )
        )
        writer.write(RunEnd(entry=entry, file="x", message="predicted"))
    return path


def packed(folder: Path, path: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{path.name}.gz"
    kept.write_bytes(gzip.compress(path.read_bytes()))
    return kept


def test_a_new_prediction_replaces_the_journal_of_the_old_one_and_no_other(tmp_path: Path) -> None:
    one, two = (family(kinds=[kind], ops=["gemm_scale"])[0].problem for kind in ("float32", "float16"))
    kept = tmp_path / "kept"
    old = packed(kept, journal(tmp_path / "old", "20261101T000000-aaaa", one))
    others = [
        packed(kept, journal(tmp_path / "old", "20261101T000000-bbbb", two)),
        packed(kept, journal(tmp_path / "old", "20261101T000000-cccc", one, evidence="measured")),
        packed(kept, journal(tmp_path / "old", "20261101T000000-dddd", one, gpu="NVIDIA L4")),
    ]
    journal(tmp_path / "runs", "20261125T000000-eeee", one)
    assert predictions.keep_journals(tmp_path / "runs", kept, RTX_4090) == 1
    assert not old.exists()
    assert all(other.exists() for other in others)
    assert (kept / "20261125T000000-eeee.jsonl.gz").exists()
