"""README.md and each page of docs/, followed by somebody without a GPU: its commands in a folder, one after another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from fusetune.measure.nvml import gpu_present
from tests.support.documented import PAGES, ROOT, Shown, shown_in, write_samples
from tests.support.warm import warm_python

pytestmark = pytest.mark.skipif(gpu_present(), reason="there is a GPU here; these tests say what happens without one")

RUN = {page: [shown for shown in shown_in(page) if shown.skip is None] for page in PAGES}
LIMIT_S = 240.0


def environment_of(folder: Path, compiled: Path) -> dict[str, str]:
    """That of a user to whom the folder is home, with `fusetune`, `python` and `torchrun` on the path."""
    here = folder.parent / "bin"
    here.mkdir()
    commands = {
        "fusetune": f'exec "{warm_python()}" -m fusetune "$@"',
        "python": f'exec "{warm_python()}" "$@"',
        "torchrun": f'exec "{sys.executable}" "$3"',
    }
    for name, line in commands.items():
        (here / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (here / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FUSETUNE_", "XDG_"))}
    return {
        **kept,
        "HOME": str(folder.parent),
        "PATH": os.pathsep.join([str(here), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "TRITON_CACHE_DIR": str(compiled),
    }


@pytest.mark.parametrize("page", [page for page, shown in RUN.items() if shown], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_as_they_stand_there(page: Path, tmp_path: Path, compiled: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write_samples(folder)
    sources = {path: path.read_bytes() for path in folder.rglob("*.py")}
    environment = environment_of(folder, compiled)
    for shown in RUN[page]:
        run(shown, folder, environment)
    for path, text in sources.items():
        assert path.read_bytes() == text, f"{path.name} was changed, and nothing said --apply"
    kept = list((tmp_path / ".local" / "state" / "fusetune" / "captures").glob("*/run.json"))
    assert len(kept) == sum("--keep" in shown.text.split() for shown in RUN[page]), "captures that are gone, or stay"


def run(shown: Shown, folder: Path, environment: Mapping[str, str]) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shown.text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        stdin=subprocess.DEVNULL,
    )
    print(f"{time.monotonic() - begun:.1f} s  {shown.place()}: {shown.text}")
    assert done.returncode == shown.code, f"{shown.place()}: {shown.text}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
