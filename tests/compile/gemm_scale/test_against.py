"""This repository's own HEAD as the other revision: checked out, imported beside this tree, launched and compiled."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fusetune.compiler.build import compile_launch
from fusetune.core.target import find_target
from fusetune.errors import UnsupportedProblemError, UsageError
from fusetune.gate import against
from fusetune.gate.against import Revision
from fusetune.ops.gemm_scale.batch_norm import SPEC as BATCH_NORM
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import KernelSpec, Launch, TileDescriptor, abstract_tensors

ROOT = Path(__file__).parents[3]
PROBLEM = make_problem(128, 512, 1024, "float32")
H200 = find_target("h200")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


pytestmark = pytest.mark.skipif(
    subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, check=False).returncode != 0,
    reason="this copy of the repository has no git history to compare with",
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Revision]:
    with Revision("HEAD", tmp_path_factory.mktemp("against")) as revision:
        yield revision


def _launches(spec: KernelSpec, config: Config, problem=PROBLEM) -> list[Launch]:
    launches = spec.launches(problem, config, abstract_tensors(spec, problem, config, H200))
    assert all(isinstance(launch, Launch) for launch in launches)
    return list(launches)


def test_the_other_revision_launches_its_own_kernels_with_this_one_s_types(head: Revision) -> None:
    spec = head.beside(SPEC, "gemm_scale")
    (ours,), (theirs,) = _launches(spec, BASELINE), _launches(spec, head.config(BASELINE))
    assert ours.kernel.fn.__module__ == "fusetune.ops.gemm_scale.tiles"
    assert theirs.kernel.fn.__module__.startswith("fusetune_at_")
    assert theirs.kernel.fn.__module__.endswith(".ops.gemm_scale.tiles")
    assert type(theirs) is Launch
    assert theirs.grid == ours.grid


def test_what_the_other_revision_launches_compiles(head: Revision) -> None:
    spec = head.beside(SPEC, "gemm_scale")
    (launch,) = _launches(spec, head.config(BASELINE))
    assert compile_launch(launch, H200).registers > 0


def test_descriptors_and_workspaces_come_over_too(head: Revision) -> None:
    spec = head.beside(BATCH_NORM, "gemm_scale_bn")
    problem = msgspec.structs.replace(PROBLEM, mode="train", M=4096)
    config = Config(variant="persistent", BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=3)
    first, *_ = _launches(spec, head.config(config), problem)
    assert type(first.arguments["x_desc"]) is TileDescriptor
    assert spec.workspace(problem, head.config(config)) == spec.workspace(problem, config)


def test_another_process_with_this_one_s_path_can_load_it(head: Revision) -> None:
    spec = head.beside(SPEC, "gemm_scale")
    program = "import sys; sys.path[:] = sys.argv[1:]; import pickle; print(pickle.load(sys.stdin.buffer).name)"
    done = subprocess.run(
        [sys.executable, "-c", program, *sys.path], input=pickle.dumps(spec), capture_output=True, check=False
    )
    assert done.stdout.decode().strip() == "gemm_scale", done.stderr.decode()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with Revision("HEAD", tmp_path) as revision:
        alias = type(revision.beside(SPEC, "gemm_scale")._other).__module__.partition(".")[0]
        # Not even meanwhile: who is killed with -9 takes nothing out again.
        assert str(tmp_path) not in _git("worktree", "list")
    assert not any(name.startswith(alias) and str(tmp_path) in str(sys.modules[name]) for name in sys.modules)
    assert str(tmp_path) not in sys.path
    assert list(tmp_path.iterdir()) == []


def test_worktrees_that_an_older_version_left_are_taken_out_where_they_are_gone_and_no_other(tmp_path: Path) -> None:
    repository = tmp_path / "repository"

    def git(*arguments: str) -> str:
        named = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(named, capture_output=True, text=True, check=True).stdout

    (repository / "package").mkdir(parents=True)
    (repository / "package" / "__init__.py").write_text("")
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    git("add", "-A")
    git("commit", "-qm", "first")
    for name in ("fusetune-against-gone/tree", "fusetune-against-there/tree", "theirs/tree"):
        git("worktree", "add", "--detach", str(tmp_path / name))
    for name in ("fusetune-against-gone", "theirs"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "scratch").mkdir()
    with Revision("HEAD", tmp_path / "scratch", package=repository / "package"):
        listed = git("worktree", "list")
    assert "fusetune-against-gone" not in listed
    assert "fusetune-against-there" in listed
    assert "theirs" in listed
    assert "scratch" not in listed
    assert git("status", "--porcelain") == ""


def test_a_revision_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--against: .* has no revision 'no-such-branch'"):
        Revision("no-such-branch", tmp_path)
    assert str(tmp_path) not in _git("worktree", "list")


def test_a_folder_outside_of_git_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is in no git repository"):
        Revision("HEAD", tmp_path, package=tmp_path)


def test_an_op_of_another_package_is_told(head: Revision) -> None:
    with pytest.raises(UsageError, match="the op elsewhere:SPEC is not among them"):
        head.beside(SPEC, "elsewhere:SPEC")


def test_what_the_other_revision_does_not_support_is_told_apart_from_what_fails_there(
    head: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = head.beside(SPEC, "gemm_scale")
    later = head.config(Config("a_later_variant"))
    with pytest.raises(CannotLaunchError, match="there is no variant 'a_later_variant'"):
        _launches(spec, later)
    with pytest.raises(KeyError):
        spec.launches(PROBLEM, head.config(BASELINE), {})  # Without tensors: a fault, and none of the config's.
    with pytest.raises(UnsupportedProblemError, match="there is no variant"):
        _launches(spec, Config("a_later_variant"))  # This revision's own, which no candidate of a sweep is.
    earlier = msgspec.defstruct("Config", [("variant", str)], forbid_unknown_fields=True)
    monkeypatch.setattr(against, "_types_at", lambda *_: (Problem, earlier))
    with pytest.raises(CannotLaunchError, match="the other revision does not know 64x64x32 w4 s2"):
        _launches(spec, head.config(BASELINE))
