"""The picture and the table of docs/architecture.md: the way of a kernel, and the floors that import-linter holds.

Both are made at each build: the floors of pyproject.toml, the words of a part of its docstring. `python
.ci/architecture.py FILE.svg` writes the picture.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = "images/architecture.svg"
PLACE: Final = "<!-- made: the parts -->"
"""Where the page has the table."""

_WIDTH: Final = 960
_BOX: Final = 52
_ROW: Final = 46
_LEFT: Final = 24

_WAYS: Final = (
    (
        ("your program", "as it is", "yours"),
        ("capture", "its launches, and what may vary", "part"),
        ("compiler", "candidates for any GPU", "part"),
        ("measure", "check, then time in pairs", "part"),
        ("tune", "confirm; the program's last word", "part"),
        ("configs/*.yaml", "with evidence and pins", "kept"),
    ),
    (
        ("configs/*.yaml", "reviewed and committed", "kept"),
        ("runtime", "look up and launch, never tune", "reads"),
        ("gate", "does it still hold? for CI", "reads"),
        ("report", "what was found, and why", "reads"),
        ("code", "a patch, or one module", "reads"),
        ("your source", "only with --apply or -o", "yours"),
    ),
)
"""What happens to a kernel, step by step, and who reads what was kept: name, words, kind."""
_FILL: Final = {"yours": "#fff3d6", "part": "#e3f2f1", "reads": "#e3f2f1", "kept": "#e6e9fb"}
_LINE: Final = {"yours": "#b98a1d", "part": "#2f8a83", "reads": "#2f8a83", "kept": "#5560b8"}


def floors() -> list[list[str]]:
    """The parts of the package by floor, the highest first, as import-linter's contract has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^type = "layers"$.*?^layers = \[(.*?)^\]', text, re.MULTILINE | re.DOTALL)
    assert found is not None, "pyproject.toml has no contract of layers"
    return [[part.strip() for part in layer.split("|")] for layer in re.findall(r'"([^"]+)"', found[1])]


def about(part: str) -> str:
    """The first paragraph of a part's docstring."""
    package = ROOT / "fusetune" / part / "__init__.py"
    path = package if package.is_file() else ROOT / "fusetune" / f"{part}.py"
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(told.split("\n\n")[0].split())


def table() -> str:
    """The parts with what they are, in Markdown, the lowest floor first."""
    rows = ["| floor | part | what it is |", "|---|---|---|"]
    for number, floor in enumerate(reversed(floors())):
        rows += [f"| {number} | `{part}` | {about(part)} |" for part in floor]
    return "\n".join(rows)


def picture() -> str:
    """The picture as SVG."""
    drawn = list(_drawn())
    height = 250 + _ROW * len(floors()) + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif" role="img">',
            "<title>What happens to a kernel, and the floors of the package</title>",
            '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#666"/></marker></defs>',
            f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def _drawn() -> Iterator[str]:
    for number, way in enumerate(_WAYS):
        yield from _way(way, 20 + number * 100, ("To tune", "To use what was kept")[number])
    yield _text(_LEFT, 240, "The package: a part imports what stands below it", size=13, bold=True)
    for number, floor in enumerate(floors()):
        top = 250 + number * _ROW
        width = (_WIDTH - 2 * _LEFT - 8 * (len(floor) - 1)) / len(floor)
        for place, part in enumerate(floor):
            left = _LEFT + place * (width + 8)
            yield _rect(left, top, width, _ROW - 6, "part")
            yield _text(left + width / 2, top + 17, part, size=14, bold=True, middle=True)
            yield _text(left + width / 2, top + 33, _in_brief(about(part), width), size=12, middle=True)


def _way(way: tuple[tuple[str, str, str], ...], top: float, title: str) -> Iterator[str]:
    yield _text(_LEFT, top, title, size=13, bold=True)
    gap = 18
    width = (_WIDTH - 2 * _LEFT - gap * (len(way) - 1)) / len(way)
    readers = [place for place, (_, _, kind) in enumerate(way) if kind == "reads"]
    if readers:
        left, right = (_LEFT + (width + gap) * place for place in (readers[0], readers[-1] + 1))
        yield (
            f'<rect x="{left - 6:.1f}" y="{top + 5}" width="{right - left - gap + 12:.1f}" height="{_BOX + 18}" rx="8" '
            'fill="none" stroke="#999" stroke-dasharray="4 4"/>'
        )
    for place, (name, words, kind) in enumerate(way):
        left = _LEFT + place * (width + gap)
        if place and place not in readers[1:]:
            line = f'x1="{left - gap + 1:.1f}" y1="{top + 40}" x2="{left - 2:.1f}" y2="{top + 40}"'
            yield f'<line {line} stroke="#666" stroke-width="1.5" marker-end="url(#to)"/>'
        yield _rect(left, top + 10, width, _BOX + 8, kind)
        yield _text(left + width / 2, top + 29, name, size=14, bold=True, middle=True)
        for number, row in enumerate(_rows(words)):
            yield _text(left + width / 2, top + 46 + 14 * number, row, size=12, middle=True)


def _in_brief(words: str, width: float) -> str:
    """As many of the words as fit, ended where a clause ends, or else a word."""
    most = int(width / 7)
    words = words.rstrip(".").replace("`", "")
    if len(words) <= most:
        return words
    clauses = re.match(rf"(.{{12,{most}}})(?:[,;:.]|(?<=\?)) ", words)
    return clauses[1] if clauses else words[:most].rpartition(" ")[0] + " …"


def _rows(words: str) -> list[str]:
    """On two lines of at most some twenty letters."""
    first, rest = "", words.split()
    while rest and len(first) + len(rest[0]) < 20:
        first += f" {rest.pop(0)}"
    return [first.strip(), " ".join(rest)]


def _rect(left: float, top: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" rx="6" fill="{_FILL[kind]}" '
        f'stroke="{_LINE[kind]}"/>'
    )


def _text(left: float, top: float, words: str, *, size: int, bold: bool = False, middle: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text x="{left:.1f}" y="{top}" font-size="{size}"{weight}{anchor} fill="#1b1f24">{escape(words)}</text>'


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("architecture.py FILE: writes the picture of the floors to FILE")
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
