"""The gate of a repository with a user's kernel, right where the truth is known: `python benchmarks/gate_programs.py`.

Needs a GPU and git. A sample repository is made and tuned (`fusetune tune`), then gated as a build server would.
Unchanged: its kept config against Before and against HEAD; no gate may call that a regression. Planted: a spill, found
by compiling alone; a wrong result; the same kernel 3 % slower than HEAD's, which has to be a regression each time. The
gates that are counted are decided by the gate's own logic in one process, as in gate.py; what is planted is also found
by the command. The same command goes on where it stopped. Writes OUTPUT/gate-programs-<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from gate import OneProcess, resumed, summary

from fusetune.capture.captures import kept_cases
from fusetune.capture.from_source import KernelPlace, KernelSource, kernels_from_source
from fusetune.core.decision import KeepRule
from fusetune.core.target import find_target
from fusetune.core.text import slugify
from fusetune.errors import EXIT_REGRESSION, EXIT_WRONG_RESULT
from fusetune.gate.judge import Judgement, Limits, judge_against, judge_gain
from fusetune.gate.recording import GateJournal
from fusetune.gate.replays import ReplayedSpec, Replays
from fusetune.measure.cuda import CudaMeasurer
from fusetune.ops.before import reference_of
from fusetune.store.schema import ConfigFile, Entry
from fusetune.store.yaml_files import read_config_file

RESULTS = Path(__file__).resolve().parent / "results"
STEPS = 2000
"""Of the kernel's loop; its time is that of the loop."""
SLOWDOWN = 0.03
KERNEL = """import triton
import triton.language as tl


@triton.jit
def stepped(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    for _ in range(STEPS):
        x = x * 0.5 + 1.0
    tl.store(y_ptr + at, x, mask=at < n)
"""
BENCH = """import torch
import triton
from norms import stepped

n = 1 << 20
x = torch.randn(n, device="cuda")
y = torch.empty_like(x)
stepped[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=32, num_warps=8)
"""
LOOP = "    for _ in range(STEPS):\n        x = x * 0.5 + 1.0\n"
SPILLING = """    wide = tl.load(x_ptr + tl.arange(0, 8192 * tl.extra.cuda.num_warps()))
    for _ in range(STEPS):
        x = x * 0.5 + 1.0
        wide = wide * 0.5 + 1.0
    x += (tl.sum(wide) - 2.0 * 8192 * tl.extra.cuda.num_warps()) * 1.0e-30
"""
"""It holds 256 more values a thread, more than there are registers."""


class Repository:
    """A package of one kernel with its tuned configs, committed to git, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write(STEPS)
        (folder / "bench.py").write_text(BENCH, encoding="utf-8")
        self.fusetune("tune", "bench.py", "--keep", allowed=(0,))
        (self.configs,) = (folder / "configs").glob("*/*.yaml")
        author = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
        for words in (("init", "-q"), ("add", "norms.py", "bench.py", "configs"), (*author, "commit", "-qm", "tuned")):
            subprocess.run(["git", "-C", str(folder), *words], check=True)

    def write(self, steps: int, old: str = "", new: str = "") -> None:
        """The kernel with so many steps, and perhaps with other text."""
        text = KERNEL.replace(old, new) if old else KERNEL
        (self.folder / "norms.py").write_text(text.replace("STEPS", str(steps)), encoding="utf-8")

    def file(self) -> ConfigFile:
        """What was tuned."""
        return read_config_file(self.configs)

    def source(self, name: str) -> KernelSource:
        """The kernel as its file has it now."""
        place = KernelPlace("norms:stepped", str(self.folder / "norms.py"))
        found = kernels_from_source([place], self.folder / "copies" / name, find_target("h200"))[place]
        if not isinstance(found, KernelSource):
            raise SystemExit(found.why)
        return found

    def fusetune(self, *words: str, allowed: tuple[int, ...] | None = None) -> subprocess.CompletedProcess[str]:
        """The command, in the repository's folder."""
        command = [sys.executable, "-m", "fusetune", *words]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, text=True, check=False)
        if allowed is not None and done.returncode not in allowed:
            raise SystemExit(f"fusetune {' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
        return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=50, help="gates of the unchanged and of the slower kernel, each")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gate-programs-") as folder:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        os.environ["PYTHONPATH"] = os.pathsep.join([str(RESULTS.parents[1]), os.environ.get("PYTHONPATH", "")])
        (Path(folder) / "repository").mkdir()
        repository = Repository(Path(folder) / "repository")
        (entry,) = repository.file().entries
        if entry.verdict != "keep":
            raise SystemExit(f"nothing was kept ({entry.reason}), so that there is nothing to gate")
        head = repository.source("head")
        result, path = begun(repository, head, arguments.output)
        count_gates(repository, result, "unchanged", head, head, arguments.gates, path)
        slower = calibrated(repository, head, result)
        count_gates(repository, result, "slower", slower, head, arguments.gates, path)
        plant(repository, result, path)
    print(table(result))
    print(f"wrote {path}")


def begun(repository: Repository, head: KernelSource, output: Path) -> tuple[dict[str, Any], Path]:
    """What earlier commands with the same GPU and software have done, and its file."""
    with measured(repository, head, head) as (measurer, _, _):
        facts = measurer.facts()
    path = output / f"gate-programs-{slugify(facts.identity.name)}.json"
    environment = msgspec.to_builtins(facts.environment)
    environment.pop("kernel_hash", None)
    return resumed(path, facts.identity.name, environment), path


@contextmanager
def measured(
    repository: Repository, here: KernelSource, there: KernelSource
) -> Iterator[tuple[OneProcess, Entry, ReplayedSpec]]:
    """A process that measures two revisions of the kernel, and the kept entry with what ran before."""
    file, path = repository.file(), repository.configs
    (entry,) = file.entries
    spec = Replays(kept_cases(), {path: here}, {path: there}).spec_of(path, file, entry, "against", "HEAD")
    if isinstance(spec, tuple):
        raise SystemExit(spec[1])
    with closing(CudaMeasurer(spec, entry.problem)) as measurer:
        yield OneProcess(measurer), msgspec.structs.replace(entry, before=reference_of(spec, entry.problem)), spec


def count_gates(
    repository: Repository,
    result: dict[str, Any],
    case: str,
    here: KernelSource,
    there: KernelSource,
    count: int,
    path: Path,
) -> None:
    """`count` gates of one kernel against Before and against another revision's, each written as it is done."""
    gates = result["cases"].setdefault(case, {"gates": []})["gates"]
    if len(gates) >= count:
        return
    with measured(repository, here, there) as (one, entry, spec):
        one.prepare(0)
        while len(gates) < count:
            began = time.monotonic()
            limits = Limits(reference_of(spec, entry.problem), seed=1000 * len(gates), name="Before")
            gained = judge_gain(one, entry, limits, GateJournal(None))  # type: ignore[arg-type]
            against = against_head(one, entry, limits)
            gates.append({"gain": gained.status, **summary(against, time.monotonic() - began)})
            written(result, path)


def against_head(one: OneProcess, entry: Entry, limits: Limits) -> Judgement:
    other = entry.config.elsewhere()
    return judge_against(one, entry.config, other, "HEAD", KeepRule(), limits, GateJournal(None))  # type: ignore[arg-type]


def calibrated(repository: Repository, head: KernelSource, result: dict[str, Any]) -> KernelSource:
    """The kernel as much slower than HEAD's as asked, its file with it."""
    case = result["cases"].setdefault("slower", {"gates": []})
    if "steps" not in case:
        tried = 1.1
        repository.write(round(STEPS * tried))
        with measured(repository, repository.source("tried"), head) as (one, entry, spec):
            one.prepare(0)
            judged = against_head(one, entry, Limits(reference_of(spec, entry.problem), name="Before"))
        if judged.result is None:
            raise SystemExit(judged.detail)
        slower = 1 / (1 - judged.result.gain.median) - 1
        case["steps"] = round(STEPS * (1 + SLOWDOWN * (tried - 1) / slower))
    repository.write(case["steps"])
    return repository.source("slower")


def plant(repository: Repository, result: dict[str, Any], path: Path) -> None:
    """Each planted regression as the command sees it, with the kept capture; the exit code and the findings' lines."""
    planted = {
        "spill": ((STEPS, LOOP, SPILLING), ("--static",), EXIT_REGRESSION),
        "wrong": ((STEPS, "y_ptr + at, x,", "y_ptr + at, x + 1,"), (), EXIT_WRONG_RESULT),
        "3 % slower": ((result["cases"]["slower"]["steps"], "", ""), ("--against", "HEAD"), EXIT_REGRESSION),
    }
    for name, (change, options, expected) in planted.items():
        repository.write(*change)
        began = time.monotonic()
        done = repository.fusetune("gate", "configs", "--kernels", ".", *options)
        seconds = round(time.monotonic() - began, 1)
        told = [line[:400] for line in done.stdout.splitlines()]
        result["cases"][name] = {"exit_code": done.returncode, "expected": expected, "seconds": seconds, "said": told}
        print(f"{name}: exit code {done.returncode} after {seconds} s", file=sys.stderr)
        written(result, path)
    repository.write(STEPS)


def written(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(result: dict[str, Any]) -> str:
    """What docs/benchmarks.md quotes."""
    lines = [f"{result['gpu']}, {result['date']}: gates of a sample repository's kernel"]
    for name, case in result["cases"].items():
        if "gates" in case:
            for which in ("gain", "status"):
                outcomes = ", ".join(f"{n} {status}" for status, n in Counter(g[which] for g in case["gates"]).items())
                lines.append(f"{name:>12}, {'Before' if which == 'gain' else 'HEAD':>6}: {outcomes}")
        else:
            lines.append(f"{name:>12}: exit code {case['exit_code']}, {case['expected']} is right")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
