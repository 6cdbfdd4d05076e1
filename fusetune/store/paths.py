"""Where configs and runs lie on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import platformdirs

from fusetune.core.text import file_part, slugify

CONFIGS_VARIABLE: Final = "FUSETUNE_CONFIGS"
RUNS_VARIABLE: Final = "FUSETUNE_RUNS"
PINS_FOLDER: Final = "pins"
"""Where the gate's pins lie, in the folder of the configs that they belong to."""

_PACKAGE: Final = Path(__file__).resolve().parent.parent


def config_path(root: Path, target_name: str, op: str) -> Path:
    """The file under `root` that holds the tuned configs of one op on one GPU: `<root>/<gpu>/<op>.yaml`.

    Whatever the names are, it lies in a folder of `root`.
    """
    return root / (slugify(target_name) or "unnamed") / f"{file_part(op)}.yaml"


def config_files(folder: Path) -> list[Path]:
    """The YAML files of configs in a folder and in its folders, one deep: of all GPUs, or of one. Pins are none."""
    deeper = (path for path in folder.glob("*/*.yaml") if path.parent.name != PINS_FOLDER)
    return sorted(path for path in (*folder.glob("*.yaml"), *deeper) if path.is_file())


def search_path() -> list[Path]:
    """The folders that a look-up reads, first one first; some of them may not exist.

    `$FUSETUNE_CONFIGS` (several, separated as in `$PATH`), `./configs`, the user's config folder, and the configs
    that came with fusetune. A folder that is reached twice is listed once.
    """
    listed = os.environ.get(CONFIGS_VARIABLE, "")
    folders = [Path(part).expanduser() for part in listed.split(os.pathsep) if part]
    folders.append(Path("configs"))
    folders.append(platformdirs.user_config_path("fusetune") / "configs")
    shipped = shipped_configs()
    if shipped is not None:
        folders.append(shipped)
    first: dict[Path, Path] = {}
    for folder in folders:
        first.setdefault(folder.resolve(), folder)
    return list(first.values())


def shipped_configs(package: Path = _PACKAGE) -> Path | None:
    """The configs that came with fusetune: inside the package when installed, beside it in a checkout, or None."""
    for folder in (package / "shipped_configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    return None


def runs_dir() -> Path:
    """The folder of the journals: `$FUSETUNE_RUNS`, or `.fusetune/runs` under the working directory."""
    named = os.environ.get(RUNS_VARIABLE)
    return Path(named).expanduser() if named else Path(".fusetune") / "runs"


def find_run(run_id: str, dirs: Iterable[Path]) -> Path | None:
    """The journal of a run, plain or gzipped, in the first of `dirs` that has it; None when none has."""
    # A run's id may come from a file that somebody else wrote: it names a file in these folders, never a way out.
    if not run_id or Path(run_id).name != run_id:
        return None
    for folder in dirs:
        for suffix in (".jsonl", ".jsonl.gz"):
            journal = folder / f"{run_id}{suffix}"
            if journal.is_file():
                return journal
    return None
