"""A git repository, and files of a revision of it beside it. The repository learns nothing of that."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from fusetune.core.trouble import is_recorded_trouble, machine_told, trouble_of_exit
from fusetune.errors import MachineError, UsageError

_WORKTREES: Final = "fusetune-against-"


def repository_of(folder: Path) -> Path:
    """The top of the repository that a folder is in. Raises UsageError where there is no git, or no repository."""
    return Path(_git(folder, "rev-parse", "--show-toplevel", failing="is in no git repository"))


def commit_of(repository: Path, revision: str) -> str:
    """The commit that a revision names. Raises UsageError where there is none."""
    return _git(repository, "rev-parse", "--verify", f"{revision}^{{commit}}", failing=f"has no revision {revision!r}")


def told_revision(revision: str, commit: str) -> str:
    """For people: `main (1a2b3c4d5e6f)`."""
    return revision if revision == commit else f"{revision} ({commit[:12]})"


def check_out(repository: Path, commit: str, tree: Path, pathspec: str) -> None:
    """The files of a commit that git's pathspec takes, as files below `tree`.

    An index of our own says what is there. A worktree would stand in the user's repository until somebody takes it out,
    and a killed process does not.
    """
    index = tree.with_name(f"{tree.name}.index")
    failing = "could not be checked out"
    with machine_told():
        tree.parent.mkdir(parents=True, exist_ok=True)
    try:
        _git(repository, "read-tree", commit, failing=failing, index=index)
        listed = _git(repository, "ls-files", "-z", "--", pathspec, failing=failing, index=index)
        _git(
            repository,
            "checkout-index",
            "--force",
            f"--prefix={tree}/",
            "-z",
            "--stdin",
            failing=failing,
            index=index,
            given=listed,
        )
    finally:
        index.unlink(missing_ok=True)


def forget_worktrees(repository: Path) -> None:
    """Take out of the repository worktrees that a killed fusetune of old left there, and that are gone."""
    listed = _git(repository, "worktree", "list", "--porcelain", failing="does not list its worktrees")
    for line in listed.splitlines():
        tree = Path(line.removeprefix("worktree "))
        ours = line.startswith("worktree ") and tree.name == "tree" and tree.parent.name.startswith(_WORKTREES)
        if ours and not tree.exists():
            _git(repository, "worktree", "remove", "--force", str(tree), failing=f"keeps the worktree {tree}")


def _git(folder: Path, *arguments: str, failing: str, index: Path | None = None, given: str = "") -> str:
    environment = os.environ if index is None else {**os.environ, "GIT_INDEX_FILE": str(index)}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            input=given,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environment,
            check=False,
        )
    except OSError as error:
        raise UsageError(f"--against needs git: {error.strerror or error}") from error
    if done.returncode:
        ended = trouble_of_exit(done.returncode)
        if ended is not None:
            raise MachineError(f"--against: git {ended.detail}")
        if is_recorded_trouble(done.stderr):
            raise MachineError(f"--against: {folder} {failing} ({done.stderr.strip().splitlines()[0][:300]})")
        told = done.stderr.strip().splitlines()
        raise UsageError(f"--against: {folder} {failing}{f' ({told[-1]})' if told else ''}")
    return done.stdout.strip()
