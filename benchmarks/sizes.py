"""Ours at sizes that nobody chose: swept cold, predicted, and timed beside its peers: `python benchmarks/sizes.py`.

Thirty sizes that a committed seed draws, ten of them in training and evaluation too, and four that were lost once
(`--list`). Of each:

sweep      `fusetune sweep` in a process of its own, with an empty Triton cache and nothing known; its wall time
predict    the same with --target: the three configs that the cost model ranks first, without timing
prior_off  of six sizes, the sweep with --prior off, which leaves nothing out
time       what the sweep kept, the first predicted config, and what prior_off kept, in turns and in one run with eager,
           torch.compile's max-autotune and cuBLAS with our finishing kernel, each held against float64

Every step is a line in results.jsonl of --work as it ends, and is not made again with the same kernels: the same
command goes on where it stopped, and --limit stops it before a call's own limit would. The lines that count lie in
--output too, from where another machine with such a GPU goes on. `--only fitting --steps sweep` sweeps other sizes,
which are drawn alike and not judged; their journals go into fitting/ of --output, where benchmarks/fit.py reads them.
With --gpus each of several GPUs takes the next cell, with a share of the cores. --merge takes results.jsonl of other
machines in. max-autotune that does not come to an end within --compile-limit is left out of its cell, and told.
Writes sizes-<gpu>.json into --output after every cell, with the figures and the targets that they hold, miss or leave
open.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from family_sweeps import ROOT, Cell, first_line, kernel_hash, listed, sweep_command
from msgspec import to_builtins
from peers import mark_path, ours_over, set_caches, write_atomically, write_result
from sizes_drawn import Sized, all_sizes, fitted
from sizes_found import AUTOTUNED, CORES, STEPS, Records, Step, is_due, result_of, summary_text, wanted_arms

from fusetune.compiler.processes import usable_cores
from fusetune.core.text import slugify
from fusetune.errors import FusetuneError
from fusetune.fleet.gpus import GpuHere, chosen_gpus
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.store.journal import Candidate, PhaseTime, RunEnd, read_journal

EXPECTED_S: Final[Mapping[Step, float]] = {"sweep": 40.0, "predict": 25.0, "prior_off": 120.0, "time": 60.0}
"""How long a step takes, until some of its kind have been made."""
MOST_S: Final = 900.0
"""Of a step: what takes longer hangs."""
DRY_SIZES: Final = [
    Sized(Cell(40, 72, 40, "float16", "gemm_scale"), "named", None),
    Sized(Cell(64, 64, 48, "float32", "gemm_scale"), "drawn", "multiples of 8", True),
    Sized(Cell(64, 64, 48, "float32", "eval"), "normalized", "multiples of 8"),
]


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gpus", default="0", metavar="all|0,1", help="by nvidia-smi's numbers  [default: %(default)s]"
    )
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="end cleanly by then")
    parser.add_argument("--only", type=listed, default=[], metavar="TEXT,...", help="cells of this name or group")
    parser.add_argument("--steps", type=listed, default=list(STEPS), help="some of %(default)s")
    parser.add_argument("--compile-limit", type=float, default=150.0, metavar="SECONDS", help="of max-autotune")
    parser.add_argument("--cores", type=int, default=CORES, help="of each GPU at most  [default: %(default)s]")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".fusetune" / "sizes", help="for results.jsonl and journals"
    )
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fusetune-sizes")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--merge", type=Path, action="append", default=[], metavar="FILE", help="another results.jsonl")
    parser.add_argument("--gpu-name", help="with --merge: of which model, where it is not here; nothing is run")
    parser.add_argument("--list", action="store_true", help="print the cells, and end")
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)  # on the CPU: nothing is timed
    parser.add_argument("--child", nargs=2, metavar=("STEP", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child)
    unknown = sorted(set(arguments.steps) - set(STEPS))
    if unknown:
        parser.error(f"--steps {','.join(unknown)}: use some of {','.join(STEPS)}")
    everything = DRY_SIZES if arguments.dry else all_sizes()
    sizes = [one for one in everything if is_chosen(one, arguments.only)]
    if "fitting" in arguments.only:
        sizes += fitted()
    if not sizes:
        parser.error(f"--only {','.join(arguments.only)}: no cell is called so; --list tells them")
    if arguments.list:
        for one in sizes:
            print(f"{one.cell.key:<36} {one.group:<11} {one.form or ''}{'  prior_off' if one.without_prior else ''}")
        return 0
    for name in ("work", "cache", "output"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    try:
        gpus = gpus_of(arguments)
        return Run(arguments, sizes, everything, gpus, began).run()
    except FusetuneError as error:
        parser.error(str(error))


def is_chosen(sized: Sized, only: Sequence[str]) -> bool:
    """Whether a cell is of one of these groups, or has one of these texts in its name; all are where there is none."""
    return not only or sized.group in only or any(text in sized.cell.key for text in only)


def gpus_of(arguments: argparse.Namespace) -> tuple[GpuHere, ...]:
    """The GPUs to run on; only one to name the file where nothing is run. Raises FusetuneError, as `chosen_gpus`."""
    if arguments.dry or arguments.gpu_name:
        return (GpuHere(0, "", arguments.gpu_name or "dry", "0.0"),)
    gpus = chosen_gpus(arguments.gpus)
    if len({gpu.name for gpu in gpus}) > 1:
        raise FusetuneError(f"--gpus {arguments.gpus}: name GPUs of one model, for which one file is written")
    return gpus


class Run:
    """One invocation: what is due is handed to the GPUs cell by cell."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        sizes: Sequence[Sized],
        everything: Sequence[Sized],
        gpus: Sequence[GpuHere],
        began: float,
    ) -> None:
        self.arguments, self.sizes, self.everything, self.gpus = arguments, sizes, everything, gpus
        self.deadline = began + (arguments.limit or math.inf)
        self.records = Records(arguments.work / "results.jsonl", gpus[0].name)
        self.output: Path = arguments.output / f"sizes-{slugify(gpus[0].name)}.json"
        if (kept := self.output.with_suffix(".jsonl")).exists():
            self.records.merge(kept)
        self.piece = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.stopped = threading.Event()
        self.left: list[str] = []
        self._writing = threading.Lock()

    def run(self) -> int:
        for path in self.arguments.merge:
            print(f"{path}: {self.records.merge(path)} lines taken over")
        due = [one for one in self.sizes if any(self.is_due(one, step) for step in self.arguments.steps)]
        if due and not self.arguments.gpu_name:
            print(f"{len(due)} of {len(self.sizes)} cells have something to do", flush=True)
            self.records.add({"key": self.piece, "step": "piece", "gpus": len(self.gpus), **self._environment()})
            self._run_lanes(due)
        result = self.write()
        print(summary_text(result))
        for line in self.left:
            print(f"left: {line}")
        print(f"{len(result['cells'])} of {len(self.everything)} cells are whole; {self.output}")
        return 3 if self.left else 0

    def is_due(self, sized: Sized, step: Step) -> bool:
        return is_due(sized, step, self.records, self.arguments.compile_limit)

    def write(self) -> dict[str, Any]:
        with self._writing:
            result = result_of(self.everything, self.records)
            write_result(self.output, result)
            write_atomically(self.output.with_suffix(".jsonl"), self.records.text())
            return result

    def _run_lanes(self, due: Sequence[Sized]) -> None:
        waiting: queue.SimpleQueue[Sized] = queue.SimpleQueue()
        for sized in due:
            waiting.put(sized)
        shares = cores_of_lanes(sorted(os.sched_getaffinity(0)), len(self.gpus), self.arguments.cores)
        lanes = [
            threading.Thread(target=Lane(self, gpu, cores).work, args=(waiting,))
            for gpu, cores in zip(self.gpus, shares, strict=True)
        ]
        for lane in lanes:
            lane.start()
        try:
            for lane in lanes:
                lane.join()
        finally:
            self.stopped.set()  # After Ctrl-C, each lane ends its child.

    def _environment(self) -> dict[str, Any]:
        return {
            "torch": version("torch"),
            "triton": version("triton"),
            "driver": self.gpus[0].driver,
            "python": sys.version.split()[0],
            "cores": usable_cores(),
        }


def cores_of_lanes(cores: Sequence[int], lanes: int, most: int) -> list[set[int]]:
    """Equal shares of the cores, at most so many each; lanes share them all where there are too few."""
    each = min(most, len(cores) // lanes)
    return [set(cores[lane * each : (lane + 1) * each]) if each else set(cores) for lane in range(lanes)]


class Lane:
    """One GPU with its cores: the steps of one cell after another, each in processes of its own."""

    def __init__(self, run: Run, gpu: GpuHere, cores: set[int]) -> None:
        self.run, self.arguments, self.gpu, self.cores = run, run.arguments, gpu, cores
        self.cache: Path = run.arguments.cache
        self.scratch = run.arguments.work / "live" / f"gpu-{gpu.index}"

    def work(self, waiting: queue.SimpleQueue[Sized]) -> None:
        os.sched_setaffinity(0, self.cores)  # Of this thread, and of what it starts.
        # So that no sweep pays for reading torch's files from the disk first.
        self._ended([sys.executable, "-c", "import torch, triton; torch.zeros(1)"], MOST_S, self._environ())
        while not self.run.stopped.is_set():
            try:
                sized = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._cell(sized)
            except Exception as error:  # noqa: BLE001 - one cell must not cost the others
                self.run.left.append(f"{sized.cell.key}: {first_line(error)}")

    def _cell(self, sized: Sized) -> None:
        for step in STEPS:
            if step not in self.arguments.steps or not self.run.is_due(sized, step):
                continue
            known = sorted(self.run.records.seconds(step))
            needed = known[len(known) * 3 // 4] if len(known) > 2 else EXPECTED_S[step]
            if time.monotonic() + needed > self.run.deadline:
                self.run.left.append(f"{sized.cell.key}: no time for {step}")
                return
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(parents=True)
            began = time.monotonic()
            try:
                found = self._timed(sized) if step == "time" else self._swept(sized, step)
            except _CutOffError:
                self.run.left.append(f"{sized.cell.key}: {step} cut off at the limit")
                return
            seconds = {"seconds": round(time.monotonic() - began, 2)}
            head = {"key": sized.cell.key, "step": step, "piece": self.run.piece, "cores": len(self.cores)}
            made = {**head, "kernel_hash": kernel_hash(sized.cell.spec_name), **seconds, **found}
            self.run.records.add(made)
            print(f"[gpu {self.gpu.index}] {sized.cell.key:<34} {step:<9} {told(made)}", flush=True)
            if made.get("error"):
                self.run.left.append(f"{sized.cell.key}: {step}: {made['error']}")
                if step == "sweep":
                    return
            self.run.write()

    def _swept(self, sized: Sized, step: Step) -> dict[str, Any]:
        """A sweep or a prediction by the installed command, as it would be typed."""
        runs, dry = self.scratch / "runs", self.arguments.dry
        command = sweep_command(
            sized.cell,
            self.scratch / "configs",
            runs,
            "seed" if dry else None,
            fresh=True,
            prior="off" if step == "prior_off" else None,
        )
        command += ["--json"] if step == "predict" else []
        command += ["--target", "rtx4090" if dry else self.gpu.name] if dry or step == "predict" else []
        environ = {**self._environ(), "TRITON_CACHE_DIR": str(self.scratch / "cache")}
        code, seconds = self._ended(command, MOST_S, environ)
        said = (self.scratch / "stderr.txt").read_text(errors="replace").strip().splitlines()
        if code is None:
            return {"error": f"it did not end within {MOST_S:g} s"}
        if code not in {0, 3}:
            return {"error": f"exit code {code}: {said[-1] if said else ''}"[:300]}
        if step == "predict":
            best = json.loads((self.scratch / "stdout.txt").read_text())["problems"][0]["best"]
            configs = [one["config"] for one in best]
            return {"seconds": seconds, "configs": configs, "labels": [Config(**one).label() for one in configs]}
        return {"seconds": seconds, **self._journal_of(runs, code, for_fitting=sized.group == "fitting")}

    def _journal_of(self, runs: Path, code: int, *, for_fitting: bool) -> dict[str, Any]:
        """What a sweep's journal says; it is kept under --work, or for fitting beside the results."""
        paths = list(runs.glob("*.jsonl"))
        records = [record for path in paths for record in read_journal(path)]
        kept = self.arguments.output / "fitting" if for_fitting else self.arguments.work / "journals"
        kept.mkdir(parents=True, exist_ok=True)
        for path in paths:
            (kept / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        entry = next((record.entry for record in records if isinstance(record, RunEnd)), None)
        if entry is None:
            return {"error": f"exit code {code}, and no entry"}
        # Later lines about a candidate replace earlier ones.
        last = {record.id: record for record in records if isinstance(record, Candidate)}
        compiled = {record.id for record in records if isinstance(record, Candidate) and record.resources}
        phases: dict[str, float] = {}
        for record in records:
            if isinstance(record, PhaseTime) and record.within is None:
                phases[record.name] = round(phases.get(record.name, 0.0) + record.seconds, 2)
        return {
            "config": to_builtins(entry.config),
            "label": entry.config.label(),
            "verdict": entry.verdict,
            "candidates": len(last),
            "compiled": len(compiled),
            "skipped": sum(one.status == "skipped" for one in last.values()),
            "phases_s": phases,
        }

    def _timed(self, sized: Sized) -> dict[str, Any]:
        """max-autotune compiled within its limit, and all arms timed, in one process; in another where that broke."""
        arms = wanted_arms(sized, self.run.records)
        assert arms is not None, "is_due knows the sweep"
        limit = self.arguments.compile_limit
        ask = {"cell": sized.cell.__dict__, "arms": arms, "dry": self.arguments.dry, "uuid": self.gpu.uuid}
        ask |= {"marks": str(self.cache / "marks"), "cache": str(self.cache), "compiles": not self.arguments.dry}
        asked, answer = self.scratch / "asked.json", self.scratch / "answer.json"
        asked.write_text(json.dumps({**ask, "answer": str(answer)}))
        command = [sys.executable, str(Path(__file__).resolve()), "--child"]
        # A folder of its own: who tunes for torch.compile takes a lock there, and this GPU is nobody else's.
        environ = {**self._environ(), "TMPDIR": str(self.scratch)}
        environ |= {"TRITON_INTERPRET": "1"} if self.arguments.dry else {}
        mark = mark_path(self.cache / "marks", sized.cell, AUTOTUNED)
        code = None
        if ask["compiles"] and not self._is_compiled(mark):
            mark.unlink(missing_ok=True)
            code, seconds = self._ended([*command, "both", str(asked)], MOST_S, environ, Until(mark, limit))
            if code is None and not mark.exists():
                mark.parent.mkdir(parents=True, exist_ok=True)
                why = {"error": f"it did not compile within {limit:g} s", "limit_s": limit, "seconds": seconds}
                write_atomically(mark, json.dumps(why))
        if code != 0:  # Not compiled before, or cut off, or the compiler took the process with it.
            code, _ = self._ended([*command, "time", str(asked)], MOST_S, environ)
        if code != 0 or not answer.exists():
            said = (self.scratch / "stderr.txt").read_text(errors="replace").strip().splitlines()
            return {"error": f"the process that times ended with {code}: {said[-1] if said else ''}"[:300]}
        return {**json.loads(answer.read_text()), "configs": arms, "compile_limit_s": limit}

    def _is_compiled(self, mark: Path) -> bool:
        """Whether max-autotune is in the cache, or cannot be within the limit; any other error is tried again."""
        if not mark.exists():
            return False
        held = json.loads(mark.read_text())
        return not held["error"] or held.get("limit_s", 0.0) >= self.arguments.compile_limit

    def _environ(self) -> dict[str, str]:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        return environ | ({"CUDA_VISIBLE_DEVICES": self.gpu.uuid} if self.gpu.uuid else {})

    def _ended(
        self, command: Sequence[str], limit_s: float, environ: Mapping[str, str], until: Until | None = None
    ) -> tuple[int | None, float]:
        """Run a process to its end: its code, None at its own limit, and seconds. Raises _CutOffError at the run's."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (self.scratch / "stdout.txt").open("w") as out, (self.scratch / "stderr.txt").open("w") as err:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        return process.wait(0.2), round(time.monotonic() - began, 2)
                    if self.run.stopped.is_set() or time.monotonic() > self.run.deadline:
                        raise _CutOffError
                    elapsed = time.monotonic() - began
                    if elapsed > limit_s or (until is not None and until.is_missed(elapsed)):
                        return None, round(time.monotonic() - began, 2)
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@dataclass(frozen=True)
class Until:
    """A file that a process is to have written after so many seconds."""

    path: Path
    seconds: float

    def is_missed(self, elapsed: float) -> bool:
        """Whether the time is over and the file is not there."""
        return elapsed > self.seconds and not self.path.exists()


class _CutOffError(Exception):
    """The run's time is over, or it was interrupted: what was under way is made again by the next run."""


def told(record: Mapping[str, Any]) -> str:
    """One step's outcome in a line."""
    seconds = f"{record['seconds']:6.1f} s  "
    if record.get("error"):
        return seconds + record["error"]
    if "us" in record:
        failed = f"  without {', '.join(record['failed'])}" if record["failed"] else ""
        return seconds + "  ".join(f"{arm} {us:.4g}" for arm, us in record["us"].items()) + failed
    if "labels" in record:
        return seconds + record["labels"][0]
    return seconds + f"{record['label']}  ({record['compiled']} compiled, {record['verdict']})"


# In processes of their own, which alone load torch.


def child(step: str, path: str) -> int:
    """Time all arms of a cell, with `both` after max-autotune was compiled into the cache."""
    ask = json.loads(Path(path).read_text())
    cell = Cell(**ask["cell"])
    set_caches(Path(ask["cache"]), max(1, usable_cores()))
    device = "cpu" if ask["dry"] else "cuda"
    if step == "both":
        from peers import compile_group

        print(compile_group([(cell, [AUTOTUNED], BASELINE)], Path(ask["marks"]), device))
    configs = {arm: Config(**values) for arm, values in ask["arms"].items()}
    mark = mark_path(Path(ask["marks"]), cell, AUTOTUNED)
    autotuned = json.loads(mark.read_text()) if mark.exists() else {"error": "not compiled", "seconds": None}
    found = timed(cell, configs, autotuned, device, ask["uuid"], rounds=2 if ask["dry"] else None)
    write_atomically(Path(ask["answer"]), json.dumps(found))
    return 0


def timed(
    cell: Cell,
    configs: Mapping[str, Config],
    autotuned: Mapping[str, Any],
    device: str,
    uuid: str,
    rounds: int | None = None,
) -> dict[str, Any]:
    """Ours by name and the peers, in turns; a config that another arm has already is timed once."""
    import torch
    from arm_times import time_arms
    from peer_arms import Bed, Call, make_arm

    from fusetune.measure.nvml import Monitor

    torch.set_grad_enabled(False)
    ours: dict[str, Config] = {}
    for arm, config in configs.items():
        if config not in ours.values():
            ours[arm] = config
    ours["library"] = Config(variant="library")

    def maker(arm: str) -> Callable[[Bed], Call]:
        if arm in ours:
            return lambda bed: make_arm("fusetune", bed, ours[arm])
        return lambda bed: make_arm(arm, bed, BASELINE)

    done = time_arms(
        cell,
        {arm: maker(arm) for arm in (*ours, "eager", AUTOTUNED)},
        ours=ours.keys() - {"library"},  # which rounds products to y's type before it finishes them
        failed={AUTOTUNED: autotuned["error"]} if autotuned["error"] else {},
        device=device,
        rounds=rounds,
        monitor=Monitor(uuid),
    )
    return {
        "us": {arm: round(statistics.median(values), 4) for arm, values in done.times.items()},
        "ours_over": ours_over(done.times),
        "errors": {arm: {name: _short(value) for name, value in by.items()} for arm, by in done.errors.items()},
        "failed": dict(done.failed),
        "compile_s": autotuned["seconds"],
        **done.facts,
    }


def _short(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None  # JSON has no NaN


if __name__ == "__main__":
    sys.exit(main())
