"""What benchmarks/programs.py runs, brought into a folder: packages, drivers, and pairs of a public repository.

Nothing of it is committed but the drivers, which are our own. Packages are cut down to the Python files that are
needed, so that the folder is small enough to be carried to a GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PACKAGES = ("liger-kernel", "fla-core", "einops", "conch-triton-kernels", "moe-ops")
PARTS = {"torchao": "torchao/prototype/common/", "bitsandbytes": "bitsandbytes/backends/triton/"}
"""Packages with large libraries, of which one folder of Python files is enough: without __init__ above it."""
FOCUS = "Focus: Fine-tuning fused kernel parameters."
PROMPT = re.compile(r"results/(level\d+)/((\d+)_[^/]+)/.*/stage(\d+)_[^/]*prompt\.txt")
CODE = re.compile(r"^\[CURRENT CODE\]\s*```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
METRICS = "[NCU PROFILING METRICS]"


class Pair(NamedTuple):
    """A prompt of the seed's kind: where it is, and the problem that it is for."""

    level: str
    problem: str
    number: int
    stage: int
    prompt: str

    @property
    def name(self) -> str:
        return f"{self.level}_{self.problem}"


def fetch(folder: Path) -> None:
    """Install the packages into FOLDER/site, without what they depend on and without what is not Python."""
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(site), *PACKAGES], check=True)
    with tempfile.TemporaryDirectory() as wheels:
        subprocess.run([*pip, "download", "--no-deps", "--dest", wheels, *PARTS], check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site, [name for name in archive.namelist() if _is_wanted(name)])
    for unwanted in [*site.rglob("__pycache__"), site / "test", site / "tests", site / "bin"]:
        shutil.rmtree(unwanted, ignore_errors=True)


def _is_wanted(name: str) -> bool:
    is_part = name.startswith(tuple(PARTS.values())) and name.endswith(".py")
    return is_part or (".dist-info/" in name and name.endswith(("METADATA", "LICENSE")))


def write_drivers(folder: Path) -> list[Path]:
    """The drivers of the development set, copied into FOLDER/drivers."""
    (folder / "drivers").mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(path, folder / "drivers")) for path in sorted((HERE / "drivers").glob("d*.py"))]


def extract(checkout: Path, folder: Path, most: int) -> list[Pair]:
    """Write FOLDER/pairs/<name>/current.py and reference.py for at most so many problems of even numbers.

    `checkout` is a clone, bare or not; its HEAD is read. Of each problem the last stage is taken, and of all problems
    those that lie evenly over the levels and numbers.
    """
    names = _git(checkout, "ls-tree", "-r", "--name-only", "HEAD").splitlines()
    asked = _git(checkout, "grep", "-l", "-F", FOCUS, "HEAD", "--", "results").splitlines()
    last: dict[tuple[str, int], Pair] = {}
    for name in (line.removeprefix("HEAD:") for line in asked):
        pair = pair_of(name)
        if pair is None or pair.number % 2:
            continue
        held = last.get((pair.level, pair.number))
        if held is None or (pair.stage, pair.prompt) > (held.stage, held.prompt):
            last[pair.level, pair.number] = pair
    written = []
    for pair in spread([last[key] for key in sorted(last)], most):
        code = code_of(_git(checkout, "show", f"HEAD:{pair.prompt}"))
        references = [name for name in names if re.match(rf"KernelBench/{pair.level}/{pair.number}_", name)]
        if code is None or len(references) != 1:
            print(f"{pair.name}: left out, no code or no reference", file=sys.stderr)
            continue
        place = folder / "pairs" / pair.name
        place.mkdir(parents=True, exist_ok=True)
        (place / "current.py").write_text(code, encoding="utf-8")
        (place / "reference.py").write_text(_git(checkout, "show", f"HEAD:{references[0]}"), encoding="utf-8")
        written.append(pair)
    (folder / "pairs" / "LICENSE").write_text(_git(checkout, "show", "HEAD:LICENSE"), encoding="utf-8")
    return written


def pair_of(name: str) -> Pair | None:
    """What a prompt's path says."""
    found = PROMPT.fullmatch(name)
    return Pair(found[1], found[2], int(found[3]), int(found[4]), name) if found else None


def code_of(prompt: str) -> str | None:
    """The module that a prompt of the seed's kind holds; None where it is of another kind."""
    found = CODE.search(prompt)
    return found[1] if found and FOCUS in prompt and METRICS in prompt else None


def spread(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many, as evenly over the sequence as can be."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[index * len(pairs) // most] for index in range(most)]


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return done.stdout
