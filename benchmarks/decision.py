"""How often the keep rule is right where the truth is known: `python benchmarks/decision.py`. Needs a GPU.

A/A: decisions of a config against itself; none may be kept, and no median may be off by more than 0.3 %. Planted: the
same kernel with extra work in the baseline arm, calibrated to gains of 1, 3 and 5 % with 400 blocks each, then decided
on again and again. Writes benchmarks/results/decision-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import planted
from msgspec import structs, to_builtins

from fusetune.core.config import Config as AnyConfig
from fusetune.core.decision import KeepRule
from fusetune.core.text import slugify
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.paired import PairResult, compare
from fusetune.measure.protocol import Failure
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem

RESULTS = Path(__file__).resolve().parent / "results"
SMALL = make_problem(128, 512, 1024, "float32")
LARGE = make_problem(1024, 8192, 8192, "float32")
SMALL_CONFIG = Config(BLOCK_M=32, BLOCK_N=16, BLOCK_K=256, num_stages=3)
LARGE_CONFIG = Config(BLOCK_M=128, BLOCK_N=256, GROUP_M=8, num_warps=8, num_stages=4)
GAINS = (0.01, 0.03, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=200, help="A/A decisions at (128, 1024, 512)")
    parser.add_argument("--large", type=int, default=50, help="A/A decisions at (1024, 8192, 8192)")
    parser.add_argument("--planted", type=int, default=100, help="decisions for each planted gain")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"date": f"{date.today():%Y-%m-%d}"}
    with closing(CudaMeasurer(SPEC, SMALL)) as measurer:
        facts = measurer.facts()
        result["gpu"], result["environment"] = facts.identity.name, to_builtins(facts.environment)
        result["aa_small"] = against_itself(measurer, SMALL.describe(), SMALL_CONFIG, arguments.small)
    with closing(CudaMeasurer(SPEC, LARGE)) as measurer:
        result["aa_large"] = against_itself(measurer, LARGE.describe(), LARGE_CONFIG, arguments.large)
    with closing(CudaMeasurer(planted.SPEC, SMALL)) as measurer:
        result["planted"] = planted_gains(measurer, arguments.planted)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"decision-{slugify(facts.identity.name)}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


def against_itself(measurer: CudaMeasurer, problem: str, config: Config, count: int) -> dict[str, Any]:
    began = time.monotonic()
    measurer.prepare(0)
    measurer.warm_up()
    results = [decide(measurer, config, config, index) for index in range(count)]
    row = summary(results)
    row |= {"problem": problem, "config": config.label(), "seconds": round(time.monotonic() - began, 1)}
    worst, kept = row["largest_median"], row["outcomes"].get("keep", 0)
    print(f"A/A {problem}: {count} decisions, {kept} kept, largest |median gain| {worst:.3%}, {row['seconds']} s")
    return row


def planted_gains(measurer: CudaMeasurer, count: int) -> list[dict[str, Any]]:
    measurer.prepare(0)
    measurer.warm_up()
    rows = []
    for gain in GAINS:
        with_work, calibrated = calibrate(measurer, gain)
        results = [decide(measurer, with_work, SMALL_CONFIG, index) for index in range(count)]
        row = summary(results) | {"planted": gain, "calibrated": calibrated, "units": with_work.GROUP_M - 1}
        rows.append(row)
        rate = row["outcomes"].get("keep", 0) / count
        print(f"planted {gain:.0%}, calibrated {calibrated:.3%}: kept in {rate:.1%} of {count}, blocks {row['blocks']}")
    return rows


def calibrate(measurer: CudaMeasurer, gain: float) -> tuple[Config, float]:
    """The amount of work whose measured gain is nearest to the one wanted, and that gain over 400 blocks."""
    everything = KeepRule(looks=(400,))
    low, high = 1, 256
    while high - low > 1:
        middle = (low + high) // 2
        seen = decide(measurer, structs.replace(SMALL_CONFIG, GROUP_M=middle), SMALL_CONFIG, 0, KeepRule(looks=(100,)))
        low, high = (middle, high) if seen.gain.median < gain else (low, middle)
    tried = []
    for units in (low, high):
        config = structs.replace(SMALL_CONFIG, GROUP_M=units)
        measured = decide(measurer, config, SMALL_CONFIG, 0, everything).gain.median
        tried.append((abs(measured - gain), config, measured))
    _, config, measured = min(tried, key=lambda item: item[0])
    return config, measured


def decide(
    measurer: CudaMeasurer, baseline: AnyConfig, config: AnyConfig, index: int, rule: KeepRule | None = None
) -> PairResult:
    rng = random.Random(index)
    result = compare(measurer, baseline, config, rule or KeepRule(), comparisons=1, rng=rng, on_block=lambda _: None)
    if isinstance(result, Failure):
        sys.exit(f"{config.label()} failed: {result.reason}, {result.detail}")
    return result


def summary(results: list[PairResult]) -> dict[str, Any]:
    medians = [result.gain.median for result in results]
    return {
        "decisions": len(results),
        "outcomes": dict(Counter(result.outcome for result in results)),
        "largest_median": max(map(abs, medians)),
        "median_of_medians": statistics.median(medians),
        "blocks": dict(sorted(Counter(result.gain.blocks for result in results).items())),
        "medians": [round(median, 6) for median in medians],
        "config_us": round(statistics.median(result.config_us for result in results), 3),
    }


if __name__ == "__main__":
    main()
