"""Predict every cell of the family for a GPU that is not here: `python benchmarks/predictions.py`.

The cells are those of `benchmarks/family_sweeps.py`: the problems, types and ops that `benchmarks/peers.py` compares.
Nothing is timed; configs/<gpu>/ gets entries that say so, and benchmarks/results/sweeps their journals, in place of the
journals of earlier predictions for the same. Cells that the YAML holds already, with the kernels as they are, are left
out unless --again. Needs no GPU, and about a quarter of a minute a cell on two cores.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from family_sweeps import ROOT, Cell, add_filters, chosen_cells, from_root, kernel_hash

from fusetune.core.target import Target, find_target
from fusetune.store.journal import RunEnd, RunStart, read_journal
from fusetune.store.paths import config_path
from fusetune.store.yaml_files import read_config_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_filters(parser)
    parser.add_argument("--target", default="rtx4090", help="the GPU  [default: rtx4090]")
    parser.add_argument("--again", action="store_true", help="predict cells that the YAML holds already")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs")
    parser.add_argument("--journals", type=Path, default=ROOT / "benchmarks" / "results" / "sweeps")
    parser.add_argument("--list", action="store_true", help="print what would be predicted, and end")
    arguments = parser.parse_args()
    target = find_target(arguments.target)
    cells = chosen_cells(parser, arguments)
    todo = [cell for cell in cells if arguments.again or not held(arguments.configs, target, cell)]
    print(f"{len(todo)} predictions for {target.name}, {len(cells) - len(todo)} cells are held already", flush=True)
    if arguments.list or not todo:
        print("\n".join(cell.key for cell in todo))
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shapes, runs = Path(folder) / "shapes.csv", Path(folder) / "runs"
        write_shapes(shapes, todo)
        command = [sys.executable, "-m", "fusetune", "sweep", "--target", arguments.target, "--shapes", str(shapes)]
        command += ["--output", str(from_root(arguments.configs)), "--runs", str(runs)]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        kept = keep_journals(runs, arguments.journals, target)
    print(f"{kept} predictions in {time.monotonic() - began:.0f} s")
    return code


def held(configs: Path, target: Target, cell: Cell) -> bool:
    """Whether there is an entry of this cell for the kernels as they are now, predicted or better."""
    path = config_path(configs, target.name, cell.spec_name)
    if not path.exists():
        return False
    return any(
        entry.problem == cell.problem and entry.environment.kernel_hash == kernel_hash(cell.spec_name, entry.config)
        for entry in read_config_file(path).entries
    )


def write_shapes(path: Path, cells: Sequence[Cell]) -> None:
    names = ("M", "N", "K", "op", "dtype", "precision", "mode")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        for cell in cells:
            problem = cell.problem
            rows.writerow([getattr(problem, name) if name != "op" else cell.spec_name for name in names])


def keep_journals(runs: Path, journals: Path, target: Target) -> int:
    """Gzip finished journals into the folder, and drop those of earlier predictions of the same problems."""
    journals.mkdir(parents=True, exist_ok=True)
    fresh = {}
    for path in sorted(runs.glob("*.jsonl")):
        start, *rest = read_journal(path)
        if isinstance(start, RunStart) and any(isinstance(record, RunEnd) and record.entry for record in rest):
            fresh[start.op, start.problem] = path
    for path in journals.glob("*.jsonl.gz"):
        start = next(iter(read_journal(path)), None)
        predicted = isinstance(start, RunStart) and start.evidence == "predicted" and start.target.name == target.name
        if isinstance(start, RunStart) and predicted and (start.op, start.problem) in fresh:
            path.unlink()
    for path in fresh.values():
        (journals / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return len(fresh)


if __name__ == "__main__":
    sys.exit(main())
