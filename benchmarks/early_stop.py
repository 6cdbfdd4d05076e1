"""What a sweep leaves out because it cannot win any more, replayed: `python benchmarks/early_stop.py`. Needs no GPU.

Reads the journals of measured sweeps under benchmarks/results/sweeps and benchmarks/results/family. Each is played
again as a sweep with `--prior on` would go on 16 cores: candidates come in the order of fusetune/tune/plan.py with the
times that they had then, and fusetune/tune/outlook.py drops what waits. For each it tells

    compiled    how many candidates the compiler had to make, of how many that the plan without this holds
    loss        how much slower the best of those is than the best of all that were timed in the journal; the same of
                the 4-warp / 2-stage ones. Where that sweep skipped nothing, `full`, these are all that can run

and the same where the cost model is worse than it is: each prediction multiplied by a random factor (WORSE, one
standard deviation of its logarithm; fixed seeds), since many of these problems are ones that the model was fitted to.

Writes early_stop.json into --output.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fusetune.core.config import Config
from fusetune.core.target import find_target
from fusetune.errors import FusetuneError
from fusetune.ops.loading import load_spec
from fusetune.store.journal import Candidate, Record, RunStart, Sample, read_journal
from fusetune.tune.outlook import EQUAL, Outlook, pilots_of
from fusetune.tune.plan import PRIOR_SPARES, predicted_slow

HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / "results" / "sweeps", HERE / "results" / "family")
UNDER_WAY = 20
"""So many are at the compiler, or ready for it, when others are dropped: five for four of 16 cores."""
WORSE = (0.0, 0.05, 0.1, 0.2)


class Sweep(NamedTuple):
    """What one journal holds: each candidate that could be compiled, and the times of those that ran."""

    start: RunStart
    predicted: dict[Config, float]
    first_us: dict[Config, float]
    true_us: dict[Config, float]
    skipped: frozenset[Config]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journals", type=Path, action="append", help="folders to read instead of the committed ones")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    folders = arguments.journals or FOLDERS
    paths = sorted((path for folder in folders for path in folder.glob("*.jsonl*")), key=lambda path: path.name)
    sweeps = [sweep for path in paths if (sweep := read_sweep(list(read_journal(path)))) is not None]
    if not sweeps:
        sys.exit("no journal of a measured sweep with more than a few candidates there")
    rows = [played(sweep, worse) for worse in WORSE for sweep in sweeps]
    summary = {}
    for worse in WORSE:
        for name, full in (("skipped nothing", True), ("with the prior", False)):
            some = [row for row in rows if row["worse"] == worse and row["full"] is full]
            if some:
                summary[f"{name}, the model worse by {worse:.0%}"] = summed(some)
    for name, found in summary.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.3g}" for what, value in found.items()))
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {"summary": summary, "rows": [row for row in rows if not row["worse"]]}
    (arguments.output / "early_stop.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians and worst cases."""
    return {
        "sweeps": len(rows),
        "planned_median": statistics.median(row["planned"] for row in rows),
        "compiled_median": statistics.median(row["compiled"] for row in rows),
        "compiled_most": max(row["compiled"] for row in rows),
        "compiled_share": sum(row["compiled"] for row in rows) / sum(row["planned"] for row in rows),
        "loss_worst": max(row["loss"] for row in rows),
        "lost": sum(row["loss"] > EQUAL for row in rows),
        "loss_conservative_worst": max(row["loss_conservative"] for row in rows),
        "lost_conservative": sum(row["loss_conservative"] > EQUAL for row in rows),
    }


def read_sweep(records: Sequence[Record]) -> Sweep | None:
    """None for a prediction, for a GPU that the table does not hold, and for too few candidates to leave some out."""
    start = records[0]
    if not isinstance(start, RunStart) or start.evidence != "measured":
        return None
    last = {one.id: one for one in records if isinstance(one, Candidate) and not one.config.is_library}
    samples: dict[Config, list[Sample]] = {}
    for one in records:
        if isinstance(one, Sample) and one.id in last:
            samples.setdefault(last[one.id].config, []).append(one)
    try:
        target, spec = find_target(start.target.name), load_spec(start.op)
    except FusetuneError:
        return None
    # A rejection with resources came from the compiler; one without, before it.
    could = [one for one in last.values() if one.status != "rejected" or one.resources or one.reason == "compile_error"]
    first = {config: taken[0].us for config, taken in samples.items() if taken[0].round == 1}
    if len(first) <= PRIOR_SPARES or len(could) <= PRIOR_SPARES:
        return None
    predicted = {one.config: spec.estimate(one.config, start.problem, target).time_us for one in could}
    true = {config: statistics.median(one.us for one in samples[config]) for config in first}
    return Sweep(start, predicted, first, true, frozenset(one.config for one in could if one.status == "skipped"))


def played(sweep: Sweep, worse: float) -> dict[str, Any]:
    """One sweep again, with predictions that are so much worse."""
    start, spec = sweep.start, load_spec(sweep.start.op)
    rng = random.Random(f"{start.run} {worse}")
    predicted = {config: us * math.exp(rng.gauss(0.0, worse)) for config, us in sweep.predicted.items()}
    baseline = start.baseline or spec.baseline(start.problem)
    order = sorted(predicted, key=lambda config: (config != baseline, predicted[config]))
    left_out = predicted_slow(order, predicted, {baseline})
    plan = [config for config in order if config not in left_out and config not in sweep.skipped]
    kind_of = partial(spec.signature, start.problem)
    pilots = pilots_of(plan, kind_of)
    compiled = raced(plan, pilots, Outlook(predicted, pilots, kind_of, (baseline,)), sweep.first_us)
    safe = [config for config in sweep.true_us if config.is_conservative]
    return {
        "run": start.run,
        "gpu": start.target.name,
        "op": start.op,
        "problem": start.problem.describe(),
        "full": not start.prior,
        "worse": worse,
        "planned": len(plan),
        "pilots": len(pilots),
        "compiled": len(compiled),
        "loss": lost(compiled, sweep.true_us, sweep.true_us),
        "loss_of_prior": lost(plan, sweep.true_us, sweep.true_us),
        "loss_conservative": lost((c for c in compiled if c.is_conservative), safe, sweep.true_us) if safe else 0.0,
    }


def raced(
    plan: Sequence[Config], pilots: Sequence[Config], outlook: Outlook, first_us: Mapping[Config, float]
) -> list[Config]:
    """What was compiled, in that order."""
    waiting = dict.fromkeys((*plan[:1], *pilots, *plan))
    queue = list(waiting)
    under_way, compiled, times = [], [], {}
    while queue or under_way:
        while queue and len(under_way) < UNDER_WAY:
            under_way.append(queue.pop(0))
        config = under_way.pop(0)
        compiled.append(config)
        del waiting[config]
        if config in first_us:  # Else it spilled, was wrong, or was too slow for a sample.
            times[config] = first_us[config]
        dropped = outlook.hopeless(waiting, partial(dict, times), len(times))
        for one in dropped:
            del waiting[one]
        queue = [one for one in queue if one in waiting]
        # Those under way are made by then, or nearly: they count, though a sweep does not wait for them.
        for one in dropped:
            if one in under_way:
                under_way.remove(one)
                compiled.append(one)
    return compiled


def lost(chosen: Iterable[Config], among: Iterable[Config], times_us: Mapping[Config, float]) -> float:
    """By how much the best of those that were chosen and timed is slower than the best of all."""
    best = min((times_us[config] for config in chosen if config in times_us), default=math.inf)
    return best / min(times_us[config] for config in among) - 1


if __name__ == "__main__":
    sys.exit(main())
