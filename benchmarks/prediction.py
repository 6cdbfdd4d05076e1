"""How good the cost model's ranking is against measured sweeps: `python benchmarks/prediction.py`. Needs no GPU.

Reads the journals of measured sweeps under benchmarks/results/sweeps and benchmarks/results/family, the newest one of
each problem; those of an earlier source of the kernels are told apart, and so are those that skipped nothing, whatever
source they ran with. Problems of the sizes in JUDGED are never seen by `python benchmarks/fit.py`, which chooses the
model's constants for sm_90; both halves are told apart, and so are GPUs. For each problem it tells

    regret      how much slower the best of the model's first 1, 3 and 10 is than the best that screening found, all
                ranked by real resources; and the same of the first 3 of a sweep without a GPU, which compiles only
                what the model, guessing at resources, ranks first
    prior       what share of the candidates that can run a sweep with `--prior on` compiles and times, and how much
                slower the best of those is than the best of all that were timed; `full` where the sweep itself
                skipped nothing, else what it skipped was not timed and is not known. Also by how many times the
                best predicted time, before anything was compiled, the model gave to what was timed within NEAR of the
                fastest (of all, and of the 4-warp / 2-stage ones): PRIOR_LIMIT in fusetune/tune/plan.py has to lie
                well above the worst of these

Writes prediction.json into --output.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from scipy.stats import spearmanr

from fusetune.core.resources import Resources
from fusetune.core.target import Target, find_target
from fusetune.errors import FusetuneError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.estimate import estimate
from fusetune.ops.gemm_scale.machine import Machine
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.sources import LATER, hashes_so_far
from fusetune.ops.loading import load_spec
from fusetune.store.journal import Candidate, RunStart, Sample, read_journal
from fusetune.tune.plan import PRIOR_SPARES, predicted_slow
from fusetune.tune.predict import shortlist_of

HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / "results" / "sweeps", HERE / "results" / "family")
JUDGED = frozenset({(16384, 4096, 4096), (64, 8192, 1024), (4096, 4096, 11008), (16, 4096, 4096), (512, 2048, 2048)})
"""Sizes M, K, N that fitting never sees; the others of the family are for it."""
OWNER_LATE_SINCE = "20261127"
"""Runs before this day launched the last kernel of `owner` while the products were made, which is not done any more."""
FIRST = (1, 3, 10)
NEAR = 0.03


class Measured(msgspec.Struct, frozen=True):
    """One sweep: each candidate that was timed, with its Resources and the median of its screening samples.

    `plausible`: those that it did not reject before compiling, whether it compiled them or skipped them.
    """

    run: str
    op: str
    problem: Problem
    target: Target
    kernel_hash: str
    full: bool
    times_us: dict[Config, float]
    resources: dict[Config, Resources]
    plausible: tuple[Config, ...]

    @property
    def judged(self) -> bool:
        """Whether fitting never saw a problem of this size."""
        return (self.problem.M, self.problem.K, self.problem.N) in JUDGED

    @property
    def best_us(self) -> float:
        return min(self.times_us.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journals", type=Path, action="append", help="folders to read instead of the committed ones")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    sweeps = read_sweeps(arguments.journals or FOLDERS)
    if not sweeps:
        sys.exit("no journal of a measured sweep there; benchmarks/family_sweeps.py makes them on a GPU")
    rows = [judge(sweep) for sweep in sweeps]
    earlier = [judge(sweep) for sweep in read_sweeps(arguments.journals or FOLDERS, current=False)]
    full = [judge(sweep) for sweep in full_sweeps(arguments.journals or FOLDERS)]
    told = [("full", row) for row in full] + [("earlier", row) for row in earlier]
    told += [("judged" if row["judged"] else "fitted", row) for row in rows]
    for half, row in told:
        regrets = " ".join(f"{row[f'regret_top{count}']:6.1%}" for count in FIRST)
        print(
            f"{half:<7} {row['gpu'][7:]:<16} {row['op']:<13} {row['problem']:<46} top 1, 3, 10: {regrets}  "
            f"offline top 3 {row['regret_offline']:6.1%}  rho {row['rho']:.2f}  "
            f"prior {row['prior_share']:4.0%} {row['prior_loss']:5.1%}{' full' if row['full'] else ''}"
        )
    summary = {}
    for gpu in sorted({row["gpu"] for row in (*rows, *earlier, *full)}):
        of_gpu, before, whole = ([row for row in some if row["gpu"] == gpu] for some in (rows, earlier, full))
        for half, judged in HALVES.items():
            summary[f"{gpu}, {half}"] = summed([row for row in of_gpu if row["judged"] is judged])
        summary[f"{gpu}, all of these kernels"] = summed(of_gpu)
        summary[f"{gpu}, earlier kernels"] = summed(before)
        summary[f"{gpu}, skipped nothing"] = summed(whole)
    summary = {half: found for half, found in summary.items() if found["problems"]}
    for half, found in summary.items():
        print(f"{half}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"summary": summary, "rows": rows, "earlier_kernels": earlier, "skipped_nothing": full}
    (arguments.output / "prediction.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


HALVES = {"judged only": True, "seen in fitting": False}


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians and worst cases over one half of the problems."""
    if not rows:
        return {"problems": 0}
    found: dict[str, float] = {"problems": len(rows)}
    for name in ("regret_top1", "regret_top3", "regret_offline"):
        found[f"{name}_median"] = statistics.median(row[name] for row in rows)
        found[f"{name}_worst"] = max(row[name] for row in rows)
    found["prior_ratio_worst"] = max(max(row["prior_ratio"], row["prior_ratio_conservative"]) for row in rows)
    found["prior_share_least"] = min(row["prior_share"] for row in rows)
    found["prior_share_most"] = max(row["prior_share"] for row in rows)
    found["prior_loss_worst"] = max(row["prior_loss"] for row in rows)
    found["place_of_best_worst"] = max(row["place_of_best"] for row in rows)
    return found


def read_sweeps(folders: Sequence[Path], *, current: bool = True) -> list[Measured]:
    """The newest measured sweep of each problem on each GPU, in order of op and problem.

    Those of the kernels' newest source alone, since the model is of the kernels as they are; or, of those that are not
    `current`, the others.
    """
    newest = _newest(folders, lambda sweep: True)
    latest = {sweep.op: sweep.kernel_hash for sweep in sorted(newest.values(), key=lambda sweep: sweep.run)}
    alike = {op: _alike(op, latest) for op in latest}
    chosen = [sweep for sweep in newest.values() if (sweep.kernel_hash in alike[sweep.op]) is current]
    return sorted(chosen, key=lambda sweep: (sweep.op, sweep.problem.describe()))


def _alike(op: str, latest: Mapping[str, str]) -> set[str]:
    """The newest source's hash, and of the same source those without the variants that came later."""
    spec = load_spec(op)
    of_now = {spec.source_hash(Config(variant=name)) for name in (BASELINE.variant, *LATER[spec.code_of])}
    of_now.update(hashes_so_far(spec.code_of))
    return {latest[op]} | (of_now if latest[op] in of_now else set())


def full_sweeps(folders: Sequence[Path]) -> list[Measured]:
    """The newest of each problem on each GPU that skipped nothing: only of those is known what the prior loses."""
    chosen = _newest(folders, lambda sweep: sweep.full).values()
    return sorted(chosen, key=lambda sweep: (sweep.op, sweep.problem.describe()))


def _newest(folders: Sequence[Path], counts: Callable[[Measured], bool]) -> dict[tuple[str, str, Problem], Measured]:
    newest: dict[tuple[str, str, Problem], Measured] = {}
    for path in sorted((path for folder in folders for path in folder.glob("*.jsonl*")), key=lambda path: path.name):
        sweep = read_sweep(path)
        if sweep is not None and counts(sweep):
            newest[sweep.target.name, sweep.op, sweep.problem] = sweep
    return newest


@functools.cache
def read_sweep(path: Path) -> Measured | None:
    """None for a prediction, and for a sweep that timed nothing or ran on a GPU that the table does not hold."""
    records = list(read_journal(path))
    start = records[0]
    if not isinstance(start, RunStart) or start.evidence != "measured":
        return None
    of_now = [
        record
        for record in records
        if isinstance(record, Candidate)
        if not record.config.is_library
        if record.config.variant != "owner" or start.run >= OWNER_LATE_SINCE
    ]
    known = {record.id: record for record in of_now if record.resources}
    samples: dict[int, list[float]] = {}
    for record in records:
        if isinstance(record, Sample) and record.id in known:
            samples.setdefault(record.id, []).append(record.us)
    try:
        target = find_target(start.target.name)
    except FusetuneError:
        return None
    if not samples:
        return None
    return Measured(
        run=start.run,
        op=start.op,
        problem=start.problem,
        target=target,
        kernel_hash=start.environment.kernel_hash,
        full=not start.prior,
        times_us={known[id_].config: statistics.median(times) for id_, times in samples.items()},
        resources={known[id_].config: known[id_].resources for id_ in samples},
        plausible=tuple(
            dict.fromkeys(record.config for record in of_now if record.status != "rejected" or record.resources)
        ),
    )


def judge(sweep: Measured, machine: Machine | None = None) -> dict[str, Any]:
    problem, target, times = sweep.problem, sweep.target, sweep.times_us
    predicted = {
        config: estimate(config, problem, target, sweep.resources[config], machine=machine).time_us for config in times
    }
    ranking = sorted(predicted, key=lambda config: predicted[config])
    row: dict[str, Any] = {
        "run": sweep.run,
        "gpu": target.name,
        "op": sweep.op,
        "problem": problem.describe(),
        "judged": sweep.judged,
        "full": sweep.full,
        "kernel_hash": sweep.kernel_hash,
        "candidates": len(times),
        "rho": spearmanr([predicted[c] for c in ranking], [times[c] for c in ranking]).statistic,
        "best": min(times, key=lambda config: times[config]).label(),
        "first": ranking[0].label(),
    }
    for count in FIRST:
        row[f"regret_top{count}"] = min(times[config] for config in ranking[:count]) / sweep.best_us - 1
    guessed = guesses(sweep, machine)
    offline = [config for config in shortlist_of(guessed, [BASELINE]) if config in times]
    first = sorted(offline, key=lambda config: predicted[config])[:3]
    row["regret_offline"] = min(times[config] for config in first) / sweep.best_us - 1
    order = sorted(guessed, key=lambda config: (config != BASELINE, guessed[config]))
    skipped = predicted_slow(order, guessed, {BASELINE}) if len(order) > PRIOR_SPARES else {}
    row["plausible"] = len(order)
    row["prior_share"] = 1 - len(skipped) / len(order)
    row["prior_loss"] = min(times[c] for c in times if c not in skipped) / sweep.best_us - 1
    row["prior_ratio"] = prior_ratio(guessed, guessed, times)
    row["prior_ratio_conservative"] = prior_ratio(guessed, [c for c in guessed if c.is_conservative], times)
    row["place_of_best"] = order.index(min(times, key=lambda config: times[config]))
    return row


def prior_ratio(guessed: Mapping[Config, float], among: Iterable[Config], times: Mapping[Config, float]) -> float:
    """The largest predicted time, over the best predicted, of what was timed within NEAR of the fastest of its kind."""
    kind = set(among)
    timed = {config: time_us for config, time_us in times.items() if config in kind}
    limit = (1 + NEAR) * min(timed.values())
    near = [config for config, time_us in timed.items() if time_us <= limit]
    return max(guessed[config] for config in near) / min(guessed[config] for config in kind)


def guesses(sweep: Measured, machine: Machine | None = None) -> dict[Config, float]:
    """What this sweep had to rank before it compiled anything: the space may have changed since."""
    return {
        config: estimate(config, sweep.problem, sweep.target, machine=machine).time_us for config in sweep.plausible
    }


if __name__ == "__main__":
    sys.exit(main())
