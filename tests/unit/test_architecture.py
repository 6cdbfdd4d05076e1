"""What the package weighs: what importing it loads, how long a file is."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fusetune

PACKAGE = Path(fusetune.__file__).parent
HEAVY = ("torch", "triton", "scipy", "rich", "jinja2", "numpy", "libcst")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after the statement."""
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["fusetune", "fusetune.cli.main", "fusetune.core.decision", "fusetune.store.lookup"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "fusetune" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_what_is_heavy_would_be_seen() -> None:
    """Guards the test above: a module that is loaded does show up."""
    assert "numpy" in loaded_by("import numpy")


def test_the_public_names_are_there_without_being_loaded() -> None:
    loaded = loaded_by("import fusetune\nassert {'ModelNew', 'explain'} <= set(dir(fusetune))")
    assert loaded.isdisjoint(HEAVY)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fusetune' has no attribute 'tune_everything'"):
        _ = fusetune.tune_everything


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_over_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("package", ["runtime", "nn"])
def test_no_two_modules_of_what_serves_requests_import_each_other_in_a_circle(package: str) -> None:
    """Imports inside functions count, too: they only hide a circle."""
    found = _imports(PACKAGE / package)
    for module in found:
        reached, waiting = set(), [module]
        while waiting:
            for other in found[waiting.pop()] - reached:
                reached.add(other)
                waiting.append(other)
        assert module not in reached, f"{module} imports itself by way of others"


def _imports(folder: Path) -> dict[str, set[str]]:
    """The modules of a package, each with those of the same package that it imports."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in folder.rglob("*.py")}
    found = {}
    for name, path in modules.items():
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        froms = [node for node in tree if isinstance(node, ast.ImportFrom)]
        named = {node.module or "" for node in froms}
        named |= {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        found[name] = named & modules.keys()
    return found


def test_a_circle_would_be_seen() -> None:
    assert "fusetune.nn.plans" in _imports(PACKAGE / "nn")["fusetune.nn.bound"]
