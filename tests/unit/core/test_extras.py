"""What the base brings, what an extra, and what is said where one is not installed."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fusetune
from fusetune.core import extras
from fusetune.core.extras import EXTRAS, extra_of, need
from fusetune.errors import EXIT_USAGE, MissingPackageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(fusetune.__file__).parent
PROJECT: dict[str, Any] = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITH_THE_TOOL = {"ncu_report"}
"""Comes with Nsight Compute, and is looked for where that is."""
SERVES = ("runtime", "nn", "capture/serving", "ops", "store", "core", "report", "code/source.py", "code/specialize.py")
"""What a process that launches with tuned configs loads, and what shows them."""


def named(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"fusetune"}


def at_once(path: Path) -> set[str]:
    """Those that it imports when it is loaded itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_whatever_the_package_imports_is_in_the_base_or_in_an_extra() -> None:
    base = named(PROJECT["dependencies"])
    distributions = packages_distributions()
    undeclared: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for module in imported(path) - WITH_THE_TOOL:
            packages = {canonicalize_name(one) for one in distributions.get(module, ())} | {module}
            if not packages & base and extra_of(module) is None:
                undeclared.setdefault(module, []).append(str(path.relative_to(PACKAGE)))
    assert undeclared == {}


def test_the_base_has_what_serves_and_nothing_more() -> None:
    allowed = {"torch", "triton", "msgspec", "pyyaml", "filelock", "platformdirs", "click", "rich"}
    assert named(PROJECT["dependencies"]) == allowed


def test_the_table_of_extras_is_that_of_the_distribution() -> None:
    declared = PROJECT["optional-dependencies"]
    assert {extra: {*modules.values()} for extra, modules in EXTRAS.items()} == {
        extra: named(declared[extra]) for extra in EXTRAS
    }


def test_the_extra_for_developers_has_all_that_tests_run() -> None:
    (own,) = (one for one in map(Requirement, PROJECT["optional-dependencies"]["dev"]) if one.name == "fusetune")
    assert {"tune", "report"} <= own.extras


@pytest.mark.parametrize("place", SERVES)
def test_what_serves_loads_no_package_of_an_extra_with_itself(place: str) -> None:
    found = PACKAGE / place
    for path in [found] if found.suffix else found.rglob("*.py"):
        assert not {module for module in at_once(path) if extra_of(module)}, path


def test_such_an_import_would_be_seen() -> None:
    """Guards the test above."""
    assert extra_of("numpy") == ("tune", "numpy")
    assert "numpy" in at_once(PACKAGE / "tune" / "race.py")


def test_what_is_installed_is_enough() -> None:
    need("tune", "a test")


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ({"scipy"}, "`fusetune sweep` needs scipy, which is not installed; "),
        ({"pynvml", "scipy"}, "`fusetune sweep` needs scipy and nvidia-ml-py, which are not installed; "),
        ({"black", "libcst", "scipy"}, "`fusetune sweep` needs scipy, libcst and black, which are not installed; "),
    ],
)
def test_what_is_not_installed_is_one_sentence_with_the_line_for_pip(
    monkeypatch: pytest.MonkeyPatch, gone: set[str], told: str
) -> None:
    monkeypatch.setattr(extras, "_is_there", lambda module: module not in gone)
    with pytest.raises(MissingPackageError) as stop:
        need("tune", "`fusetune sweep`")
    assert str(stop.value) == f"{told}`pip install 'fusetune[tune]'` installs what is missing"
    assert stop.value.exit_code == EXIT_USAGE
