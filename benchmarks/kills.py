"""`kill -9` at random moments of a sweep, then the same command: `python benchmarks/kills.py`. Needs a GPU.

Each trial kills a sweep (the whole process group) at a random moment, several times, then lets the same command run to
its end. No finished measurement may have been taken twice, no partial file may lie about, and the verdict must be the
same. Writes benchmarks/results/kills-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from fusetune.core.text import slugify
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.store.journal import Block, Candidate, Sample, read_journal
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.race import ROUNDS

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--latest", type=float, default=7.0, help="seconds after the start by which a kill comes")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        moments = []
        for _ in range(arguments.kills):
            moment = rng.uniform(1.0, arguments.latest)
            process = start(folder)
            try:
                process.wait(moment)
                break  # It came to its end before its moment.
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                moments.append(round(moment, 2))
        else:
            process = start(folder)
            process.wait()
        result: dict[str, Any] = {"date": f"{date.today():%Y-%m-%d}", "killed_after_s": moments, **judge(Path(folder))}
        result["exit_code"] = process.returncode
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"kills-{slugify(result['gpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def start(folder: str) -> subprocess.Popen[bytes]:
    sizes = ["--M", "128", "--K", "1024", "--N", "512", "--op", "tuning_space:SPEC", "--space", "full"]
    command = [sys.executable, "-m", "fusetune", "sweep", *sizes, "--output", f"{folder}/configs"]
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [*command, "--runs", f"{folder}/runs"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": f"{folder}/cache"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def judge(folder: Path) -> dict[str, Any]:
    journals = list((folder / "runs").glob("*.jsonl"))
    records = list(read_journal(journals[0]))
    configs = {record.id: record.config for record in records if isinstance(record, Candidate)}
    checks = Counter(
        record.config for record in records if isinstance(record, Candidate) and record.status == "checked"
    )
    samples = Counter(
        (record.round, record.id) for record in records if isinstance(record, Sample) and configs[record.id] != BASELINE
    )
    blocks = Counter((record.phase, record.baseline_id, record.id) for record in records if isinstance(record, Block))
    (yaml,) = (folder / "configs").glob("*/*.yaml")
    file = read_config_file(yaml)
    allowed = {number: stage.samples for number, stage in enumerate(ROUNDS, start=1)}
    return {
        "gpu": file.target.name,
        "runs": len(journals),
        "checks_repeated": sum(count - 1 for count in checks.values()),
        "samples_repeated": sum(max(0, count - allowed[number]) for (number, _), count in samples.items()),
        "blocks": sorted(blocks.values()),
        "files": sorted(path.name for path in yaml.parent.iterdir()),
        "verdict": file.entries[0].verdict,
        "winner": file.entries[0].config.label(),
        "gain": file.entries[0].gain.median if file.entries[0].gain else None,
    }


if __name__ == "__main__":
    main()
