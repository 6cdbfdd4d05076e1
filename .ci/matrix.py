"""The tests of what relies on Triton's private parts, under each Triton that is supported; exit 1 if any fails.

`python .ci/matrix.py [VERSION]... [-- PYTEST ARGUMENT...]`, or `make matrix`. Each Triton is downloaded once into
`.fusetune/tritons/VERSION` (up to 1 GB) and put before the installed one; torch and all else stay as they are. What
stands behind `--` is given to pytest, files and all, instead of TESTS. Nothing here needs a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TRITONS = ROOT / ".fusetune" / "tritons"
VERSIONS = ("3.6.0", "3.7.1", "3.8.0", "3.9.0")
TESTS = (
    "unit/runtime",
    "unit/capture",
    "unit/compiler",
    "compile/test_a*.py",
    "compile/test_benchmarked.py",
    "compile/test_capture*.py",
    "compile/test_gate_of_programs.py",
    "compile/test_jit_signature.py",
    "compile/test_pinned.py",
    "compile/test_roles.py",
    "compile/test_serving*.py",
    "compile/test_stand_in.py",
    "compile/test_together.py",
    "compile/*/test_build.py",
    "compile/*/test_direct.py",
    "compile/*/test_inspect.py",
)
"""Patterns below `tests`: what looks up, launches past the JIT, captures and compiles."""
INTERPRETED = (
    "interpret/test_again.py",
    "interpret/test_autotune_interpreted.py",
    "interpret/test_gate_replays_run.py",
    "interpret/test_installed.py",
    "interpret/test_kept.py",
    "interpret/test_serving.py",
)
"""The same, of what Triton's interpreter runs."""


class CannotRunError(Exception):
    """Nothing can be said of the tests."""


class Row(NamedTuple):
    """How the tests went under one Triton: counts, seconds, and the ids of those that failed."""

    version: str
    passed: int
    skipped: int
    failed: tuple[str, ...]
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Run them all, print a table, and say whether all passed."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="matrix", usage="%(prog)s [VERSION]... [-- PYTEST ARGUMENT...]")
    parser.add_argument("versions", nargs="*", type=release, help=f"of Triton; else {', '.join(VERSIONS)}")
    versions = parser.parse_args(arguments[:at]).versions or VERSIONS
    rows = []
    for version in versions:
        try:
            rows.append(row_of(version, arguments[at + 1 :]))
        except CannotRunError as error:
            print(f"matrix: triton {version}: {error}", file=sys.stderr)
            return 2
    print(table(rows))
    return int(any(row.failed or not row.passed for row in rows))


def release(text: str) -> str:
    """A release, as 3.9.0. Raises ValueError for what is none: a folder is called so."""
    if re.fullmatch(r"\d+\.\d+\.\d+[\w.+]*", text) is None:
        raise ValueError(text)
    return text


def table(rows: Sequence[Row]) -> str:
    """The rows as text, and below them each test that failed."""
    lines = [f"{'triton':<10}{'passed':>8}{'skipped':>9}{'failed':>8}{'seconds':>9}"]
    for row in rows:
        counts = f"{row.passed:>8}{row.skipped:>9}{len(row.failed):>8}{row.seconds:>9.0f}"
        lines.append(f"{row.version:<10}{counts}")
    lines += [f"failed under {row.version}: {name}" for row in rows for name in row.failed]
    return "\n".join(lines)


def row_of(version: str, more: Sequence[str]) -> Row:
    """Run the tests under one Triton; `more` instead of TESTS, where it is given. Raises CannotRunError."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if version != installed("triton"):
        paths.insert(0, str(fetched(version)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    told = [sys.executable, "-c", "import triton; print(triton.__version__, triton.__file__)"]
    loaded = subprocess.run(told, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout
    if loaded.split()[:1] != [version]:
        raise CannotRunError(f"{loaded.strip() or 'none'} is loaded instead; see what PYTHONPATH names")
    print(f"matrix: triton {loaded.strip()}", flush=True)
    begun = time.monotonic()
    parts = [(more, {})] if more else [(files(TESTS), {}), (files(INTERPRETED), {"TRITON_INTERPRET": "1"})]
    tests = [one for part, also in parts for one in reported(version, part, {**environment, **also}).iter("testcase")]
    skipped = sum(test.find("skipped") is not None for test in tests)
    failed = tuple(
        f"{test.get('classname')}::{test.get('name')}"
        for test in tests
        if test.find("failure") is not None or test.find("error") is not None
    )
    return Row(version, len(tests) - skipped - len(failed), skipped, failed, time.monotonic() - begun)


def files(patterns: Sequence[str]) -> list[str]:
    """The files and folders of these patterns. Raises CannotRunError for one that has none."""
    found = []
    for pattern in patterns:
        here = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob(pattern))
        if not here:
            raise CannotRunError(f"there is no tests/{pattern}")
        found += here
    return found


def fetched(version: str) -> Path:
    """The folder of a Triton, downloaded where it is not there. Raises CannotRunError where pip does not get it."""
    place = TRITONS / version
    done = place / ".fetched"  # what broke off is begun anew
    if not done.exists():
        what = ["--quiet", "--no-deps", "--upgrade", "--target", str(place), f"triton=={version}"]
        if subprocess.run([sys.executable, "-m", "pip", "install", *what], check=False).returncode:
            raise CannotRunError("pip did not get it, as it says above")
        done.touch()
    return place


def reported(version: str, tests: Sequence[str], environment: dict[str, str]) -> ET.Element:
    """What pytest writes of a run, whatever came of it. Raises CannotRunError where it wrote nothing."""
    TRITONS.mkdir(parents=True, exist_ok=True)
    path = TRITONS / f"{version}.xml"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={path}", *tests]
    subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if not path.exists():
        raise CannotRunError("pytest did not come to an end, as it says above")
    return ET.parse(path).getroot()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
