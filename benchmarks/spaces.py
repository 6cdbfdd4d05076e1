"""Whether `--space standard` misses anything: `python benchmarks/spaces.py`. Needs a GPU.

Each cell of the family is swept twice, in the standard space and in the full one with `--prior off`, and the two
winners are timed in paired blocks in one process. The standard space's may be at most 1 % slower; told besides is what
the standard sweep made of the full space's winner, which it may have had and not kept. Takes the filters of
`benchmarks/family_sweeps.py`; with --time-limit it can be run in pieces. Writes benchmarks/results/spaces-<gpu>.json
after every cell, beside the cells that are there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from family_sweeps import Cell, add_filters, chosen_cells, sweep_command
from msgspec import to_builtins

from fusetune.core.decision import KeepRule
from fusetune.core.text import slugify
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.paired import compare
from fusetune.measure.protocol import Failure
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.loading import load_spec
from fusetune.store.journal import Candidate, Comparison, Record, RunEnd, read_journal

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = 0.01


class SweepFailedError(Exception):
    """A cell that is not judged, and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_filters(parser)
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="start no cell after so long")
    parser.add_argument("--prior", choices=["on", "off"], default="off", help="of the full sweeps")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--journals", type=Path, metavar="FOLDER", help="keep the sweeps' journals there, gzipped")
    arguments = parser.parse_args()
    began = time.monotonic()
    left: list[str] = []
    for cell in chosen_cells(parser, arguments):
        if arguments.time_limit and time.monotonic() - began > arguments.time_limit:
            print("stopped at the time limit")
            break
        try:
            row = judge(cell, arguments.prior, arguments.journals)
        except SweepFailedError as error:  # the GPU was too noisy for one, say; the others may do
            print(f"left: {cell.key}: {error}", flush=True)
            left.append(cell.key)
            continue
        path = arguments.output / f"spaces-{slugify(row.pop('gpu'))}.json"
        arguments.output.mkdir(parents=True, exist_ok=True)
        held = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps(merged(held, [row]), indent=1) + "\n")
        seconds = f"{row['standard_s']:.0f} s and {row['full_s']:.0f} s"
        print(
            f"{cell.key}: {row['standard']} is {row['slower']:+.2%} slower than {row['full']} ({seconds})", flush=True
        )

    return 1 if left else 0


def merged(held: Sequence[Mapping[str, Any]], newer: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by cell. A newer one takes the place of one that is there, and keeps it under `earlier`: none is lost."""
    rows = {row["cell"]: dict(row) for row in held}
    for row in newer:
        before = rows.get(row["cell"])
        found = dict(row)
        if before:
            earlier = [*before.pop("earlier", []), before]
            found["earlier"] = [*earlier, *found.get("earlier", [])]
        rows[row["cell"]] = found
    return list(rows.values())


def judge(cell: Cell, prior: str, journals: Path | None) -> dict[str, Any]:
    """Both winners of a cell, and the share by which the standard space's is slower."""
    standard, records, standard_s = winner(cell, "standard", "on", journals)
    full, _, full_s = winner(cell, "full", prior, journals)
    with closing(CudaMeasurer(load_spec(cell.spec_name), cell.problem)) as measurer:
        facts = measurer.facts()
        measurer.prepare(7)
        slower = 0.0
        if standard != full:
            rule = KeepRule(looks=(100,))
            pair = compare(measurer, full, standard, rule, comparisons=1, rng=random.Random(0), on_block=lambda _: None)
            if isinstance(pair, Failure):
                raise SweepFailedError(f"the winners could not be compared: {pair.reason}, {pair.detail}")
            slower = -pair.gain.median
    return {
        "cell": cell.key,
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": facts.identity.name,
        "environment": to_builtins(facts.environment),
        "standard": standard.label(),
        "full": full.label(),
        "full_in_standard": status_of(full, records),
        "prior_of_full": prior,
        "slower": round(slower, 5),
        "within": slower <= ALLOWED,
        "standard_s": round(standard_s, 1),
        "full_s": round(full_s, 1),
    }


def status_of(config: Config, records: Sequence[Record]) -> str:
    """What became of a config in a sweep: `absent` from its space, its status, or `compared`."""
    ids = {record.id: record.status for record in records if isinstance(record, Candidate) and record.config == config}
    if any(isinstance(record, Comparison) and record.id in ids for record in records):
        return "compared"
    return str(next(iter(ids.values()), "absent"))


def winner(cell: Cell, space: str, prior: str, journals: Path | None) -> tuple[Config, list[Record], float]:
    """The config that a sweep keeps, its journal, and its seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [*sweep_command(cell, folder / "configs", folder / "runs", space, fresh=True), "--prior", prior]
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, check=False, text=True, capture_output=True)
        seconds = time.monotonic() - began
        paths = list(folder.glob("runs/*.jsonl"))
        records = [record for path in paths for record in read_journal(path)]
        entry = next((record.entry for record in records if isinstance(record, RunEnd)), None)
        for path in paths if journals else ():
            journals.mkdir(parents=True, exist_ok=True)
            (journals / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        if entry is None:
            raise SweepFailedError(f"the {space} sweep ended with {done.returncode}:\n{done.stderr}")
    return entry.config, records, seconds


if __name__ == "__main__":
    sys.exit(main())
