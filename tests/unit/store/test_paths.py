from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.errors import UsageError
from fusetune.store import paths
from fusetune.store.paths import (
    config_files,
    config_path,
    find_run,
    is_shipped,
    named_run,
    own_search_path,
    runs_dir,
    search_path,
    shipped_configs,
)
from tests.support.sample import OP


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("FUSETUNE_CONFIGS", raising=False)
    monkeypatch.delenv("FUSETUNE_RUNS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths.platformdirs, "user_config_path", lambda name: tmp_path / "home" / name)


def test_a_gpu_has_a_folder_and_an_op_a_file() -> None:
    path = config_path(Path("configs"), "NVIDIA GeForce RTX 4090", OP)
    assert path == Path(f"configs/nvidia-geforce-rtx-4090/{OP}.yaml")


def test_configs_are_found_in_a_folder_of_all_gpus_and_in_that_of_one_and_pins_are_none() -> None:
    names = (f"gpu/{OP}.yaml", f"gpu/pins/{OP}.yaml", f"other/{OP}.yaml", "gpu/a.yaml/b.yaml", "n.txt")
    for name in names:
        (Path("configs") / name).parent.mkdir(parents=True, exist_ok=True)
        (Path("configs") / name).touch()
    found = {str(path.relative_to("configs")) for path in config_files(Path("configs"))}
    assert found == {f"gpu/{OP}.yaml", f"other/{OP}.yaml"}
    assert config_files(Path("configs/gpu")) == [Path("configs/gpu/a.yaml/b.yaml"), Path(f"configs/gpu/{OP}.yaml")]
    assert config_files(Path("nowhere")) == []


def test_folders_are_searched_from_the_most_personal_to_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSETUNE_CONFIGS", os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")]))
    monkeypatch.setattr(paths, "shipped_configs", lambda: tmp_path / "shipped")
    assert search_path() == [
        tmp_path / "one",
        tmp_path / "two",
        Path("configs"),
        tmp_path / "home" / "fusetune" / "configs",
        tmp_path / "shipped",
    ]


def test_a_folder_reached_twice_keeps_its_first_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work" / "configs"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("FUSETUNE_CONFIGS", str(tmp_path / "link"))
    monkeypatch.setattr(paths, "shipped_configs", lambda: folder)
    assert search_path() == [tmp_path / "link", tmp_path / "home" / "fusetune" / "configs"]


def test_without_shipped_configs_the_search_ends_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "shipped_configs", lambda: None)
    assert search_path() == [Path("configs"), tmp_path / "home" / "fusetune" / "configs"]


def test_a_tilde_in_the_variables_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FUSETUNE_CONFIGS", "~/tuned")
    monkeypatch.setenv("FUSETUNE_RUNS", "~/runs")
    assert search_path()[0] == tmp_path / "tuned"
    assert runs_dir() == tmp_path / "runs"


def test_a_wheels_own_configs_come_before_those_beside_the_package(tmp_path: Path) -> None:
    package = tmp_path / "site" / "fusetune"
    package.mkdir(parents=True)
    assert shipped_configs(package) is None
    (tmp_path / "site" / "configs").mkdir()
    assert shipped_configs(package) == tmp_path / "site" / "configs"
    (package / "shipped_configs").mkdir()
    assert shipped_configs(package) == package / "shipped_configs"


def test_runs_lie_under_the_working_directory_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_dir() == Path(".fusetune/runs")
    monkeypatch.setenv("FUSETUNE_RUNS", str(tmp_path))
    assert runs_dir() == tmp_path


def test_a_run_is_found_plain_or_gzipped_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (second / "a.jsonl").touch()
    (second / "b.jsonl.gz").touch()
    (first / "b.jsonl").touch()
    (first / "a.json").touch()
    assert find_run("a", [first, second]) == second / "a.jsonl"
    assert find_run("b", [second, first]) == second / "b.jsonl.gz"
    assert find_run("c", [first, second]) is None


@pytest.mark.parametrize("run_id", ["../secret", "sub/secret", "", ".."])
def test_a_run_id_never_leads_out_of_the_folders(run_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    (folder / "sub").mkdir(parents=True)
    for outside in (tmp_path / "secret.jsonl", folder / "sub" / "secret.jsonl", folder / ".jsonl"):
        outside.touch()
    assert find_run(run_id, [folder]) is None


def test_importing_the_store_loads_no_gpu_library_and_no_scipy() -> None:
    modules = "journal, lookup, migrations, paths, schema, yaml_files, yaml_reader"
    code = (
        f"import sys; from fusetune.store import {modules}; "
        "print([name for name in ('torch', 'triton', 'scipy', 'numpy', 'click', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_is_meant_by_its_id_by_the_begin_of_it_or_as_the_latest(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first / "20261123T1-aa.jsonl", second / "20261124T1-bb.jsonl.gz", second / "20261124T2-cc.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folders = [first, second, tmp_path / "nowhere"]
    assert named_run("latest", folders) == "20261124T2-cc"
    assert named_run("latest", [first]) == "20261123T1-aa"
    assert named_run("20261124T1-bb", folders) == "20261124T1-bb"
    assert named_run("20261123", folders) == "20261123T1-aa"
    for of_none in ("2025", "", "latest-of-all"):
        assert named_run(of_none, folders) == of_none
    assert named_run("latest", [tmp_path / "nowhere"]) == "latest"
    with pytest.raises(UsageError, match=r"^2 runs begin with 20261124: 20261124T1-bb, 20261124T2-cc; give more of"):
        named_run("20261124", folders)
    (first / "20261124.jsonl").touch()
    assert named_run("20261124", folders) == "20261124", "a whole id before what begins with it"


def test_ones_own_configs_are_those_that_did_not_come_with_fusetune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "shipped_configs", lambda: tmp_path / "shipped")
    user = tmp_path / "home" / "fusetune" / "configs"
    assert own_search_path() == [Path("configs"), user]
    (tmp_path / "shipped" / "gpu").mkdir(parents=True)
    Path("configs").symlink_to(tmp_path / "shipped")
    assert own_search_path() == [Path("configs"), user]
    assert is_shipped(Path("configs/gpu/x.yaml"))
    assert not is_shipped(user / "gpu" / "x.yaml")
