"""The tree of errors, and the exit codes that belong to it."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import fusetune
from fusetune import errors
from fusetune.core.target import find_target
from fusetune.errors import FusetuneError

EXIT_CODES = {
    "EXIT_OK": 0,
    "EXIT_REGRESSION": 1,
    "EXIT_USAGE": 2,
    "EXIT_INCONCLUSIVE": 3,
    "EXIT_NO_GPU": 4,
    "EXIT_WRONG_RESULT": 5,
    "EXIT_PROGRAM": 6,
    "EXIT_INTERNAL": 70,
    "EXIT_HANGUP": 129,
    "EXIT_INTERRUPTED": 130,
    "EXIT_BROKEN_PIPE": 141,
    "EXIT_TERMINATED": 143,
}
CLASSES = {name: found for name, found in vars(errors).items() if inspect.isclass(found)}
PACKAGE = Path(fusetune.__file__).parent


def documented_tree() -> dict[str, tuple[str, int | None]]:
    """The parent and the exit code of each class that the module's docstring draws; None for the base's range."""
    tree: dict[str, tuple[str, int | None]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r" {4}(?P<branch>[| ]*(?:\+-- )?)(?P<name>[A-Z]\w+Error) +(?P<code>\d)(?!\.\.)", line)
        base = re.match(r" {4}(?P<branch>)(?P<name>FusetuneError) +1\.\.6", line)
        found = drawn or base
        if not found:
            continue
        depth = len(found["branch"])
        above = [(column, name) for column, name in above if column < depth]
        parent = above[-1][1] if above else "Exception"
        tree[found["name"]] = (parent, int(drawn["code"]) if drawn else None)
        above.append((depth, found["name"]))
    return tree


TREE = documented_tree()


def test_the_docstring_draws_every_class_and_no_other() -> None:
    assert set(TREE) == set(CLASSES)
    assert len(TREE) >= 12


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_hangs_where_the_docstring_draws_it_with_the_code_that_stands_there(name: str) -> None:
    parent, code = TREE[name]
    first, *others = CLASSES[name].__bases__
    assert first.__name__ == parent
    assert all(issubclass(other, Exception) for other in others), "Python's own, beside ours"
    assert code in {CLASSES[name].exit_code, None}


def test_only_the_base_is_drawn_without_a_code_of_its_own() -> None:
    assert [name for name, (_, code) in TREE.items() if code is None] == ["FusetuneError"]


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_ends_the_command_with_one_of_the_codes_for_failures(name: str) -> None:
    assert CLASSES[name].exit_code in {2, 3, 4, 5, 6}


def test_the_exit_codes_are_those_of_the_design() -> None:
    found = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert found == EXIT_CODES


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_says_in_its_docstring_what_went_wrong(name: str) -> None:
    assert len((CLASSES[name].__dict__.get("__doc__") or "").split()) >= 6


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_can_be_imported_from_one_place_and_caught_by_the_base(name: str) -> None:
    assert not name.startswith("_")
    with pytest.raises(FusetuneError, match="what went wrong"):
        raise getattr(errors, name)("what went wrong")


def bases_by_class(path: Path) -> dict[str, set[str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases} for node in classes}


def test_no_other_module_adds_to_the_tree_but_in_private() -> None:
    elsewhere = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "errors.py"
        for name, bases in bases_by_class(path).items()
        if bases & set(CLASSES) and not name.startswith("_")
    ]
    assert elsewhere == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_public(name: str) -> None:
    assert getattr(fusetune, name) is CLASSES[name]
    assert name in fusetune.__all__
    assert name in dir(fusetune)


def test_what_somebody_gave_wrongly_is_a_value_error_too() -> None:
    """A caller who knows Python's errors alone catches it, whichever of ours it is."""
    assert issubclass(errors.UsageError, ValueError)
    with pytest.raises(ValueError, match="not known"):
        find_target("nothing")
    assert not issubclass(errors.MachineError, ValueError)
    assert not issubclass(FusetuneError, ValueError)
