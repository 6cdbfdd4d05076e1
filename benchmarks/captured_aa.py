"""Captured kernels against themselves: `python benchmarks/captured_aa.py FOLDER`. Needs a GPU; none may be kept.

FOLDER is that of benchmarks/programs.py. Programs of the development set are looked at until there are --kernels
kernels that can be launched again; of each the heaviest case, as the program runs it, is decided on against itself
--count times, as `fusetune tune` decides. Writes OUTPUT/captured_aa-<gpu>.json after each kernel; the same command goes
on where it was cut off. With --only some of the programs go to another GPU, whose file --merge takes in.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import decision
import torch
from msgspec import to_builtins
from program_sources import write_drivers

from fusetune.capture.look import look
from fusetune.capture.programs import parse_program
from fusetune.capture.spec import CapturedSpec
from fusetune.core.text import slugify
from fusetune.errors import FusetuneError
from fusetune.measure.cuda import CudaMeasurer
from fusetune.ops.before import reference_of

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--kernels", type=int, default=10, help="so many  [default: 10]")
    parser.add_argument("--count", type=int, default=20, help="decisions on each  [default: 20]")
    parser.add_argument("--only", metavar="D1,...", help="of these programs  [default: all]")
    parser.add_argument("--merge", type=Path, metavar="FILE", help="take another run's kernels in, and end")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # For the programs' own processes.
    if arguments.merge:
        more = json.loads(arguments.merge.read_text())
        ours = begun(arguments.output, more["gpu"]) or {"kernels": [], "looked_at": []}
        more["kernels"] = list({row["kernel"]: row for row in more["kernels"] + ours["kernels"]}.values())
        more["looked_at"] = sorted({*more["looked_at"], *ours["looked_at"]})
        print(f"wrote {write(more, arguments.output)}")
        return
    result = begun(arguments.output, torch.cuda.get_device_name()) or {
        "date": f"{date.today():%Y-%m-%d}",
        "kernels": [],
        "looked_at": [],
    }
    with tempfile.TemporaryDirectory(prefix="fusetune-aa-") as kept:
        for name, spec in specs(folder, Path(kept), result, arguments.only):
            if len(result["kernels"]) >= arguments.kernels:
                break
            row = against_itself(name, spec, arguments.count, result)
            if row is not None:
                result["kernels"].append(row)
                write(result, arguments.output)  # What a limit of time cuts off is of use, too.
    if not result["kernels"]:
        sys.exit("no kernel could be launched again")
    path = write(result, arguments.output)
    print(f"{len(result['kernels'])} kernels: {result['outcomes']}; wrote {path}")


def begun(folder: Path, gpu: str) -> dict[str, Any] | None:
    """What an earlier run on this GPU has written, if it was cut off."""
    path = folder / f"captured_aa-{slugify(gpu)}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write(result: dict[str, Any], folder: Path) -> Path:
    """What is known so far, as a file."""
    result["outcomes"] = dict(sum((Counter(row["outcomes"]) for row in result["kernels"]), Counter()))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"captured_aa-{slugify(result['gpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def specs(folder: Path, kept: Path, result: dict[str, Any], only: str | None) -> Iterator[tuple[str, CapturedSpec]]:
    """Each kernel of each program with its heaviest case, while its capture is on disk; without those of the result.

    Programs of which none is left are noted there.
    """
    done = {row["kernel"] for row in result["kernels"]}
    for driver in write_drivers(folder):
        if driver.stem in result["looked_at"] or (only and driver.stem not in only.split(",")):
            continue
        try:
            looked = look(parse_program([str(driver)]), keep=kept / driver.stem)
        except FusetuneError as error:
            print(f"{driver.stem}: {error}", file=sys.stderr)
            continue
        seen: set[tuple[str, str]] = set()
        for case in looked.cases:  # The heaviest come first.
            if case.kept is not None and (place := (case.kernel.file, case.kernel.name)) not in seen:
                seen.add(place)
                if (name := f"{driver.stem} {case.kernel.name}") not in done:
                    yield name, CapturedSpec(Path(case.kept))
        result["looked_at"].append(driver.stem)


def against_itself(name: str, spec: CapturedSpec, count: int, result: dict[str, Any]) -> dict[str, Any] | None:
    """Decisions on one kernel; None where it cannot be launched again, or not be compared."""
    began = time.monotonic()
    try:
        problem = spec.captured_problem()
        spec.check(problem)
        config = reference_of(spec, problem)
        with closing(CudaMeasurer(spec, problem)) as measurer:
            facts = measurer.facts()
            result["gpu"], result["environment"] = facts.identity.name, to_builtins(facts.environment)
            measurer.prepare(0)
            measurer.warm_up()
            measurer.settle()
            results = [decision.decide(measurer, config, config, index) for index in range(count)]
    except FusetuneError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    row = decision.summary(results)
    row |= {"kernel": name, "config": config.label(), "seconds": round(time.monotonic() - began, 1)}
    worst = row["largest_median"]
    print(f"{name}: {row['outcomes']}, {row['config_us']} us, largest |median gain| {worst:.3%}", flush=True)
    return row


if __name__ == "__main__":
    main()
