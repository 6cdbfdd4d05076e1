"""What `benchmarks/sizes.py` found so far, step by step in results.jsonl, and what that says of the targets."""

from __future__ import annotations

import functools
import json
import statistics
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from family_sweeps import kernel_hash
from peers import COMPILED, best_peer
from sizes_drawn import GROUPS, Sized

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.sources import LATER, hashes_so_far
from fusetune.ops.loading import load_spec

Step = Literal["sweep", "predict", "prior_off", "time"]
STEPS: Final[tuple[Step, ...]] = ("sweep", "predict", "prior_off", "time")
Found = Mapping[str, Any]
AUTOTUNED: Final = COMPILED[1]
PEERS: Final = ("eager", AUTOTUNED, "library")
"""What ours has to be ahead of; `library` is cuBLAS with our finishing kernel."""
AHEAD, AHEAD_IN, BEHIND_AT_MOST, MEAN_AT_MOST, NAMED_AT_MOST = 1.00, 27, 1.03, 0.85, 1.01
MEDIAN_REGRET, WORST_REGRET = 0.03, 0.15
MEDIAN_S, WORST_S, CORES = 14.0, 25.0, 16
PRIOR_MAY_LOSE: Final = 0.01


class Records:
    """results.jsonl: a line for each step of each cell, of which the last one counts. Safe between threads."""

    def __init__(self, path: Path, gpu: str) -> None:
        self.path, self.gpu = path, gpu
        self._lock = threading.Lock()
        self._latest: dict[tuple[str, str], Found] = {}
        self._lines: set[str] = set()
        if path.exists():
            self._take(path.read_text())

    def add(self, record: Found) -> None:
        """Append a record, on the disk when this returns."""
        line = json.dumps({**record, "gpu": self.gpu})
        with self._lock:
            self._append([line])
            self._take(line)

    def merge(self, path: Path) -> int:
        """Take over what another machine's file holds of this GPU's model, and tell how many lines that were."""
        with self._lock:
            new = [line for line in path.read_text().splitlines() if line not in self._lines and self._is_ours(line)]
            self._append(new)
            self._take("\n".join(new))
            return len(new)

    def of(self, sized: Sized, step: Step, *, failed: bool = False) -> Found | None:
        """The last record of a step that went well (or, with `failed`, of any) with the kernels as they are."""
        record = self._latest.get((sized.cell.key, step))
        if record is None or record["kernel_hash"] not in hashes_of(sized):
            return None
        return record if failed or not record.get("error") else None

    def seconds(self, step: Step) -> list[float]:
        """What each such step took, of all cells."""
        return [one["seconds"] for (_, name), one in self._latest.items() if name == step and not one.get("error")]

    def pieces(self) -> list[Found]:
        """What each run was made with, of whose steps some still count."""
        dates = {one["piece"] for (_, step), one in self._latest.items() if step != "piece"}
        return [one for (key, step), one in self._latest.items() if step == "piece" and key in dates]

    def text(self) -> str:
        """The lines that count, one for each step of each cell, in the order that they came."""
        with self._lock:
            return "".join(f"{json.dumps(record)}\n" for record in self._latest.values())

    def _append(self, lines: Sequence[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # What a killed run left half written must not spoil the next line.
        torn = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        with self.path.open("a") as file:
            file.write("\n" * torn + "".join(f"{line}\n" for line in lines))

    def _take(self, text: str) -> None:
        for line in text.splitlines():
            self._lines.add(line)
            if self._is_ours(line):
                record = json.loads(line)
                self._latest[record["key"], record["step"]] = record

    def _is_ours(self, line: str) -> bool:
        try:
            return bool(json.loads(line)["gpu"] == self.gpu)
        except (ValueError, KeyError, TypeError):
            return False


@functools.cache
def hashes_of(sized: Sized) -> frozenset[str]:
    """Of all kernels of a cell's op, now and before variants came that are no candidates of this problem."""
    op, problem = sized.cell.spec_name, sized.cell.problem
    tried = {config.variant for config in load_spec(op).candidates(problem, find_target("h200"), "standard")}
    later, so_far = tuple(LATER[op]), hashes_so_far(op)
    holding = {kernel_hash(op)}
    for count in range(len(later), 0, -1):
        if later[count - 1] in tried or len(so_far) <= count:
            break
        holding.add(so_far[count - 1])
    return frozenset(holding)


def wanted_arms(sized: Sized, records: Records) -> dict[str, dict[str, Any]] | None:
    """The config of each arm that is ours, by what is known now; None before a sweep has kept one."""
    sweep = records.of(sized, "sweep")
    if sweep is None:
        return None
    arms = {"fusetune": sweep["config"]}
    predict, full = records.of(sized, "predict"), records.of(sized, "prior_off")
    if predict is not None:
        arms["predicted"] = predict["configs"][0]
    if full is not None:
        arms["prior_off"] = full["config"]
    return arms


def is_due(sized: Sized, step: Step, records: Records, compile_limit_s: float) -> bool:
    """Whether a step has something to find out; `time` also where another config is known by now."""
    if step == "prior_off" and not sized.without_prior:
        return False
    done = records.of(sized, step)
    if step != "time":
        return done is None
    arms = wanted_arms(sized, records)
    if arms is None:
        return False
    if done is None or done["configs"] != arms:
        return True
    return AUTOTUNED in done["failed"] and done["compile_limit_s"] < compile_limit_s


def row_of(sized: Sized, records: Records) -> dict[str, Any] | None:
    """A cell's row in the result; None while its sweep or its times are to be found."""
    sweep, timed = records.of(sized, "sweep"), records.of(sized, "time")
    if sweep is None or timed is None or timed["configs"].get("fusetune") != sweep["config"]:
        return None
    cell, problem = sized.cell, sized.cell.problem
    best = best_peer(timed, PEERS)
    told = ("us", "ours_over", "errors", "failed", "sets", "launches", "rounds", "clocks", "compile_s")
    return {
        "key": cell.key,
        "group": sized.group,
        "form": sized.form,
        "M": cell.M,
        "K": cell.K,
        "N": cell.N,
        "dtype": problem.dtype,
        "precision": problem.precision,
        "op": cell.op,
        "kernel_hash": timed["kernel_hash"],
        "date": timed["piece"],
        "config": sweep["label"],
        "best_peer": best,
        "over_best_peer": timed["ours_over"][best]["median"] if best else None,
        "sweep": _told(sweep, "seconds", "cores", "verdict", "candidates", "compiled", "skipped", "phases_s"),
        "predicted": _predicted(records.of(sized, "predict"), timed),
        "prior_off": _without_prior(records.of(sized, "prior_off"), timed),
        **_told(timed, *told),
    }


def _told(record: Found, *names: str) -> dict[str, Any]:
    return {name: record.get(name) for name in names}


def _predicted(predict: Found | None, timed: Found) -> dict[str, Any] | None:
    """The three configs, and by what share the first takes longer than the one that the sweep kept, in the same run."""
    if predict is None:
        return None
    slower = _slower(timed, "predicted", predict["configs"][0])
    return {"labels": predict["labels"], "seconds": predict["seconds"], "regret": slower}


def _without_prior(full: Found | None, timed: Found) -> dict[str, Any] | None:
    """The config that a sweep without the prior keeps, and by what share the one of the usual sweep takes longer."""
    if full is None:
        return None
    slower = _slower(timed, "prior_off", full["config"])
    loss = None if slower is None else round(1 / (1 + slower) - 1, 5)
    return {"config": full["label"], **_told(full, "seconds", "compiled"), "loss": loss}


def _slower(timed: Found, arm: str, config: Found) -> float | None:
    """By what share an arm takes longer than ours; None where it was not timed with this config, or is not right."""
    if timed["configs"].get(arm) != config:
        return None
    if config == timed["configs"]["fusetune"]:
        return 0.0
    over = timed["ours_over"].get(arm)
    return round(1 / over["median"] - 1, 5) if over and over["median"] else None


# What the rows say of the targets.


def result_of(sizes: Sequence[Sized], records: Records) -> dict[str, Any]:
    """All that goes into the committed file."""
    rows = [row for sized in sizes if (row := row_of(sized, records)) is not None]
    missing = [sized.cell.key for sized in sizes if row_of(sized, records) is None]
    errors = {}
    for sized in sizes:
        for step in STEPS:
            record = records.of(sized, step, failed=True)
            if record is not None and record.get("error"):
                errors[f"{sized.cell.key}: {step}"] = record["error"]
    return {
        "gpu": records.gpu,
        "pieces": sorted(records.pieces(), key=lambda piece: str(piece["key"])),
        "summary": summarize(rows, sizes),
        "missing": missing,
        "errors": errors,
        "cells": rows,
    }


def summarize(rows: Sequence[Found], sizes: Sequence[Sized]) -> dict[str, Any]:
    """The figures of each group, and the targets: held, missed, or open while cells are missing."""
    by_group = {group: [row for row in rows if row["group"] == group] for group in GROUPS}
    asked = {group: sum(sized.group == group for sized in sizes) for group in GROUPS}
    groups = {group: _figures(of_group) for group, of_group in by_group.items() if of_group}
    drawn, named = by_group["drawn"], by_group["named"]
    judged = [*drawn, *by_group["normalized"]]
    full = [row["prior_off"]["loss"] for row in drawn if row["prior_off"] is not None]
    regrets = [row["predicted"]["regret"] if row["predicted"] else None for row in drawn]
    seconds = [row["sweep"]["seconds"] for row in drawn]
    over = [row["over_best_peer"] for row in drawn]
    everywhere = [row["over_best_peer"] for row in judged]
    compared = asked["drawn"] + asked["normalized"]
    targets = {
        f"at most {AHEAD:.2f} of the fastest peer in {AHEAD_IN} of {asked['drawn']}": _verdict(
            over, asked["drawn"], lambda ratio: ratio <= AHEAD, may_miss=max(0, asked["drawn"] - AHEAD_IN)
        ),
        f"at most {BEHIND_AT_MOST} in all": _verdict(everywhere, compared, lambda ratio: ratio <= BEHIND_AT_MOST),
        f"geometric mean at most {MEAN_AT_MOST}": _of_all(
            over, asked["drawn"], lambda known: statistics.geometric_mean(known) <= MEAN_AT_MOST
        ),
        f"named sizes at most {NAMED_AT_MOST}": _verdict(
            [row["over_best_peer"] for row in named], asked["named"], lambda ratio: ratio <= NAMED_AT_MOST
        ),
        f"median regret of the first predicted at most {MEDIAN_REGRET}": _of_all(
            regrets, asked["drawn"], lambda known: statistics.median(known) <= MEDIAN_REGRET
        ),
        f"worst regret at most {WORST_REGRET}": _verdict(
            regrets, asked["drawn"], lambda regret: regret <= WORST_REGRET
        ),
        f"median seconds of a sweep at most {MEDIAN_S}": _of_all(
            seconds, asked["drawn"], lambda known: statistics.median(known) <= MEDIAN_S
        ),
        f"worst seconds of a sweep at most {WORST_S}": _verdict(
            seconds, asked["drawn"], lambda taken: taken <= WORST_S
        ),
        f"at most {PRIOR_MAY_LOSE} slower than without the prior": _verdict(
            full, sum(sized.without_prior for sized in sizes), lambda loss: loss <= PRIOR_MAY_LOSE
        ),
    }
    return {
        "targets": targets,
        "groups": groups,
        "other_cores": sorted({row["sweep"]["cores"] for row in rows} - {CORES}),
        "without_max_autotune": {row["key"]: row["failed"][AUTOTUNED] for row in rows if AUTOTUNED in row["failed"]},
        "failed": {row["key"]: row["failed"] for row in rows if row["failed"].keys() - {AUTOTUNED}},
        "not_kept": [row["key"] for row in rows if row["sweep"]["verdict"] != "keep"],
    }


def _verdict(found: Sequence[Any], asked: int, holds: Callable[[Any], bool], may_miss: int = 0) -> str:
    """What is not known of a cell that is there (None) misses."""
    missed = sum(one is None or not holds(one) for one in found)
    if missed > may_miss:
        return "missed"
    return "held" if asked and len(found) >= asked else "open"


def _of_all(found: Sequence[Any], asked: int, holds: Callable[[list[Any]], bool]) -> str:
    """A figure of all cells together, which is known when all are."""
    if not asked or len(found) < asked:
        return "open"
    return "held" if None not in found and holds(list(found)) else "missed"


def _figures(rows: Sequence[Found]) -> dict[str, Any]:
    over = {row["key"]: row["over_best_peer"] for row in rows if row["over_best_peer"] is not None}
    regrets = {row["key"]: row["predicted"]["regret"] for row in rows if row["predicted"]}
    known = {key: regret for key, regret in regrets.items() if regret is not None}
    losses = [row["prior_off"]["loss"] for row in rows if row["prior_off"]]
    seconds = [row["sweep"]["seconds"] for row in rows]
    behind = sorted((key for key in over if over[key] > AHEAD), key=lambda key: -over[key])
    return {
        "cells": len(rows),
        "at_most_1.00": len(over) - len(behind),
        "over_best_peer": round(statistics.geometric_mean(over.values()), 4) if over else None,
        "worst": max(over.values(), default=None),
        "behind": {key: over[key] for key in behind},
        "over": {peer: _mean_over(rows, peer) for peer in PEERS},
        "regret_median": _rounded(statistics.median(known.values())) if known else None,
        "regret_worst": max(known.values(), default=None),
        "regret_unknown": [key for key, regret in regrets.items() if regret is None],
        "sweep_s_median": _rounded(statistics.median(seconds)),
        "sweep_s_worst": max(seconds),
        "loss_by_prior_worst": max((loss for loss in losses if loss is not None), default=None),
    }


def _mean_over(rows: Iterable[Found], peer: str) -> float | None:
    known = [row["ours_over"][peer]["median"] for row in rows if peer in row["ours_over"]]
    return round(statistics.geometric_mean(known), 4) if known else None


def _rounded(value: float) -> float:
    return round(value, 4)


def summary_text(result: Found) -> str:
    """The figures and the targets, for a terminal."""
    summary = result["summary"]
    lines = []
    for group, figures in summary["groups"].items():
        lines.append(
            f"{group}: {figures['cells']} cells, {figures['at_most_1.00']} at most {AHEAD:.2f} of the fastest peer, "
            f"mean {figures['over_best_peer']}, worst {figures['worst']}; regret {figures['regret_median']} at the "
            f"median, {figures['regret_worst']} at worst; sweeps {figures['sweep_s_median']} s, "
            f"{figures['sweep_s_worst']} s at worst"
        )
        lines += [f"  behind: {key} {ratio:.3f}" for key, ratio in figures["behind"].items()]
    lines += [f"  no max-autotune: {key} ({why})" for key, why in summary["without_max_autotune"].items()]
    lines += [f"  failed: {key} {arms}" for key, arms in summary["failed"].items()]
    lines += [f"  error: {where}: {why}" for where, why in result["errors"].items()]
    if summary["other_cores"]:
        lines.append(f"  swept on {summary['other_cores']} cores, not {CORES}")
    lines += [f"{verdict:<7} {target}" for target, verdict in summary["targets"].items()]
    return "\n".join(lines)
