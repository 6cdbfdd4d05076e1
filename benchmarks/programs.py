"""Other people's programs through `fusetune tune`, one after the other: `python benchmarks/programs.py FOLDER`.

    python benchmarks/programs.py FOLDER --fetch              packages into FOLDER/site, by pip
    python benchmarks/programs.py FOLDER --extract CHECKOUT   siblings of the seed, from a clone of Alisehen/LLMKernel
    python benchmarks/programs.py FOLDER --look               `fusetune capture` on each: what it launches, no GPU used
    python benchmarks/programs.py FOLDER --limit 1500         `fusetune tune` on each, on the GPU here

The programs are the drivers D1 to D12 and the pairs. Each that is done adds a line to FOLDER/results.jsonl and is left
out the next time, on the same GPU, unless --again; one that the limit cuts off is not done. Without a GPU they are
tuned for the RTX 4090 by prediction. A pair is made a module, too (`-o`), whose order and import are checked at the end
by program_modules.py. At the end: a table, and benchmarks/results/programs-<gpu>.json, figures alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, NamedTuple

from program_modules import Module, all_facts
from program_sources import extract, fetch, write_drivers

from fusetune.core.text import slugify

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DRY_TARGET = "rtx4090"
LEAST_S = 20.0
"""With less than that left, no program is begun."""
OURS = tuple(f"exit code {code}" for code in (2, 4, 70, 130))
"""Ends that say nothing of the program: a bad command, no GPU, a fault, an interrupt. It is run again."""
JUDGED = ("keep", "revert", "inconclusive")


class Program(NamedTuple):
    """One program: its short name, its file, and the reference beside it."""

    name: str
    path: Path
    reference: Path | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--fetch", action="store_true", help="install the packages, and end")
    parser.add_argument("--extract", type=Path, metavar="CHECKOUT", help="take the pairs out of a clone, and end")
    parser.add_argument("--pairs", type=int, default=40, help="so many at most  [default: 40]")
    parser.add_argument("--only", metavar="NAME,...", help="D1,D4 or parts of pairs' names; pairs is all of them")
    parser.add_argument("--again", action="store_true", help="those that are done, too")
    parser.add_argument("--limit", type=float, default=math.inf, metavar="SECONDS", help="end by then")
    parser.add_argument("--each", type=float, default=600.0, metavar="SECONDS", help="of one program  [default: 600]")
    parser.add_argument("--look", action="store_true", help="fusetune capture in place of tune, without a GPU")
    parser.add_argument("--show", action="store_true", help="run nothing: the table and the file of what is done")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help="more options of `fusetune tune`, behind --")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.fetch:
        fetch(folder)
        return 0
    if arguments.extract:
        print(f"{len(extract(arguments.extract, folder, arguments.pairs))} pairs in {folder / 'pairs'}")
        return 0
    programs = chosen(listed(folder), arguments.only)
    if not programs:
        parser.error(f"no program of {folder} is called {arguments.only}")
    gpu = None if arguments.look else gpu_name()
    return run_all(programs, folder, gpu, arguments)


def listed(folder: Path) -> list[Program]:
    """The drivers, and the pairs that are there."""
    drivers = [Program(f"D{int(path.name[1:3])}", path) for path in write_drivers(folder)]
    pairs = sorted((folder / "pairs").glob("*/current.py"))
    return drivers + [Program(path.parent.name, path, path.with_name("reference.py")) for path in pairs]


def chosen(programs: Sequence[Program], only: str | None) -> list[Program]:
    if only is None:
        return list(programs)
    words = only.split(",")
    return [
        one
        for one in programs
        if one.name in words or (one.reference and ("pairs" in words or any(word in one.name for word in words)))
    ]


def gpu_name() -> str | None:
    """Of the GPU that a program of this machine gets; None without one. Asked in a process of its own."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return said.stdout.strip() or None


def run_all(programs: Sequence[Program], folder: Path, gpu: str | None, arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    path = folder / ("looked.jsonl" if arguments.look else "results.jsonl")
    held = {row["name"]: row for row in read(path) if row["on"] == on(gpu)}
    for program in () if arguments.show else programs:
        if program.name in held and held[program.name]["ended"] not in OURS and not arguments.again:
            continue
        left = arguments.limit - (time.monotonic() - began)
        if left < LEAST_S:
            print("out of time; the same command goes on", file=sys.stderr)
            break
        row = run(program, folder, gpu, look=arguments.look, limit_s=min(left, arguments.each), more=arguments.more)
        if row["ended"] == "cut off" and left < arguments.each:
            print(f"{program.name} was cut off; the same command begins it again", file=sys.stderr)
            break
        row["on"] = on(gpu)
        held[program.name] = row
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(line(row, look=arguments.look), flush=True)
    rows = [held[program.name] for program in programs if program.name in held]
    if arguments.look:
        failed = [row["name"] for row in rows if row["ended"] != "done" or not row["kernels"]]
        print(f"{len(rows)} looked at; without a launch, or failed: {', '.join(failed) or 'none'}")
        return 0
    modules = {one.name: Module(module_of(folder, one), one.reference) for one in programs if one.reference}
    facts = all_facts(modules, None if gpu else DRY_TARGET)
    rows = [{**row, "module_facts": facts.get(row["name"])} for row in rows]
    arguments.output.mkdir(parents=True, exist_ok=True)
    output = arguments.output / f"programs-{on(gpu)}.json"
    told = with_earlier([figures(row) for row in rows], output)
    found = summary(told)
    print("\n".join([line(row, look=False) for row in rows]), json.dumps(found, indent=1), sep="\n\n")
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "gpu": gpu,
        "predicted_for": None if gpu else DRY_TARGET,
        "environment": environment(folder),
        "summary": found,
        "programs": told,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {output}")
    return 0


def with_earlier(told: Sequence[Mapping[str, Any]], output: Path) -> list[dict[str, Any]]:
    """Figures, with those of other programs that the file has already: a set takes longer than a machine is lent."""
    today = f"{date.today():%Y-%m-%d}"
    found = json.loads(output.read_text()) if output.exists() else {"programs": []}
    merged = {one["name"]: {"date": found["date"], **one} for one in found["programs"]}
    merged |= {one["name"]: {"date": today, **one} for one in told}
    return [merged[name] for name in sorted(merged)]


def on(gpu: str | None) -> str:
    """What a row is of: measured on a GPU, or predicted; the two are never mixed."""
    return slugify(gpu) if gpu else f"predicted-{DRY_TARGET}"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, the last of each name counting; a line that was cut off is none."""
    rows = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(text))
    return rows


def run(
    program: Program, folder: Path, gpu: str | None, *, look: bool, limit_s: float, more: Sequence[str] = ()
) -> dict[str, Any]:
    """One program through the command: how it ended, in how many seconds, and what it said."""
    place = folder / "out" / program.name
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fusetune", "capture" if look else "tune", "--json"]
    command += [] if gpu else ["--target", DRY_TARGET]
    command += [] if look else ["--configs", str(place / "configs"), "--runs", str(place / "runs")]
    if program.reference:
        command += ["--reference", str(program.reference)]
        command += [] if look else ["-o", str(module_of(folder, program))]
    command += [*more, str(program.path)]
    paths = [str(ROOT), str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    with (place / "stderr.txt").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,
        )
        try:
            answer, _ = process.communicate(timeout=limit_s)
            ended = "done" if process.returncode in {0, 3} else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # Its own session: none but what it began.
            answer, _ = process.communicate()
            ended = "cut off"
        errors.seek(0)
        said = [text.strip() for text in errors if text.strip()]
    try:
        found = json.loads(answer)
    except json.JSONDecodeError:
        found = {}
    kernels = by_kernel(found.get("cases", [])) if look else found.get("kernels", [])
    return {
        "name": program.name,
        "ended": ended,
        "said": said[-1][:300] if said and ended != "done" else "",
        "seconds": round(time.monotonic() - began, 1),
        "kernels": kernels,
        "program": found.get("program_check"),
        "module": (found.get("source_check") or {}).get("module"),
    }


def module_of(folder: Path, program: Program) -> Path:
    """Where the module of a program is written to."""
    return folder / "out" / program.name / "optimized.py"


def by_kernel(cases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `fusetune capture` saw, in the form that is kept: kernels, their cases, and what may vary of each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for case in cases:
        kernel = case["kernel"]
        told = found.setdefault((kernel["file"], kernel["name"]), {"kernel": kernel["name"], "cases": []})
        varies = [knob["name"] for knob in case.get("knobs", ()) if knob["varies"]]
        told["cases"].append({"before": case["before"], "varies": varies, "findings": case.get("findings", [])})
    return list(found.values())


def main_kernel(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The kernel with the largest share of the time that was measured; None where none was."""
    timed = [kernel for kernel in row["kernels"] if share_us(kernel) > 0]
    return max(timed, key=share_us) if timed else None


def share_us(kernel: Mapping[str, Any]) -> float:
    return sum((case.get("before_us") or 0.0) * case.get("launches", 1) for case in kernel["cases"])


def after_us(kernel: Mapping[str, Any]) -> float:
    """What the same launches take with what was kept; without a verdict to keep, Before stays."""
    return sum(
        ((case.get("best_us") if case["verdict"] == "keep" else None) or case.get("before_us") or 0.0)
        * case.get("launches", 1)
        for case in kernel["cases"]
    )


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row is published: names and numbers."""
    cases = [case for kernel in row["kernels"] for case in kernel["cases"]]
    told: dict[str, Any] = {
        "name": row["name"],
        "ended": row["ended"],
        "seconds": row["seconds"],
        "kernels": len(row["kernels"]),
        "cases": len(cases),
        "kernel_seconds": [
            round(sum(case.get("seconds") or 0.0 for case in kernel["cases"]), 1) for kernel in row["kernels"]
        ],
        "verdicts": dict(Counter(case["verdict"] for case in cases)),
        "failures": dict(sum((Counter(case.get("failures") or {}) for case in cases), Counter())),
    }
    kernel = main_kernel(row)
    if kernel is not None:
        told["main"] = {
            "kernel": kernel["kernel"],
            "before_us": round(share_us(kernel), 3),
            "after_us": round(after_us(kernel), 3),
            "ratio": round(after_us(kernel) / share_us(kernel), 4),
            "verdicts": dict(Counter(case["verdict"] for case in kernel["cases"])),
        }
    for name in ("program", "module"):
        if row.get(name) is not None:
            told[name] = of_program(row[name])
    if row.get("module_facts") is not None:
        told["module"] = {**told.get("module", {}), **row["module_facts"]}
    return told


def of_program(word: Mapping[str, Any]) -> dict[str, Any]:
    """What the program said of configs or of a module: result and time, and how many changes stay.

    `ratio` is the time of the whole over that before; a module that changes no launch is the program as it is, 1.
    """
    changes = word.get("changes", 0)
    changes = len(changes) if isinstance(changes, list) else changes
    stays = word.get("given_out", changes - len(word.get("reverted") or ()))
    told = {name: word.get(name) for name in ("right", "before_ms", "after_ms", "runs", "unlike")}
    told = {name: value for name, value in told.items() if value is not None}
    return {**told, "changes": changes, "stay": stays, "ratio": word.get("ratio") if stays else 1.0}


def summary(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many programs came how far, the main kernels' time over Before, the seconds a kernel, and their modules."""
    judged = [one for one in told if any(one["verdicts"].get(verdict) for verdict in JUDGED)]
    ratios = [
        one["main"]["ratio"] for one in told if any(one.get("main", {}).get("verdicts", {}).get(v) for v in JUDGED)
    ]
    seconds = [kernel for one in told for kernel in one.get("kernel_seconds", ())]
    modules = [one["module"] for one in told if "module" in one]
    asked = [one for one in modules if one.get("compiles") is not None]  # Where they are for a GPU that is not here.
    forwards = [one["ratio"] for one in modules if one.get("ratio")]
    return {
        "programs": len(told),
        "with_a_launch": sum(one["kernels"] > 0 for one in told),
        "ended_otherwise": {one["name"]: one["ended"] for one in told if one["ended"] != "done"},
        "with_a_verdict": len(judged),
        "cases": sum(one["cases"] for one in told),
        "verdicts": dict(sum((Counter(one["verdicts"]) for one in told), Counter())),
        "main_kernels": len(ratios),
        "main_kernels_kept": sum(ratio < 1.0 for ratio in ratios),
        "ratio_geometric_mean": round(statistics.geometric_mean(ratios), 4) if ratios else None,
        "seconds_a_kernel_median": round(statistics.median(seconds), 1) if seconds else None,
        "seconds_a_kernel_most": round(max(seconds), 1) if seconds else None,
        "kernels_clocked": len(seconds),
        "seconds": round(sum(one["seconds"] for one in told), 1),
        "modules": sum("in_order" in one for one in modules),
        "modules_in_order": sum(one.get("in_order") is True for one in modules),
        "modules_imported": sum(one.get("imports") is True for one in modules),
        "modules_compiled": sum(one["compiles"] is True for one in asked) if asked else None,
        "modules_unlike_the_program": sum(bool(one.get("unlike")) for one in modules),
        "forwards": len(forwards),
        "forward_geometric_mean": round(statistics.geometric_mean(forwards), 4) if forwards else None,
        "forward_most": round(max(forwards), 4) if forwards else None,
    }


def line(row: Mapping[str, Any], *, look: bool) -> str:
    """A row of the table."""
    head = f"{row['name'][:44]:<44} {row['seconds']:6.1f} s  {row['ended']:<12} "
    if row["ended"] != "done":
        return head + row["said"]
    if look:
        parts = []
        for kernel in row["kernels"]:
            varies = sorted({name for case in kernel["cases"] for name in case["varies"]})
            parts.append(f"{kernel['kernel']} x{len(kernel['cases'])} ({', '.join(varies)})")
        return head + ("; ".join(parts) or "no launch")
    told = figures(row)
    main = told.get("main")
    ratio = f"{main['kernel'][:28]} {main['before_us']:.1f} us x {main['ratio']:.3f}" if main else "nothing timed"
    if (told.get("module") or {}).get("ratio") is not None:
        ratio += f", forward x {told['module']['ratio']:.3f}"
    return head + f"{told['kernels']} kernels, {told['cases']} cases, {told['verdicts']}; {ratio}"


def environment(folder: Path) -> dict[str, str]:
    """Versions of what measured and of what was measured."""
    told = {name: version(name) for name in ("torch", "triton")}
    told["python"] = sys.version.split()[0]
    for one in distributions(path=[str(folder / "site")]):
        told[one.metadata["Name"]] = one.version
    return told


if __name__ == "__main__":
    sys.exit(main())
