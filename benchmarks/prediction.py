"""How good the cost model's ranking is against measured sweeps: `python benchmarks/prediction.py`. Needs no GPU.

For every measured sweep under benchmarks/results/sweeps/ it ranks the screened candidates by the model, as a sweep
without a GPU would, and compares with the time that screening gave each: how much slower the best of the model's first
1, 3 and 10 is than the best of all (the regret), and the rank correlation. The model's constants were chosen with these
sweeps in view: this is a fit, not a test. Writes benchmarks/results/prediction.json.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from scipy.stats import spearmanr

from fusetune.core.config import Config
from fusetune.core.estimate import estimate
from fusetune.core.resources import Resources
from fusetune.core.target import find_target
from fusetune.store.journal import Candidate, RunStart, Sample, read_journal

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    rows = [row for path in sorted((RESULTS / "sweeps").glob("*.jsonl.gz")) if (row := judge(path))]
    for row in rows:
        regrets = " ".join(f"{row[f'regret_top{count}']:6.1%}" for count in (1, 3, 10))
        print(
            f"{row['gpu']}  {row['problem']:<42} regret of top 1, 3, 10: {regrets}  rank correlation {row['rho']:.3f}"
        )
    (RESULTS / "prediction.json").write_text(json.dumps(rows, indent=1) + "\n")


def judge(path: Path) -> dict[str, object] | None:
    records = list(read_journal(path))
    start = records[0]
    if not isinstance(start, RunStart) or start.evidence != "measured":
        return None
    candidates = {record.id: record for record in records if isinstance(record, Candidate) and record.resources}
    samples: dict[int, list[float]] = {}
    for record in records:
        if isinstance(record, Sample) and record.id in candidates:
            samples.setdefault(record.id, []).append(record.us)
    measured = {candidates[id_].config: statistics.median(times) for id_, times in samples.items()}
    target = find_target(start.target.name)
    predicted = {
        config: estimate(config, start.problem, target, resources).time_us
        for config, resources in _resources(candidates).items()
        if config in measured
    }
    ranking = sorted(predicted, key=lambda config: predicted[config])
    best = min(measured.values())
    row: dict[str, object] = {
        "run": start.run,
        "gpu": start.target.name,
        "problem": start.problem.describe(),
        "candidates": len(measured),
        "rho": spearmanr([predicted[c] for c in ranking], [measured[c] for c in ranking]).statistic,
    }
    for count in (1, 3, 10):
        row[f"regret_top{count}"] = min(measured[config] for config in ranking[:count]) / best - 1
    return row


def _resources(candidates: dict[int, Candidate]) -> dict[Config, Resources]:
    return {record.config: record.resources for record in candidates.values() if record.resources}


if __name__ == "__main__":
    main()
