"""Six bad candidates (hang, illegal address, out of memory, compile error, NaN, wrong by 1 %) among twenty good ones.

`python benchmarks/faults.py` needs a GPU. The sweep has to end with the winner of the good ones and the six reasons.
Writes benchmarks/results/faults-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from msgspec import to_builtins  # noqa: E402

from fusetune.core.progress import SilentProgress  # noqa: E402
from fusetune.core.text import slugify  # noqa: E402
from fusetune.measure.cuda import CudaMeasurer  # noqa: E402
from fusetune.ops.gemm_scale.problem import make_problem  # noqa: E402
from fusetune.store.journal import Candidate, read_journal  # noqa: E402
from fusetune.tune.request import SweepRequest  # noqa: E402
from fusetune.tune.sweep import sweep  # noqa: E402
from tests.support import faulty  # noqa: E402

PROBLEM = make_problem(128, 512, 1024, "float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {}
        for spec in (faulty.SPEC, faulty.SOUND_SPEC):
            request = SweepRequest(spec=spec, problem=PROBLEM, output=folder, runs=folder / "runs", space="full")
            began = time.monotonic()
            with closing(CudaMeasurer(spec, PROBLEM, time_limit_s=8.0)) as measurer:
                runs[spec.name] = sweep(request, measurer, SilentProgress()), round(time.monotonic() - began, 1)
        with_bad, seconds = runs[faulty.SPEC.name]
        without, seconds_without = runs[faulty.SOUND_SPEC.name]
        records = [record for record in read_journal(with_bad.journal) if isinstance(record, Candidate)]
    reasons = {record.config: record.reason for record in records if record.status in {"failed", "rejected"}}
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": with_bad.target_name,
        "environment": to_builtins(with_bad.entry.environment),
        "problem": PROBLEM.describe(),
        "reasons": {config.label(): reason for config, reason in reasons.items()},
        "reasons_right": reasons == faulty.BAD,
        "winner": with_bad.entry.config.label(),
        "winner_without_bad_ones": without.entry.config.label(),
        "gains": [with_bad.entry.gain.median, without.entry.gain.median],
        "seconds": [seconds, seconds_without],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"faults-{slugify(with_bad.target_name)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
