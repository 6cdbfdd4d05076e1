"""The pages of docs/reference that are made of the code: commands, files, exit codes, the Python API.

`docs_hook.py` hands them to mkdocs at each build, so that none is committed and none can be old. `python
.ci/reference.py DIR` writes them as Markdown.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from reference_types import files_page, prose

import fusetune
from fusetune import errors
from fusetune.cli.commands import COMMANDS, cli
from fusetune.cli.helped import examples_of

Page = Iterator[str]

_PARTS: Final = (
    ("Launching what was tuned", ("fusetune.runtime", "fusetune.capture")),
    ("Functions and modules for PyTorch", ("fusetune.nn",)),
    ("An op of your own", ("fusetune.ops", "fusetune.core")),
)
"""The parts of the Python page, and the packages whose public names stand there."""
_REST: Final = "More"
_MADE: Final = "*Made at the build from {what}.*"


def pages() -> dict[str, str]:
    """The text of each page by its path below docs/."""
    made = {
        "reference/commands.md": _commands(),
        "reference/files.md": files_page(_made("the types that read and write these files")),
        "reference/exit-codes.md": _exit_codes(),
        "reference/python.md": _python(),
    }
    return {path: "\n".join(lines).rstrip() + "\n" for path, lines in made.items()}


def _made(what: str) -> str:
    return _MADE.format(what=what)


def _commands() -> Page:
    yield "# Commands"
    yield ""
    yield _made("what `fusetune COMMAND --help` shows")
    yield ""
    context = click.Context(cli, info_name="fusetune")
    for name, about in COMMANDS.items():
        yield f"- [`fusetune {name}`](#fusetune-{name}): {prose(about)}"
    yield ""
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield from _command(command, click.Context(command, parent=context, info_name=name))


def _command(command: Any, context: click.Context) -> Page:
    yield f"## fusetune {command.name}"
    yield ""
    yield "```text"
    yield " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    yield "```"
    yield ""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield prose(paragraph)
        yield ""
    title = None
    for group, parameter in command.in_groups(context):
        record = parameter.get_help_record(context)
        if record is None or not isinstance(parameter, click.Option):
            continue
        if group != title:
            title = group
            yield f"**{group}**"
            yield ""
        names, help_text = record
        yield f"`{names}`"
        yield f":   {prose(help_text)}"
        yield ""
    yield "**Examples**"
    yield ""
    yield "```sh"
    for example, about in examples_of(command.name):
        yield f"{example}  # {about}"
    yield "```"
    yield ""


def _exit_codes() -> Page:
    yield "# Exit codes"
    yield ""
    yield _made("`fusetune/errors.py`")
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    told = attribute_docs(errors)
    for name, code in exit_codes().items():
        yield f"| `{code}` | {prose(told[name])} |"
    yield ""
    yield "A command that runs your program passes on what it prints; its exit code is its own under `fusetune run`."
    yield ""
    yield "## Errors"
    yield ""
    yield "What fusetune raises on purpose, in Python by these names. Each message is one line, which says what was"
    yield "wrong, where, and what to do. A command that ends with one prints it and gives its exit code."
    yield ""
    yield "| error | exit code | when |"
    yield "|---|---|---|"
    for name in fusetune._ERRORS:
        error = getattr(errors, name)
        code = "1 to 6" if error is errors.FusetuneError else f"`{error.exit_code}`"
        yield f"| [`{name}`](python.md#fusetune.errors.{name}) | {code} | {prose(inspect.getdoc(error) or '')} |"


def exit_codes() -> dict[str, int]:
    """The constants of `fusetune.errors` that are exit codes, in their order."""
    found = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _python() -> Page:
    yield "# Python"
    yield ""
    yield _made("the docstrings")
    yield ""
    yield "Importing `fusetune` loads neither torch nor triton; a name that needs them loads them when it is first"
    yield "used."
    yield ""
    parts: dict[str, list[str]] = {title: [] for title, _ in _PARTS} | {_REST: []}
    for name in sorted(fusetune._PUBLIC, key=lambda name: (name[0].isupper(), name)):
        if name not in fusetune._ERRORS:
            parts[_part(fusetune._PUBLIC[name])].append(name)
    for title, names in parts.items():
        if names:
            yield from _described(title, names)
    yield from _described("Errors", fusetune._ERRORS)


def _part(module: str) -> str:
    return next((title for title, packages in _PARTS if module.startswith(packages)), _REST)


def _described(title: str, names: Any) -> Page:
    yield f"## {title}"
    yield ""
    for name in names:
        yield f"::: {fusetune._PUBLIC[name]}.{name}"
        yield "    options:"
        yield f"      heading: fusetune.{name}"
        yield f"      toc_label: {name}"
        yield ""


def attribute_docs(module: Any) -> dict[str, str]:
    """What stands as a string below each constant of a module, by the constant's name."""
    return dict(_documented(ast.parse(inspect.getsource(module)).body))


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, below in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, inspect.cleandoc(below.value.value)


def write(folder: Path, made: Mapping[str, str]) -> None:
    """Write the pages below a folder."""
    for path, text in made.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("reference.py FOLDER: writes the pages of the reference below FOLDER")
    import_module("fusetune")
    write(Path(sys.argv[1]), pages())
