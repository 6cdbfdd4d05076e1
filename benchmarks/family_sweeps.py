"""One sweep for every cell of the family that `benchmarks/peers.py` compares: `python benchmarks/family_sweeps.py`.

A cell is a problem (M x K x N), a type and an op. Each goes through `fusetune sweep` on the GPU here, into configs/;
its journal is kept under benchmarks/results/family/ (gzipped). Cells that the YAML holds already, measured with the
kernels as they are, are left out unless --again. The next sweep loads its libraries while the last one still measures;
it waits for the GPU itself.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusetune.errors import ConfigFileError
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.loading import load_spec
from fusetune.store.journal import RunEnd, read_journal
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file

ROOT = Path(__file__).resolve().parent.parent
JOURNALS = ROOT / "benchmarks" / "results" / "family"

PROBLEMS = (
    (128, 1024, 512),
    (1024, 8192, 8192),
    (16384, 4096, 4096),
    (16, 4096, 4096),
    (64, 8192, 1024),
    (2048, 768, 3072),
    (4096, 4096, 11008),
)
LARGE = ((1024, 8192, 8192), (16384, 4096, 4096))
"""Those that float32 without TF32 is compared for as well."""
KINDS = ("float32", "float16", "bfloat16")
NEAR_IEEE = ("bf16x3", "tf32x3")
"""float32 multiplied in three products of a short type: the peers then compute without TF32."""
OPS = ("gemm_scale", "train", "eval")


@dataclass(frozen=True)
class Cell:
    """One problem (x [M, K], W [N, K]) in one type, for one op: gemm_scale, or gemm_scale_bn in a mode."""

    M: int
    K: int
    N: int
    kind: str
    op: str

    @property
    def size(self) -> str:
        return f"{self.M}x{self.K}x{self.N}"

    @property
    def key(self) -> str:
        return f"{self.size} {self.kind} {self.op}"

    @property
    def near_ieee(self) -> bool:
        return self.kind in NEAR_IEEE

    @property
    def spec_name(self) -> str:
        return "gemm_scale" if self.op == "gemm_scale" else "gemm_scale_bn"

    @property
    def problem(self) -> Problem:
        dtype, precision = ("float32", self.kind) if self.near_ieee else (self.kind, None)
        return make_problem(self.M, self.N, self.K, dtype, precision, None if self.op == "gemm_scale" else self.op)


def family(sizes: Sequence[str] = (), kinds: Sequence[str] = (), ops: Sequence[str] = ()) -> list[Cell]:
    """The cells that the filters leave; an empty filter leaves all. A size that is named need not be of the family.

    Raises ValueError for what no cell can have.
    """
    for chosen, known in ((kinds, KINDS + NEAR_IEEE), (ops, OPS)):
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: use some of {', '.join(known)}")
    problems = [parse_size(size) for size in sizes] or list(PROBLEMS)
    emulated = problems if sizes and kinds else [problem for problem in problems if problem in LARGE]
    pairs = [(problem, kind) for problem in problems for kind in KINDS]
    pairs += [(problem, kind) for problem in emulated for kind in NEAR_IEEE]
    return [
        Cell(*problem, kind, op)
        for problem, kind in pairs
        if not kinds or kind in kinds
        for op in OPS
        if not ops or op in ops
    ]


def parse_size(text: str) -> tuple[int, int, int]:
    try:
        M, K, N = (int(part) for part in text.split("x"))
    except ValueError:
        raise ValueError(f"{text}: write a size as MxKxN, as in 128x1024x512") from None
    return M, K, N


def add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--problems", type=listed, default=[], metavar="MxKxN,...")
    parser.add_argument("--dtypes", type=listed, default=[], help=f"some of {','.join(KINDS + NEAR_IEEE)}")
    parser.add_argument("--ops", type=listed, default=[], help=f"some of {','.join(OPS)}")


def listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def chosen_cells(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[Cell]:
    try:
        return family(arguments.problems, arguments.dtypes, arguments.ops)
    except ValueError as error:
        parser.error(str(error))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_filters(parser)
    parser.add_argument("--again", action="store_true", help="sweep cells that the YAML holds already, from scratch")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="start no sweep after so long")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs")
    parser.add_argument("--journals", type=Path, default=JOURNALS, help="where finished journals go, gzipped")
    parser.add_argument("--scratch", type=Path, default=ROOT / ".fusetune" / "family", help="journals of live sweeps")
    parser.add_argument("--space", help="passed on to `fusetune sweep`")
    parser.add_argument("--prior", choices=["on", "off"], help="the same; off tells what the prior costs")
    parser.add_argument("--one-at-a-time", action="store_true", help="do not load the next sweep beside the last")
    parser.add_argument("--gpu", help="the GPU's name, where the driver does not tell it")
    parser.add_argument("--list", action="store_true", help="print what would be swept, and end")
    arguments = parser.parse_args()
    for name in ("configs", "journals", "scratch"):  # Sweeps run in the repository's root.
        setattr(arguments, name, getattr(arguments, name).resolve())
    cells = chosen_cells(parser, arguments)
    gpu = arguments.gpu or _gpu_name()
    if gpu is None:
        parser.error("no NVIDIA GPU here; sweeps that time nothing are not for this command")
    todo = [cell for cell in cells if arguments.again or held_entry(arguments.configs, gpu, cell) is None]
    print(f"{len(todo)} sweeps, {len(cells) - len(todo)} cells are held already", flush=True)
    if arguments.list:
        print("\n".join(cell.key for cell in todo))
        return 0
    return _sweep_all(todo, gpu, arguments)


def _gpu_name() -> str | None:
    from fusetune.measure.nvml import visible_gpu

    seen = visible_gpu()
    if seen is not None:
        return seen[0]
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def held_entry(configs: Path, gpu: str, cell: Cell) -> Entry | None:
    """The entry of this cell, if it was measured with the kernels as they are now."""
    path = config_path(configs, gpu, cell.spec_name)
    if not path.exists():
        return None
    for entry in _entries(path, path.stat().st_mtime_ns):
        if entry.problem == cell.problem and entry.evidence == "measured":
            return entry if entry.environment.kernel_hash == kernel_hash(cell.spec_name, entry.config) else None
    return None


@functools.cache
def _entries(path: Path, _written: int) -> tuple[Entry, ...]:
    return read_config_file(path).entries


@functools.cache
def kernel_hash(spec_name: str, config: Config | None = None) -> str:
    """Of the kernels of a config's variant, or of all."""
    return load_spec(spec_name).source_hash(config)


class Sweep:
    """One `fusetune sweep` as a process, its output in a file beside its journal."""

    def __init__(self, cell: Cell, arguments: argparse.Namespace) -> None:
        self.cell = cell
        self.folder: Path = arguments.scratch / cell.key.replace(" ", "-")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "output.txt"
        self._written_before = self._written()
        with self.log.open("w") as log:
            # A group of its own, so that its workers end with it.
            self.process = subprocess.Popen(
                sweep_command(
                    cell, arguments.configs, self.folder, arguments.space, fresh=arguments.again, prior=arguments.prior
                ),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def measures(self) -> bool:
        """Whether its journal has begun, or goes on, which it does once it holds the GPU."""
        return self._written() > self._written_before

    def _written(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.jsonl"))

    def stop(self) -> None:
        """End it and its workers; its journal stays, and the same sweep goes on from there."""
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)

    def keep_journals(self, journals: Path) -> None:
        """Copy what is finished, gzipped, and drop the scratch folder."""
        journals.mkdir(parents=True, exist_ok=True)
        for journal in self.folder.glob("*.jsonl"):
            if any(isinstance(record, RunEnd) for record in read_journal(journal)):
                (journals / f"{journal.name}.gz").write_bytes(gzip.compress(journal.read_bytes(), mtime=0))
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep_command(
    cell: Cell, configs: Path, runs: Path, space: str | None, *, fresh: bool, prior: str | None = None
) -> list[str]:
    problem = cell.problem
    command = [sys.executable, "-m", "fusetune", "sweep", "--op", cell.spec_name]
    command += ["--M", str(cell.M), "--K", str(cell.K), "--N", str(cell.N), "--dtype", problem.dtype]
    command += ["--precision", problem.precision] if cell.near_ieee and problem.precision else []
    command += ["--mode", problem.mode] if problem.mode else []
    command += ["--space", space] if space else []
    command += ["--prior", prior] if prior else []
    command += ["--fresh"] if fresh else []
    return [*command, "--output", str(from_root(configs)), "--runs", str(runs)]


def from_root(path: Path) -> Path:
    """A path as it is told from the repository's root, where sweeps run: a journal is to name no machine's folders."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _sweep_all(todo: Sequence[Cell], gpu: str, arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    limit = arguments.time_limit or float("inf")
    seconds: list[float] = []
    failed: list[str] = []
    done = 0
    freed = began
    for sweep in _started(todo, arguments, lambda: time.monotonic() - began + _typical(seconds) < limit):
        code = sweep.process.wait()
        now = time.monotonic()
        seconds.append(now - freed)
        freed = now
        done += 1
        entry = _entry_of(sweep, gpu, arguments) if code in {0, 3} else None
        print(f"[{done}/{len(todo)}] {summary_line(sweep.cell, code, entry, seconds[-1])}", flush=True)
        if entry is None:
            failed.append(sweep.cell.key)
            print("\n".join(f"    {line}" for line in sweep.log.read_text(errors="replace").splitlines()[-15:]))
        else:
            sweep.keep_journals(arguments.journals)
    left = len(todo) - done
    print(f"{done} sweeps in {time.monotonic() - began:.0f} s, {left} left, {len(failed)} without an entry", flush=True)
    for key in failed:
        print(f"  {key}")
    return 1 if failed else 0


def _typical(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) if seconds else 0.0


def _started(todo: Sequence[Cell], arguments: argparse.Namespace, may_start: Callable[[], bool]) -> Iterator[Sweep]:
    """The sweeps in order, each already under way; the one after it is let load meanwhile."""
    waiting: Sweep | None = None
    current: Sweep | None = None
    try:
        for place, cell in enumerate(todo):
            if not may_start():
                return
            current, waiting = waiting or Sweep(cell, arguments), None
            if not arguments.one_at_a_time and place + 1 < len(todo) and may_start():
                # Not at once: the first must have reached the GPU's lock before the second asks for it.
                _until_it_measures(current)
                waiting = Sweep(todo[place + 1], arguments) if may_start() else None
            yield current
            current = None
    finally:
        for sweep in (current, waiting):
            if sweep is not None and sweep.process.poll() is None:
                sweep.stop()


def _until_it_measures(sweep: Sweep, limit_s: float = 120.0) -> None:
    """Return once a sweep holds the GPU, or has ended."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends and sweep.process.poll() is None:
        if sweep.measures():
            return
        time.sleep(0.1)


def _entry_of(sweep: Sweep, gpu: str, arguments: argparse.Namespace) -> Entry | None:
    """The entry that this very sweep wrote."""
    try:
        entry = held_entry(arguments.configs, gpu, sweep.cell)
        return entry if entry and (sweep.folder / f"{entry.run}.jsonl").exists() else None
    except ConfigFileError as error:
        print(f"    {error}")
        return None


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def within(errors: Iterable[float], limit: float) -> bool:
    """Whether no error is beyond the limit; NaN is."""
    return all(error <= limit for error in errors)


def summary_line(cell: Cell, code: int, entry: Entry | None, seconds: float) -> str:
    if entry is None or entry.time_us is None or entry.gain is None:
        return f"{cell.key:<34} no entry, exit code {code}, {seconds:.1f} s"
    return (
        f"{cell.key:<34} {entry.verdict:<12} {entry.config.label():<32} {entry.time_us.config:>9.2f} us  "
        f"gain {entry.gain.median:+7.2%}  {seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
