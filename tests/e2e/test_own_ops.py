"""Ops of a user's own, from files that name four members: swept, reported, gated and compared as ours are."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.sample import OP, PLACE
from tests.support.warm import warm_python

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"
ADD = f"{EXAMPLES / 'vector_add.py'}:SPEC"
SIZES = {
    "vector_add": ("n=1048576",),
    "row_softmax": ("rows=512", "columns=1000"),
    "rms_norm": ("rows=512", "columns=1024"),
    "rms_norm_in_place": ("rows=512", "columns=1024"),
    "matmul_leaky_relu": ("m=256", "n=256", "k=128"),
}

PLACES = {"rms_norm_in_place": f"{EXAMPLES / 'rms_norm.py'}:IN_PLACE"}


def fusetune(folder: Path, *arguments: str, where: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    command = [warm_python(), "-m", "fusetune", *arguments]
    environment = {**os.environ, "FUSETUNE_CONFIGS": str(folder / "configs"), "XDG_STATE_HOME": str(folder / "state")}
    environment |= more
    return subprocess.run(command, cwd=where or folder, capture_output=True, text=True, check=False, env=environment)


def sized(name: str) -> list[str]:
    return [word for size in SIZES[name] for word in ("--size", size)]


def test_every_example_has_forty_lines_at_most_with_its_kernel() -> None:
    lines = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lines.keys() == SIZES.keys() - PLACES.keys()
    assert {name: count for name, count in lines.items() if count > 40} == {}


@pytest.mark.parametrize("name", SIZES)
def test_an_op_of_a_file_goes_the_whole_way_without_a_gpu(name: str, tmp_path: Path) -> None:
    op = PLACES.get(name, f"{EXAMPLES / f'{name}.py'}:SPEC")
    swept = fusetune(tmp_path, "sweep", "--op", op, *sized(name), "--target", "rtx4090")
    assert swept.returncode == 0, swept.stderr
    assert f"{name} has no cost model" in swept.stdout + swept.stderr
    assert f"First three by the resources of the compiled kernels; {name} has no cost model:" in swept.stdout
    assert "by the cost model" not in swept.stdout
    file = tmp_path / "configs" / "nvidia-geforce-rtx-4090" / f"{name}.yaml"
    (entry,) = yaml.safe_load(file.read_text())["entries"]
    assert entry["problem"] == {key: int(value) for key, value in (size.split("=") for size in SIZES[name])}
    assert (entry["evidence"], entry["verdict"]) == ("predicted", "unverified")
    assert entry["config"]["num_warps"] == 4, "BASELINE, since nothing was timed and no model says that another gains"
    reported = fusetune(tmp_path, "report", "--format", "json")
    assert reported.returncode == 0, reported.stderr
    (row,) = (row for row in json.loads(reported.stdout)["rows"] if row["op"] == name)
    assert (row["config"], row["problem"]) == (entry["config"], entry["problem"])
    page = fusetune(tmp_path, "report", "--html", "page.html")
    assert page.returncode == 0, page.stderr
    compared = fusetune(tmp_path, "compare", str(file), str(file))
    assert compared.returncode == 0, compared.stderr
    # Named once, the op is found from any folder: by the file of configs, by its name.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inspected = fusetune(tmp_path, "inspect", "--op", name, *sized(name), "--json", where=elsewhere)
    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout)["estimate"] is None
    gated = fusetune(tmp_path, "gate", "--static", str(tmp_path / "configs"), where=elsewhere)
    assert gated.returncode == 0, gated.stderr
    assert "gate: 1 ok" in gated.stdout
    swept = fusetune(tmp_path, "sweep", "--op", name, *sized(name), "--target", "rtx4090", where=elsewhere)
    assert swept.returncode == 0, swept.stderr


def test_a_file_of_configs_alone_has_nothing_imported_until_the_op_is_named(tmp_path: Path) -> None:
    source = tmp_path / "ops" / "vector_add.py"
    source.parent.mkdir()
    source.write_text((EXAMPLES / "vector_add.py").read_text() + f"\nopen({str(tmp_path / 'imported')!r}, 'w')\n")
    op = "ops/vector_add.py:SPEC"
    swept = fusetune(tmp_path, "sweep", "--op", op, *sized("vector_add"), "--target", "rtx4090")
    assert swept.returncode == 0, swept.stderr
    file = tmp_path / "configs" / "nvidia-geforce-rtx-4090" / "vector_add.yaml"
    assert yaml.safe_load(file.read_text())["spec"] == op
    (tmp_path / "imported").unlink()
    stranger = {"XDG_STATE_HOME": str(tmp_path / "of another user")}
    refused = fusetune(tmp_path, "gate", "--static", "configs", **stranger)
    assert refused.returncode == 2
    assert f"op 'vector_add' is of {source}:SPEC, which is imported only where you name it yourself" in refused.stderr
    for command in (("report",), ("report", "--html", "page.html"), ("compare", str(file), str(file))):
        assert fusetune(tmp_path, *command, **stranger).returncode == 0
    assert not (tmp_path / "imported").exists()
    gated = fusetune(tmp_path, "gate", "--static", "configs", "--op", op, **stranger)
    assert gated.returncode == 0, gated.stderr
    assert fusetune(tmp_path, "gate", "--static", "configs", **stranger).returncode == 0


MISTAKES = {
    "blok": (
        '{"BLOCK": config.BLOCK}',
        '{"BLOK": config.BLOCK}',
        "its launches() give add a BLOK, which it does not take",
    ),
    "options": ("config.options()", '{"warps": 4}', "its launches() give add the option warps, which Triton does not"),
    "dtype": ('"float32"', '"float31"', "its operands() give x the dtype 'float31'; write one of float64, float32"),
    "raises": ('tensors["x"]', 'tensors["a"]', "its launches() fails: KeyError: 'a' (wrong_raises.py:27)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_op_is_one_line_and_no_work_is_begun(mistake: str, tmp_path: Path) -> None:
    old, new, told = MISTAKES[mistake]
    source = (EXAMPLES / "vector_add.py").read_text()
    assert old in source
    (tmp_path / f"wrong_{mistake}.py").write_text(source.replace(old, new))
    op = ("--op", f"wrong_{mistake}.py:SPEC", "--size", "n=1024")
    for command in (("sweep", *op, "--target", "h200"), ("sweep", *op), ("inspect", *op), ("profile", *op)):
        done = fusetune(tmp_path, *command)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"Error: op vector_add: {told}"), done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert not (tmp_path / "configs").exists()
    assert not (tmp_path / ".fusetune").exists()


def test_an_op_of_which_nothing_but_baseline_can_run_ends_with_3_and_a_journal(tmp_path: Path) -> None:
    source = (EXAMPLES / "vector_add.py").read_text()
    rejecting = """
    def reject(self, config, problem, target):
        from fusetune.core.space import Rejection
        return None if config == self.baseline(problem) else Rejection("too_odd", "not today")

    def reference("""
    (tmp_path / "odd.py").write_text(source.replace("\n    def reference(", rejecting))
    done = fusetune(tmp_path, "sweep", "--op", "odd.py:SPEC", "--size", "n=1024", "--target", "h200")
    assert done.returncode == 3, done.stderr
    assert "nothing is left beside BASELINE, since none of 29 other candidates can be used: 29 too_odd" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "configs").exists()
    (journal,) = (tmp_path / ".fusetune" / "runs").glob("*.jsonl")
    reported = fusetune(tmp_path, "report", "--run", journal.stem)
    assert reported.returncode == 0, reported.stderr
    assert "nothing is left beside BASELINE" in " ".join(reported.stdout.split())


def test_a_built_in_op_s_name_is_nobody_else_s(tmp_path: Path) -> None:
    source = (EXAMPLES / "vector_add.py").read_text().replace('name = "vector_add"', f'name = "{OP}"')
    (tmp_path / "taken.py").write_text(source)
    done = fusetune(tmp_path, "sweep", "--op", "taken.py:SPEC", "--size", "n=1024", "--target", "h200")
    assert done.returncode == 2, done.stderr
    assert f"is named {OP}, as the built-in op {PLACE} is" in done.stderr


def test_a_file_that_is_not_there_and_a_size_that_is_none_are_one_line(tmp_path: Path) -> None:
    for arguments, told in (
        (("--op", "nowhere.py:SPEC", "--size", "n=1"), "there is no file nowhere.py"),
        (("--op", ADD, "--size", "n"), "--size 'n': write NAME=VALUE"),
        (
            ("--op", ADD, "--size", "m=4"),
            "op vector_add: its operands() fails: AttributeError",
        ),
    ):
        done = fusetune(tmp_path, "sweep", *arguments)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "configs").exists()
