"""A list of problems on one GPU and on two, and workers killed meanwhile: `python benchmarks/fleet.py`. Needs two GPUs.

Three stages, each kept in --output as it ends, so that the same command goes on after the last one that ended:

killed  the list on two GPUs; six times at a random moment one of the two workers is killed with `kill -9`, and once a
        second command asks for a GPU that has a worker. It also fills Triton's cache, for the next two alike, which
        refuse to begin without, and of which it is counted what they still compile.
one     the list as `fusetune sweep --shapes` does it, on the first GPU alone.
two     the list on both.

Asked is: two take at most 0.55 of one's time; all three come to the same verdicts; nothing is lost by a kill, and
nothing measured twice by the same worker; a second worker on a GPU is refused. Every candidate that fits is tried
(--prior off), so that a problem takes long enough beside the seconds that loading takes once. Writes
fleet-<gpu>.json to --output. Each stage takes minutes: where a call has a limit, give one with --stages, and the same
--output and --work to each. A stage that is cut off, or comes to nothing, begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any, Final

from fusetune.compiler.processes import usable_cores
from fusetune.core.text import slugify
from fusetune.fleet.gpus import GpuHere, chosen_gpus
from fusetune.fleet.lanes import MODULE
from fusetune.store.journal import Block, Candidate, Comparison, Record, RunEnd, RunStart, Sample, read_journal
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.race import ROUNDS

HERE: Final = Path(__file__).resolve().parent
HEADER: Final = "M,N,K,dtype"
PROBLEMS: Final = [
    (rows, columns, 1024, dtype)
    for dtype in ("float32", "float16")
    for rows in (128, 256, 512, 1024)
    for columns in (512, 1024)
]
STAGES: Final = ("killed", "one", "two")
KILLS: Final = 6
EARLIEST_S: Final = 8.0
ASKED: Final = 0.55
NEARLY_NONE: Final = 0.01
"""What a warm stage may still compile, as a share of what the first one left."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, help="for the cache, configs and journals  [default: OUTPUT/fleet-work]")
    parser.add_argument("--stages", default=",".join(STAGES), help="only these  [default: %(default)s]")
    parser.add_argument("--gpus", default="0,1")
    parser.add_argument("--problems", type=int, default=len(PROBLEMS), help="only the first so many of each dtype's")
    parser.add_argument(
        "--latest", type=float, default=90.0, help="seconds after the start by which the last kill comes"
    )
    parser.add_argument("--space", default="standard")
    arguments = parser.parse_args()
    gpus = chosen_gpus(arguments.gpus)
    if len(gpus) != 2:
        sys.exit(f"two GPUs are asked for, and --gpus {arguments.gpus} names {len(gpus)}")
    bench = Bench(arguments, gpus)
    for stage in arguments.stages.split(","):
        bench.run(stage)
    bench.judge()


class Bench:
    """The stages, and what is kept of them."""

    def __init__(self, arguments: argparse.Namespace, gpus: tuple[GpuHere, ...]) -> None:
        self._gpus, self._latest, self._space = gpus, arguments.latest, arguments.space
        self._output = arguments.output.absolute()
        self._work = (arguments.work or self._output / "fleet-work").absolute()
        self._work.mkdir(parents=True, exist_ok=True)
        self._list = self._work / "list.csv"
        chosen = PROBLEMS[:: max(1, len(PROBLEMS) // arguments.problems)]
        self._count = len(chosen)
        self._list.write_text("\n".join([HEADER, *(",".join(map(str, row)) for row in chosen)]) + "\n")

    def run(self, stage: str) -> None:
        """One stage, unless it is done."""
        kept = self._kept(stage)
        if kept.exists():
            print(f"{stage}: done before, {kept}")
            return
        filled = self._filled()
        if stage != "killed" and not (self._kept("killed").exists() and filled):
            sys.exit(f"{stage}: let the stage killed fill {self._cache} first, so that one and two find the same there")
        folder = self._work / stage
        shutil.rmtree(folder, ignore_errors=True)  # What a stage that was cut off left is not measured from the start.
        folder.mkdir(parents=True)
        began = time.monotonic()
        told: dict[str, Any] = {}
        process = self._start(folder, None if stage == "one" else ",".join(str(gpu.index) for gpu in self._gpus))
        if stage == "killed":
            told = self._disturb(process, began)
        code = process.wait()
        seconds, cached = round(time.monotonic() - began, 2), self._filled()
        cache = {"compiled": cached - filled, "cached": cached}
        told = {"seconds": seconds, "exit_code": code, **cache, **told, **judged(folder)}
        if not told["verdicts"]:
            sys.exit(f"{stage}: exit code {code} and no entry\n{(folder / 'log.txt').read_text()[-3000:]}")
        kept.write_text(json.dumps(told, indent=1) + "\n")
        print(f"{stage}: {told['seconds']} s, exit code {code}, {len(told['verdicts'])} of {self._count} entries")
        if code != 0:
            print((folder / "log.txt").read_text()[-3000:])

    def judge(self) -> None:
        """What the stages say together, where all are done."""
        kept = {stage: self._kept(stage) for stage in STAGES}
        if not all(path.exists() for path in kept.values()):
            print(f"to be done: {', '.join(stage for stage, path in kept.items() if not path.exists())}")
            return
        stages = {stage: json.loads(path.read_text()) for stage, path in kept.items()}
        ratio = stages["two"]["seconds"] / stages["one"]["seconds"]
        verdicts = [stages[stage]["verdicts"] for stage in STAGES]
        killed = stages["killed"]
        judged_as = {
            "ratio": round(ratio, 3),
            "ratio_holds": ratio <= ASKED,
            "same_verdicts": verdicts[0] == verdicts[1] == verdicts[2],
            "nothing_lost": all(len(stages[stage]["verdicts"]) == self._count for stage in STAGES),
            "both_warm": max(stages[stage]["compiled"] for stage in ("one", "two")) <= NEARLY_NONE * killed["cached"],
            "killed_as_often_as_asked": len(killed["kills_after_s"]) == KILLS,
            "nothing_measured_twice": not any(killed["repeated"].values()),
            "second_worker_refused": killed["refused"]["exit_code"] == 4,
        }
        result = {
            "date": f"{date.today():%Y-%m-%d}",
            "gpus": [gpu.name for gpu in self._gpus],
            "driver": self._gpus[0].driver,
            "environment": stages["one"]["environment"],
            "cores": usable_cores(),
            "problems": self._count,
            "space": self._space,
            **judged_as,
            "stages": stages,
        }
        path = self._output / f"fleet-{slugify(self._gpus[0].name)}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(judged_as))
        print(f"wrote {path}")

    @property
    def _cache(self) -> Path:
        """Triton's, the same for all stages."""
        return self._work / "cache"

    def _filled(self) -> int:
        """How many kernels and launchers are in the cache."""
        return sum(1 for _ in self._cache.iterdir()) if self._cache.is_dir() else 0

    def _kept(self, stage: str) -> Path:
        return self._output / f"fleet-stage-{stage}.json"

    def _start(self, folder: Path, gpus: str | None, log: str = "log.txt") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fusetune", "sweep", "--shapes", str(self._list), "--space", self._space]
        command += ["--prior", "off", "--output", f"{folder}/configs", "--runs", f"{folder}/runs"]
        paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TRITON_CACHE_DIR": str(self._cache),
            "CI": "1",
        }
        if gpus is None:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[0].uuid
        else:
            command += ["--gpus", gpus]
        with (folder / log).open("wb") as out:
            return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)

    def _disturb(self, process: subprocess.Popen[bytes], began: float) -> dict[str, Any]:
        """Kill a worker at six random moments, and once ask for a GPU that has one; what became of that."""
        rng = random.Random(26)
        moments = sorted(rng.uniform(EARLIEST_S, self._latest) for _ in range(KILLS))
        while not lanes_of(process.pid) and process.poll() is None:
            time.sleep(0.1)
        time.sleep(1.0)
        second = self._start(self._work / "killed", str(self._gpus[0].index), "second.txt")
        code = second.wait()
        lines = (self._work / "killed" / "second.txt").read_text().strip().splitlines()
        kills = []
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            if process.poll() is not None:
                break
            lanes = lanes_of(process.pid)
            if lanes:
                pid = rng.choice(lanes)
                os.kill(pid, signal.SIGKILL)
                kills.append(round(time.monotonic() - began, 2))
        return {"kills_after_s": kills, "refused": {"exit_code": code, "told": lines[-1] if lines else ""}}


def lanes_of(parent: int) -> list[int]:
    """The processes of a command that tune on a GPU each."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # It ended meanwhile.
        if above == parent and MODULE.encode() in words:
            found.append(int(entry.name))
    return sorted(found)


def judged(folder: Path) -> dict[str, Any]:
    """The verdicts of a stage by problem, and what its journals hold more than once."""
    verdicts, configs, gains = {}, {}, {}
    environment: dict[str, Any] = {}
    for path in sorted(folder.glob("configs/*/*.yaml")):
        for entry in read_config_file(path).entries:
            name = entry.problem.describe()
            verdicts[name], configs[name] = entry.verdict, entry.config.label()
            gains[name] = entry.gain.median if entry.gain else None
            environment = {"triton": entry.environment.triton, "torch": entry.environment.torch}
    journals = [list(read_journal(path)) for path in sorted(folder.glob("runs/*.jsonl"))]
    repeated: Counter[str] = Counter(checks=0, samples=0, blocks=0)
    cards: Counter[str] = Counter()
    begun: Counter[tuple[str, str | None]] = Counter()
    for records in journals:
        repeated.update(taken_twice(records))
        start = records[0] if records else None  # One that was killed before its first line.
        if isinstance(start, RunStart):
            begun[start.problem.describe(), start.card] += 1
            if isinstance(records[-1], RunEnd):
                cards[start.card or "?"] += 1
    # A worker goes on in the journal of its problem: another one would be the same measured again.
    repeated["journals"] = sum(count - 1 for count in begun.values())
    return {
        "environment": environment,
        "verdicts": verdicts,
        "configs": configs,
        "gains": gains,
        "journals": len(journals),
        "unfinished": sum(not (records and isinstance(records[-1], RunEnd)) for records in journals),
        "problems_by_card": dict(cards),
        "repeated": dict(repeated),
    }


def taken_twice(records: list[Record]) -> Counter[str]:
    """Checks, samples and blocks of one journal beyond those that a run takes."""
    checks = Counter(one.id for one in records if isinstance(one, Candidate) and one.status == "checked")
    reference = next((one.baseline_id for one in records if isinstance(one, Block)), None)
    samples = Counter((one.round, one.id) for one in records if isinstance(one, Sample) and one.id != reference)
    allowed = {number: stage.samples for number, stage in enumerate(ROUNDS, start=1)}
    taken = Counter(
        (one.phase, one.baseline_id, one.id) for one in records if isinstance(one, Block) and not one.discarded
    )
    used = {(one.phase, one.baseline_id, one.id): one.gain.blocks for one in records if isinstance(one, Comparison)}
    return Counter(
        checks=sum(count - 1 for count in checks.values()),
        samples=sum(max(0, count - allowed[number]) for (number, _), count in samples.items()),
        blocks=sum(max(0, taken[pair] - blocks) for pair, blocks in used.items()),
    )


if __name__ == "__main__":
    main()
