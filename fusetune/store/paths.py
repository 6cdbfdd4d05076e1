"""Where configs and runs lie on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import platformdirs

from fusetune.core.brief import brief
from fusetune.core.text import file_part, slugify
from fusetune.errors import ConfigFileError, UsageError
from fusetune.store.regular import is_folder, is_regular, reason

CONFIGS_VARIABLE: Final = "FUSETUNE_CONFIGS"
RUNS_VARIABLE: Final = "FUSETUNE_RUNS"
PINS_FOLDER: Final = "pins"
"""Where the gate's pins lie, in the folder of the configs that they belong to."""

LATEST: Final = "latest"
"""Names the newest run."""

_MOST_RUNS: Final = 4
_FIX: Final = "see that it can be read, or set FUSETUNE_CONFIGS, HOME or XDG_CONFIG_HOME to other folders"
_PACKAGE: Final = Path(__file__).resolve().parent.parent


def config_path(root: Path, target_name: str, op: str) -> Path:
    """The file under `root` that holds the tuned configs of one op on one GPU: `<root>/<gpu>/<op>.yaml`.

    Whatever the names are, it lies in a folder of `root`.
    """
    return root / (slugify(target_name) or "unnamed") / f"{file_part(op)}.yaml"


def config_files(folder: Path) -> list[Path]:
    """The YAML files of configs in a folder and in its folders, one deep: of all GPUs, or of one. Pins are none.

    What has the name of one and is no file is listed too, for its reader to object to. Raises ConfigFileError where a
    folder cannot be looked through; none there, or none of that name, holds nothing.
    """
    names = _names(folder)
    found = [folder / name for name in names if _is_config(folder / name)]
    for name in names:
        if name != PINS_FOLDER and is_folder(folder / name):
            found += [path for inner in _names(folder / name) if _is_config(path := folder / name / inner)]
    return sorted(found)


def config_paths(roots: Iterable[Path]) -> list[Path]:
    """The YAML files in the roots and in their folders, one deep, each once, in the order of the roots."""
    found: dict[str, Path] = {}
    for root in roots:
        for path in config_files(root):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _is_config(path: Path) -> bool:
    # Editors leave links to nowhere, `.#name.yaml`.
    return path.name.endswith(".yaml") and not is_folder(path) and (path.name[0] != "." or is_regular(path))


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise ConfigFileError(f"cannot look into {brief(folder)}: {_why(error)}; {_FIX}") from error


def search_path() -> list[Path]:
    """The folders that a look-up reads, first one first; some of them may not exist.

    `$FUSETUNE_CONFIGS` (several, separated as in `$PATH`), `./configs`, the user's config folder, and the configs
    that came with fusetune. A folder that is reached twice is listed once. Raises ConfigFileError where one cannot be
    looked into.
    """
    folders, troubles = reachable_search_path()
    if troubles:
        raise ConfigFileError(troubles[0])
    return folders


def own_search_path() -> list[Path]:
    """The same without the folder that came with fusetune, unless another name leads there: `./configs` in a clone.

    Raises as `search_path` does.
    """
    shipped = shipped_configs()
    return [folder for folder in search_path() if folder != shipped]


def is_shipped(file: Path) -> bool:
    """Whether a file of configs lies in the folder that came with fusetune, by whatever name."""
    shipped = shipped_configs()
    return shipped is not None and Path(os.path.realpath(file)).is_relative_to(os.path.realpath(shipped))


def reachable_search_path() -> tuple[list[Path], list[str]]:
    """The folders of the search path that are not there or can be looked into, and what is wrong with the others."""
    wanted, troubles = _named_folders(CONFIGS_VARIABLE)
    wanted.append(Path("configs"))
    wanted.append(platformdirs.user_config_path("fusetune") / "configs")
    shipped = shipped_configs()
    if shipped is not None:
        wanted.append(shipped)
    first: dict[tuple[object, ...], Path] = {}
    for folder in wanted:
        try:
            first.setdefault(_identity(folder), folder)
        except (OSError, ValueError) as error:
            troubles.append(f"cannot look into {brief(folder)}: {_why(error)}; {_FIX}")
    return list(first.values()), troubles


def _named_folders(variable: str) -> tuple[list[Path], list[str]]:
    """The folders that an environment variable names, and what is wrong with those that cannot be any."""
    folders: list[Path] = []
    troubles: list[str] = []
    for part in os.environ.get(variable, "").split(os.pathsep):
        try:
            folders += [Path(part).expanduser()] if part else []
        except RuntimeError as error:  # there is no such user, or no home
            troubles.append(f"{variable}: {brief(part)!r} cannot be a folder: {error}; correct the variable")
    return folders, troubles


def _identity(folder: Path) -> tuple[object, ...]:
    """The same for two names of one folder. Raises OSError or ValueError where nobody can look into it."""
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_absolute():
            Path.cwd()  # raises where the working directory has been removed
        return (os.fspath(folder),)
    if stat.S_ISDIR(found.st_mode):
        (folder / "..").stat()  # raises where it may not be searched
    return found.st_dev, found.st_ino


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return reason(error)
    return f"this cannot be a name ({error})"


def shipped_configs(package: Path = _PACKAGE) -> Path | None:
    """The configs that came with fusetune: inside the package when installed, beside it in a checkout, or None."""
    for folder in (package / "shipped_configs", package.parent / "configs"):
        if is_folder(folder):
            return folder
    return None


def runs_dir() -> Path:
    """The folder of the journals: `$FUSETUNE_RUNS`, or `.fusetune/runs` under the working directory.

    Raises UsageError where the variable cannot name a folder.
    """
    named = os.environ.get(RUNS_VARIABLE)
    try:
        return Path(named).expanduser() if named else Path(".fusetune") / "runs"
    except RuntimeError as error:
        raise UsageError(
            f"{RUNS_VARIABLE}: {brief(named)!r} cannot be a folder: {error}; correct the variable"
        ) from error


def captures_folder() -> Path:
    """The folder of the runs of programs whose launches are kept; it may not exist."""
    return platformdirs.user_state_path("fusetune") / "captures"


def find_run(run_id: str, dirs: Iterable[Path]) -> Path | None:
    """The journal of a run, plain or gzipped, in the first of `dirs` that has it; None when none has.

    A name that cannot be one of a file names no run.
    """
    # A run's id may come from a file that somebody else wrote: it names a file in these folders, never a way out.
    if not run_id or Path(run_id).name != run_id:
        return None
    for folder in dirs:
        for suffix in (".jsonl", ".jsonl.gz"):
            journal = folder / f"{run_id}{suffix}"
            if is_regular(journal):
                return journal
    return None


def named_run(name: str, dirs: Iterable[Path]) -> str:
    """The id of the run that is meant: `latest`, a whole id, or the beginning of one. A name of no run as it is.

    Ids begin with the time of their begin, so that the last in order is the latest. Raises UsageError where several
    begin so.
    """
    folders = list(dirs)
    if find_run(name, folders) is not None:
        return name
    known = sorted({run for folder in folders for run in run_ids(folder)})
    if name == LATEST:
        return known[-1] if known else name
    begun = [run for run in known if name and run.startswith(name)]
    if len(begun) > 1:
        more = f" and {len(begun) - _MOST_RUNS} more" if len(begun) > _MOST_RUNS else ""
        told = ", ".join(map(brief, begun[-_MOST_RUNS:]))
        raise UsageError(f"{len(begun)} runs begin with {brief(name)}: {told}{more}; give more of the id")
    return begun[0] if begun else name


def run_ids(folder: Path) -> list[str]:
    """The ids of the runs whose journals lie in a folder; none where it is no folder."""
    try:
        names = [path.name for path in folder.iterdir() if is_regular(path)]
    except (OSError, ValueError):  # What is no folder has no runs.
        return []
    return [name.rpartition(".jsonl")[0] for name in names if name.endswith((".jsonl", ".jsonl.gz"))]
