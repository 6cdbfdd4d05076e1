"""How often the live gate is right where the truth is known: `python benchmarks/gate.py`. Needs a GPU.

Unchanged: a config against itself in the place of another revision's; no gate may call that a regression. Planted: the
same kernel with extra work, calibrated to be 3 % and 1 % slower; the first has to be a regression, the second is to be
reported and must not fail. Every gate is the one that `fusetune gate --against` runs: control, blocks, and a second
measurement before a regression is called. One process measures all of them, so that fifty gates fit into a minute: the
second measurement is fresh in its blocks and not in its process. A gate that a kill cut off is the next one to be done:
the same command goes on where it stopped. Writes OUTPUT/gate-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import planted
from decision import SMALL, SMALL_CONFIG, calibrate
from msgspec import to_builtins

from fusetune.core.decision import KeepRule
from fusetune.core.text import slugify
from fusetune.gate.judge import Judgement, Limits, judge_against
from fusetune.gate.recording import GateJournal
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import BlockTimes, Checked, Failure, Measurer, SamplingFacts
from fusetune.ops.gemm_scale.config import BASELINE, Config

RESULTS = Path(__file__).resolve().parent / "results"
SLOWDOWNS = (0.0, 0.03, 0.01)
ALLOWED = {0.0: "no regression", 0.03: "at least 48 of 50 regressions", 0.01: "no regression, told as slower"}


class OneProcess:
    """A measurer whose process serves every gate: it is prepared and warmed up once."""

    def __init__(self, measurer: Measurer) -> None:
        self._measurer = measurer
        self._sampling: SamplingFacts | None = None
        self._checked: dict[Config, Checked | Failure] = {}

    def prepare(self, seed: int) -> SamplingFacts:
        """The first time only."""
        if self._sampling is None:
            self._sampling = self._measurer.prepare(seed)
            self._measurer.warm_up()
        return self._sampling

    def check(self, config: Config) -> Checked | Failure:
        """Once for each config."""
        if config not in self._checked:
            self._checked[config] = self._measurer.check(config)
        return self._checked[config]

    def warm_up(self) -> None:
        """It is warm from the gate before."""

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        """As it is."""
        return self._measurer.block(baseline, config, config_first=config_first)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._measurer, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=50, help="gates for each slowdown")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with closing(CudaMeasurer(planted.SPEC, SMALL)) as measurer:
        facts = measurer.facts()
        path = arguments.output / f"gate-{slugify(facts.identity.name)}.json"
        environment = to_builtins(facts.environment)
        result = resumed(path, facts.identity.name, environment)
        one = OneProcess(measurer)
        one.prepare(0)
        for slowdown in SLOWDOWNS:
            run_gates(one, result, slowdown, arguments.gates, path)
    print(table(result))
    print(f"wrote {path}")


def resumed(path: Path, gpu: str, environment: dict[str, Any]) -> dict[str, Any]:
    """What an earlier command with the same GPU and software has done, or nothing."""
    fresh = {"date": f"{date.today():%Y-%m-%d}", "gpu": gpu, "environment": environment, "cases": {}}
    if not path.exists():
        return fresh
    held = json.loads(path.read_text())
    return held if (held.get("gpu"), held.get("environment")) == (gpu, environment) else fresh


def run_gates(measurer: Measurer, result: dict[str, Any], slowdown: float, count: int, path: Path) -> None:
    """`count` gates of one slowdown, each written as it is done."""
    case = result["cases"].setdefault(f"{slowdown:g}", {"problem": SMALL.describe(), "gates": []})
    if len(case["gates"]) >= count:
        return
    slow = SMALL_CONFIG
    if slowdown:
        slow, gain = calibrate(measurer, 1 - 1 / (1 + slowdown))  # type: ignore[arg-type]
        case["calibrated_slowdown"] = 1 / (1 - gain) - 1
    while len(case["gates"]) < count:
        index = len(case["gates"])
        began = time.monotonic()
        judged = judge_against(
            measurer,
            slow,
            SMALL_CONFIG,
            "the other",
            KeepRule(),
            Limits(BASELINE, seed=1000 * index),
            GateJournal(None),
        )
        case["gates"].append(summary(judged, time.monotonic() - began))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def summary(judged: Judgement, seconds: float) -> dict[str, Any]:
    gain = judged.result.gain if judged.result else None
    return {
        "status": judged.status,
        "gain_of_other": round(gain.median, 6) if gain else None,
        "blocks": gain.blocks if gain else None,
        "seconds": round(seconds, 3),
        **({} if gain else {"detail": judged.detail}),
    }


def table(result: dict[str, Any]) -> str:
    """What docs/benchmarks.md quotes."""
    lines = [f"{result['gpu']}, {result['date']}: live gates against another revision, one process"]
    lines.append(f"{'slower by':>10} {'measured':>9} {'gates':>6}  outcomes; what is allowed")
    for slowdown in SLOWDOWNS:
        case = result["cases"].get(f"{slowdown:g}")
        if case is None:
            continue
        outcomes = ", ".join(f"{n} {status}" for status, n in Counter(g["status"] for g in case["gates"]).items())
        measured = f"{case['calibrated_slowdown']:.2%}" if "calibrated_slowdown" in case else "-"
        lines.append(f"{slowdown:>10.0%} {measured:>9} {len(case['gates']):>6}  {outcomes}; {ALLOWED[slowdown]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
