"""The offline analysis of an RTX 4090 against figures that others measured on one: `python benchmarks/ada.py`.

Needs no GPU. For the launches of benchmarks/data (its README says whose they are) it asks three things. Is theoretical
occupancy never below the warps that the profiler saw active, and within 10 % of them wherever a wave is filled? How
far from the times of quality A is the cost model, given each row's compiled registers, stack and shared memory? And
how often is it right about which of two launches of one problem and one source is faster, of pairs that differ by more
than 5 %? The constants of sm_89 in ops/gemm_scale/machine.py were chosen with these very figures in view: this is a
fit, not a test, and the same command judges other figures of the same form (--published, --ranking). Writes ada.json
into --output.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from fusetune.core.resources import Resources, occupancy
from fusetune.core.target import Target, find_target
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.estimate import Estimate, estimate_work
from fusetune.ops.gemm_scale.machine import Machine
from fusetune.ops.gemm_scale.traffic import Work

HERE = Path(__file__).resolve().parent
RTX_4090 = find_target("rtx4090")
PROFILER_MHZ = 2235.0
"""Where Nsight Compute holds the clock of these cards, unless told not to."""
KINDS = {"tf32": "tf32", "fp16": "float16", "bf16": "bfloat16", "fp32_ffma": "ieee"}
SMS_OF_D = 114
"""A GeForce RTX 4090 D is a 4090 with 114 SMs."""
APART = 0.05
ROUNDING = 0.006
"""Percent that the profiler's two or three decimals leave open."""


class Row(msgspec.Struct, frozen=True):
    """One launch as it was published, with its time in milliseconds where there is one."""

    name: str
    problem: str
    source: str
    config: Config
    work: Work
    resources: Resources
    time_ms: float | None
    quality: str
    grid: int
    warps_active: float | None = None
    dram_percent: float | None = None

    @property
    def question(self) -> tuple[Any, ...]:
        """Rows that answer the same: one problem of one source on one GPU."""
        work = self.work
        return self.source, self.problem, work.M, work.N, work.K, work.batch, self.target.sms

    @property
    def fitted(self) -> bool:
        """Whether benchmarks/fit.py may see it: the profiler's times of problems with an even number."""
        return self.source == "ncu_tc_2235MHz" and int(self.problem.split("_")[0]) % 2 == 0

    @property
    def target(self) -> Target:
        """The GPU it ran on."""
        if not self.quality.endswith("4090 D"):
            return RTX_4090
        share = SMS_OF_D / RTX_4090.sms
        rates = {name: getattr(RTX_4090, name) * share for name in ("tf32_tflops", "fp16_tflops", "fp32_tflops")}
        return msgspec.structs.replace(RTX_4090, sms=SMS_OF_D, **rates)

    def estimate(self, machine: Machine | None = None) -> Estimate:
        """The cost model's view of it, at the profiler's clock where a profiler took the time."""
        clock = PROFILER_MHZ if "ncu" in self.source else None
        return estimate_work(self.config, self.work, self.target, self.resources, clock_mhz=clock, machine=machine)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, default=HERE / "data" / "rtx4090_published.csv")
    parser.add_argument("--ranking", type=Path, default=HERE / "data" / "rtx4090_published_ranking.csv")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--verbose", action="store_true", help="print every row")
    arguments = parser.parse_args()
    published = read_published(arguments.published)
    ranking = read_ranking(arguments.ranking, published)
    result = judged(published, ranking)
    if arguments.verbose:
        print_rows(published, ranking)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "ada.json").write_text(json.dumps(result, indent=1) + "\n")
    occupied, timed, pairs = result["occupancy"], result["quality_a"], result["pairs"]
    print(
        f"occupancy: {occupied['launches']} launches, {occupied['above_theory']} with more warps active than theory, "
        f"{occupied['filled_apart']} of {occupied['filled']} filled waves apart by over 10 %"
    )
    print(f"active warps by the tail model: median error {occupied['tail_median_error']:.1%}")
    print(f"quality A: {timed['rows']} times, median error {timed['median_error']:.1%}, worst {timed['worst']:.1%}")
    for name, found in pairs.items():
        print(f"pairs, {name}: {found['right']} of {found['pairs']} right ({found['share']:.0%})")
    return 0


def judged(published: Sequence[Row], ranking: Sequence[Row]) -> dict[str, Any]:
    """What `main` writes."""
    errors = {row.name: error_of(row) for row in published if row.quality.startswith("A")}
    distances = [abs(error) for error in errors.values()]
    halves: Mapping[str, Callable[[Row], bool]] = {
        "all": lambda row: True,
        "not seen in fitting": lambda row: not row.fitted,
        "seen in fitting": lambda row: row.fitted,
    }
    return {
        "gpu": RTX_4090.name,
        "date": f"{date.today():%Y-%m-%d}",
        "occupancy": judge_occupancy(published),
        "quality_a": {
            "rows": len(errors),
            "median_error": statistics.median(distances),
            "worst": max(distances),
            "errors": {name: round(error, 4) for name, error in errors.items()},
        },
        "pairs": {name: judge_pairs(filter(chosen, ranking)) for name, chosen in halves.items()},
    }


def error_of(row: Row, machine: Machine | None = None) -> float:
    """How far the predicted time is above the measured one, as a share of it."""
    assert row.time_ms is not None
    return row.estimate(machine).time_us / (row.time_ms * 1e3) - 1


def judge_occupancy(rows: Iterable[Row]) -> dict[str, Any]:
    seen = [row for row in rows if row.warps_active is not None]
    above, filled, apart, tail_errors = [], [], [], []
    for row in seen:
        assert row.warps_active is not None
        held = occupancy(row.resources.registers, row.resources.shared_bytes, row.config.num_warps, row.target)
        theory = held.fraction * 100
        if row.warps_active > theory + ROUNDING:
            above.append(row.name)
        if row.grid >= held.ctas_per_sm * row.target.sms:
            filled.append(row.name)
            if row.warps_active < 0.9 * theory:
                apart.append(row.name)
        tail_errors.append(abs(row.estimate().warps_active * 100 / row.warps_active - 1))
    return {
        "launches": len(seen),
        "above_theory": len(above),
        "filled": len(filled),
        "filled_apart": len(apart),
        "tail_median_error": statistics.median(tail_errors),
        "tail_worst_error": max(tail_errors),
        "rows": {"above_theory": above, "filled_apart": apart},
    }


def judge_pairs(rows: Iterable[Row], machine: Machine | None = None) -> dict[str, Any]:
    """Of the pairs that answer one question and differ by more than APART, how many the model orders as measured."""
    asked: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        asked.setdefault(row.question, []).append(row)
    right = pairs = 0
    wrong = []
    for answers in asked.values():
        for one, other in itertools.combinations(answers, 2):
            assert one.time_ms is not None
            assert other.time_ms is not None
            if max(one.time_ms, other.time_ms) / min(one.time_ms, other.time_ms) - 1 <= APART:
                continue
            pairs += 1
            faster, slower = sorted((one, other), key=lambda row: row.time_ms or 0.0)
            if faster.estimate(machine).time_us < slower.estimate(machine).time_us:
                right += 1
            else:
                wrong.append(f"{faster.problem}: {faster.config.label()} before {slower.config.label()}")
    return {"pairs": pairs, "right": right, "share": right / pairs if pairs else 1.0, "wrong": wrong}


def read_published(path: Path) -> list[Row]:
    return [row for raw in _rows(path) if (row := _published(raw)) is not None]


def read_ranking(path: Path, published: Sequence[Row]) -> list[Row]:
    known = {(row.problem, row.config, row.resources.registers): row for row in published}
    rows = [(_ranked(raw, known, number)) for number, raw in enumerate(_rows(path))]
    return [row for row in rows if row is not None]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        sys.exit(f"cannot read {path}: {error.strerror}")


def _published(raw: Mapping[str, str]) -> Row | None:
    resources = Resources(int(raw["regs"]), int(raw["stack"]), int(raw["smem"]))
    size = 2 if "float16" in raw["ptr_dtypes"].split(",")[0] else 4
    work = _work(raw, size)
    if work is None:
        return None
    return Row(
        name=raw["id"],
        problem=raw["problem"],
        source="events",
        config=_config(raw),
        work=work,
        resources=resources,
        time_ms=_number(raw["kernel_ms_est"]),
        quality=raw["kernel_ms_quality"],
        grid=int(raw["grid_size"]),
        warps_active=_number(raw["ncu_warps_active"]),
        dram_percent=_number(raw["ncu_dram_throughput"]),
    )


def _ranked(raw: Mapping[str, str], known: Mapping[tuple[Any, ...], Row], number: int) -> Row | None:
    config = _config(raw)
    twin = known.get((raw["problem"], config, int(raw["regs"])))
    work = _work(raw, twin.work.load_bytes if twin else 4 if raw["precision"] in {"tf32", "fp32_ffma"} else 2)
    if work is None:
        return None
    tile_bytes = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * work.load_bytes
    shared = twin.resources.shared_bytes if twin else max(1, config.num_stages - 1) * tile_bytes
    return Row(
        name=f"ranking {number}",
        problem=raw["problem"],
        source=raw["source"],
        config=config,
        work=work,
        resources=Resources(int(raw["regs"]), int(raw["stack"]), shared),
        time_ms=_number(raw["time_ms"]),
        quality=raw["quality"],
        grid=0,
        dram_percent=_number(raw["dram"]),
    )


def _work(raw: Mapping[str, str], load_bytes: int) -> Work | None:
    """None for what is no matrix product of known size."""
    sizes = [_number(raw[name]) for name in ("M", "N", "K")]
    if None in sizes:
        return None
    M, N, K = (int(size or 0) for size in sizes)
    store_bytes = 4 if load_bytes == 4 else 2
    row = K * load_bytes
    return Work(
        M=M,
        N=N,
        K=K,
        kind=KINDS[raw["precision"]],
        load_bytes=load_bytes,
        store_bytes=store_bytes,
        batch=int(raw["batch"] or 1),
        row_by_row=False,
        copied_bytes=next((size for size in (16, 8) if row % size == 0), 4),
    )


def _config(raw: Mapping[str, str]) -> Config:
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    return Config(**{name: int(float(raw[name])) for name in names}, GROUP_M=int(_number(raw["GROUP_M"]) or 1))


def _number(text: str) -> float | None:
    return float(text) if text else None


def print_rows(published: Sequence[Row], ranking: Sequence[Row]) -> None:
    for row in [row for row in published if row.time_ms] + list(ranking):
        found = row.estimate()
        assert row.time_ms is not None
        dram = found.dram_bytes / (row.time_ms * 1e6) / 10.08
        print(
            f"{row.problem[:24]:<24} {row.source[:8]} {row.quality[:8]:<8} {row.config.label():<22} "
            f"r{row.resources.registers} st{row.resources.stack_bytes} c{found.ctas_per_sm} {row.time_ms:8.4f} "
            f"{found.time_us / 1e3:8.4f} {error_of(row):+6.1%} {found.bound:<7} "
            f"dram {row.dram_percent or 0:5.1f} as modelled {dram:5.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
