"""How good the cost model's ranking is against measured sweeps: `python benchmarks/prediction.py`. Needs no GPU.

For every measured sweep under benchmarks/results/sweeps/ it ranks the screened candidates by the model, as a sweep
without a GPU would, and compares with the time that screening gave each: how much slower the best of the model's first
1, 3 and 10 is than the best of all (the regret), and the rank correlation. The model's constants were chosen with these
sweeps in view: this is a fit, not a test.

It also judges the prior of a sweep, which ranks before anything is compiled, by guessed resources: how many times the
best predicted time the model gave to what was timed within NEAR of the fastest, and to 4-warp / 2-stage candidates
within NEAR of the fastest of their kind against the best predicted of that kind. `PRIOR_LIMIT` in fusetune/tune/plan.py
has to lie well above the worst of these. Writes benchmarks/results/prediction.json.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from fusetune.core.config import Config
from fusetune.core.estimate import estimate
from fusetune.core.resources import Resources
from fusetune.core.space import reject_reason
from fusetune.core.target import find_target
from fusetune.store.journal import Candidate, RunStart, Sample, read_journal

NEAR = 0.03
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    rows = [row for path in sorted((RESULTS / "sweeps").glob("*.jsonl.gz")) if (row := judge(path))]
    for row in rows:
        regrets = " ".join(f"{row[f'regret_top{count}']:6.1%}" for count in (1, 3, 10))
        print(
            f"{row['gpu']}  {row['problem']:<42} regret of top 1, 3, 10: {regrets}  rank correlation {row['rho']:.3f}"
        )
    worst = max(max(row["prior_ratio"], row["prior_ratio_conservative"]) for row in rows)
    print(f"within {NEAR:.0%} of the fastest: predicted, by guessed resources, at most {worst:.2f} times the best")
    (RESULTS / "prediction.json").write_text(json.dumps(rows, indent=1) + "\n")


def judge(path: Path) -> dict[str, Any] | None:
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
    row: dict[str, Any] = {
        "run": start.run,
        "gpu": start.target.name,
        "problem": start.problem.describe(),
        "candidates": len(measured),
        "rho": spearmanr([predicted[c] for c in ranking], [measured[c] for c in ranking]).statistic,
    }
    for count in (1, 3, 10):
        row[f"regret_top{count}"] = min(measured[config] for config in ranking[:count]) / best - 1
    planned = {record.config for record in records if isinstance(record, Candidate)}
    guessed = {
        config: estimate(config, start.problem, target).time_us
        for config in planned
        if reject_reason(config, start.problem, target) is None
    }
    row["prior_ratio"] = prior_ratio(guessed, guessed, measured)
    safe = [config for config in guessed if config.is_conservative]
    row["prior_ratio_conservative"] = prior_ratio(guessed, safe, measured)
    return row


def prior_ratio(guessed: Mapping[Config, float], among: Iterable[Config], measured: Mapping[Config, float]) -> float:
    """The largest predicted time, over the best predicted, of what was timed within NEAR of the fastest."""
    kind = set(among)
    limit = (1 + NEAR) * min(time_us for config, time_us in measured.items() if config in kind)
    near = [config for config in kind if measured.get(config, limit + 1) <= limit]
    return max(guessed[config] for config in near) / min(guessed[config] for config in kind)


def _resources(candidates: dict[int, Candidate]) -> dict[Config, Resources]:
    return {record.config: record.resources for record in candidates.values() if record.resources}


if __name__ == "__main__":
    main()
