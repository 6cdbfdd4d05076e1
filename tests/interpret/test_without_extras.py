"""`pip install fusetune` alone: what serves works, and what wants more says which line of pip brings it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fusetune.core.config import NamedConfig
from fusetune.core.extras import EXTRAS
from fusetune.errors import EXIT_OK, EXIT_USAGE
from tests.interpret.test_run_children import SITE
from tests.support.declared_site import ROOT, serving_environment
from tests.support.launch_entries import write_tuned
from tests.support.programs import served as program
from tests.support.sample import SIZES

PROGRAM = ROOT / "tests" / "support" / "programs" / "served.py"
CONFIGS = str(ROOT / "configs")
Run = Callable[..., subprocess.CompletedProcess[str]]

WANTING: dict[str, tuple[str, ...]] = {
    "sweep": SIZES,
    "tune": (str(PROGRAM), "here", "4096"),
    "gate": ("--static", CONFIGS),
    "export": SIZES,
    "doctor": (),
    "inspect --all": SIZES,
}
"""Commands, and how they are called, that say of themselves that they need the extra `tune`."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_environment(tmp_path_factory.mktemp("serving") / "base")


@pytest.fixture(scope="module")
def interpreting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with NumPy, which Triton's interpreter computes with in place of a GPU."""
    return serving_environment(tmp_path_factory.mktemp("interpreting") / "base", "numpy")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(python: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FUSETUNE_", "PYTHON", "TRITON_"))
        }
        environment = {**kept, "XDG_CONFIG_HOME": str(tmp_path / "home"), **more}
        return subprocess.run(
            [str(python), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    return call


def test_every_public_name_is_there_and_no_package_of_an_extra(python: Path, run: Run) -> None:
    """Guards the others: what is declared for extras alone cannot be imported here."""
    modules = [module for extra in ("tune", "fleet") for module in EXTRAS[extra]]
    there = f"[name for name in {modules} if importlib.util.find_spec(name)]"
    script = f"import fusetune, importlib.util\nfor name in fusetune.__all__: getattr(fusetune, name)\nprint({there})"
    done = run(python, "-c", script)
    assert (done.returncode, done.stdout.strip()) == (EXIT_OK, "[]"), done.stderr


@pytest.mark.parametrize("command", WANTING)
def test_a_command_that_wants_more_says_so_before_it_does_anything(
    python: Path, run: Run, tmp_path: Path, command: str
) -> None:
    done = run(python, "-m", "fusetune", *command.split(), *WANTING[command])
    assert (done.returncode, done.stdout) == (EXIT_USAGE, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: `fusetune {command}` needs scipy, numpy, pebble, ")
    assert line.endswith("`pip install 'fusetune[tune]'` installs what is missing")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("words", [("report", "--shipped", "--limit", "1"), ("targets",), ("env", "--json")])
def test_what_shows_works_with_the_base_alone(python: Path, run: Run, words: tuple[str, ...]) -> None:
    done = run(python, "-m", "fusetune", *words)
    assert done.returncode == EXIT_OK, done.stderr
    assert done.stdout


def test_a_program_launches_with_tuned_configs_with_the_base_alone(
    interpreting: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "EVEN": True, "grid_0": 4}
    config = NamedConfig(BLOCK=64, num_warps=1, num_stages=2)
    before = NamedConfig(BLOCK=1024, num_warps=2, num_stages=3)
    file = write_tuned(tmp_path / "configs", program.add, problem, config, before=before)
    text = file.read_text(encoding="utf-8")  # As a script the program is another module.
    for module in ("tests.support.programs.", "tests_support_programs_"):
        text = text.replace(module, "")
    file.with_name(file.name.replace("tests_support_programs_", "")).write_text(text, encoding="utf-8")
    file.unlink()
    words = ("-m", "fusetune", "run", "--report", "served.json", str(PROGRAM), "here", "4096")
    done = run(interpreting, *words, PYTHONPATH=str(tmp_path), TRITON_INTERPRET="1")
    assert done.returncode == EXIT_OK, done.stderr
    told = json.loads((tmp_path / "served.json").read_text(encoding="utf-8"))
    applied = {one["name"]: one["applied"] for one in told["kernels"]}
    assert [(one["rung"], one["constants"]) for one in applied["add"]] == [("exact", {"BLOCK": 64})]
    assert told["trials"] == 0


AUTOTUNED = """
import torch, triton, triton.language as tl
import fusetune

@fusetune.autotune(configs=[triton.Config({"BLOCK": 128}, num_warps=2)], key=["n"])
@triton.jit
def add(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) + 1.0, mask=at < n)

x, y = torch.arange(300.0), torch.zeros(300)
add[lambda meta: (triton.cdiv(300, meta["BLOCK"]),)](x, y, 300)
print(torch.equal(y, x + 1))
"""


def test_the_decorator_works_with_the_base_alone(interpreting: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(AUTOTUNED, encoding="utf-8")
    done = run(interpreting, "own.py", TRITON_INTERPRET="1")
    assert (done.returncode, done.stdout.strip()) == (EXIT_OK, "True"), done.stderr
