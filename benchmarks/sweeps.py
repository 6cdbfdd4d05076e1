"""The sweeps behind configs/ and the first table of docs/benchmarks.md, as one command: `python benchmarks/sweeps.py`.

Runs `fusetune sweep` for every problem below on the GPU here, keeps each run's journal under
benchmarks/results/sweeps/ (gzipped), and writes what `fusetune report` makes of them to
benchmarks/results/sweeps-<gpu>.json. With `--report-only`, only the last step.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
JOURNALS = ROOT / "benchmarks" / "results" / "sweeps"
PROBLEMS = [(128, 1024, 512), (1024, 8192, 8192), (16384, 4096, 4096)]
DTYPES = ["float32", "float16"]
OPS = [("gemm_scale", None), ("gemm_scale_bn", "train"), ("gemm_scale_bn", "eval")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="predict for this GPU instead of measuring on the one here")
    parser.add_argument("--report-only", action="store_true", help="no sweep: only write the report again")
    arguments = parser.parse_args()
    if not arguments.report_only:
        sweep_all(arguments.target)
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir()):
        write_report(folder.name)


def sweep_all(target: str | None) -> None:
    chosen = ["--target", target] if target else []
    for (op, mode), dtype, (M, K, N) in itertools.product(OPS, DTYPES, PROBLEMS):
        with tempfile.TemporaryDirectory() as runs:
            problem = ["--op", op, "--M", str(M), "--K", str(K), "--N", str(N), "--dtype", dtype]
            problem += ["--mode", mode] if mode else []
            fusetune("sweep", *problem, *chosen, "--output", "configs", "--runs", runs)
            JOURNALS.mkdir(parents=True, exist_ok=True)
            for journal in Path(runs).glob("*.jsonl"):
                (JOURNALS / f"{journal.name}.gz").write_bytes(gzip.compress(journal.read_bytes(), mtime=0))


def write_report(gpu: str) -> None:
    """One GPU's report as JSON, from a folder that holds that GPU's configs alone."""
    with tempfile.TemporaryDirectory() as only:
        (Path(only) / gpu).symlink_to(CONFIGS / gpu)
        text = fusetune("report", "--configs", only, "--runs", str(JOURNALS), "--format", "json", capture=True)
    text = text.replace(f"{only}/", "configs/")
    (JOURNALS.parent / f"sweeps-{gpu}.json").write_text(text)


def fusetune(*arguments: str, capture: bool = False) -> str:
    command = [sys.executable, "-m", "fusetune", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


if __name__ == "__main__":
    main()
