"""The picture and the table of docs/architecture.md show each part of the package, on its floor."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[3]


def architecture() -> Any:
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        return importlib.import_module("architecture")
    finally:
        sys.path.remove(str(ROOT / ".ci"))


def parts() -> set[str]:
    """Whatever of the package is code."""
    here = (ROOT / "fusetune").iterdir()
    return {path.stem for path in here if path.suffix == ".py" or (path / "__init__.py").is_file()} - {
        "__init__",
        "__main__",
    }


def test_each_part_of_the_package_stands_on_a_floor_with_what_it_is() -> None:
    found = architecture()
    assert {part for floor in found.floors() for part in floor} == parts()
    for part in parts():
        assert f"| `{part}` | {found.about(part)} |" in found.table()
        assert len(found.about(part).split()) >= 4


def test_the_picture_names_them_and_what_imports_stands_above() -> None:
    drawn = ElementTree.fromstring(architecture().picture())
    texts = {text.text: float(text.attrib["y"]) for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert parts() <= set(texts)
    assert texts["cli"] < texts["runtime"] < texts["core"] < texts["errors"]
    width, height = (float(number) for number in drawn.attrib["viewBox"].split()[2:])
    assert max(texts.values()) < height
    for box in drawn.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(box.attrib.get("x", 0)) + float(box.attrib["width"]) <= width


def test_the_page_has_a_place_for_both() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert architecture().PLACE in page
    assert f"]({architecture().PICTURE})" in page
