"""How the pages are put together: their templates, style and script, and what goes into them."""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files
from typing import Any, Final

import fusetune
from fusetune.errors import UsageError

_INSTALL: Final = "`pip install 'fusetune[report]'`"
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:us|ms|s|%|KiB|MiB)(?![\w]))")
_PLACE: Final = "fusetune.report.html"


def page(template: str, **values: Any) -> str:
    """A page of a template, with all that is text escaped; style and script are in it."""
    return str(
        _environment()
        .get_template(template)
        .render(
            version=fusetune.__version__,
            style=raw(_file("page.css")),
            script=raw(_file("page.js")),
            **values,
        )
    )


@functools.cache
def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise UsageError(f"--html needs jinja2, which is not installed; {_INSTALL} installs it") from error
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["units"] = with_units
    return made


def with_units(text: str) -> str:
    """Figures that no end of a line parts from their units."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", text)


@functools.cache
def _file(name: str) -> str:
    return files(_PLACE).joinpath(name).read_text(encoding="utf-8")


def raw(text: str) -> Any:
    """Markup of our own, in which all that is data has been escaped."""
    from markupsafe import Markup

    return Markup(text)


def embedded(value: Any) -> Any:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return raw(text)
