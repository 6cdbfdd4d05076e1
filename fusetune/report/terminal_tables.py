"""Tables that break cells at chosen places: the first layout that fits the console is taken."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table

_UNBOUNDED = 10_000


def make_table(headers: Sequence[str], leading: int = 0) -> Table:
    """An empty table with a rule below its headers; `>` before a header puts its column of figures on the right."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), leading=leading)
    for header in headers:
        # fold: a cell too wide for any layout goes on in the next line; rich's default would cut figures off.
        justify: JustifyMethod = "right" if header.startswith(">") else "left"
        table.add_column(header.lstrip(">"), justify=justify, overflow="fold")
    return table


def first_that_fits(console: Console, *layouts: Table) -> Table:
    """The first of the tables that needs no more columns than the console has, or the last one."""
    options = console.options.update(max_width=_UNBOUNDED)
    for table in layouts:
        if Measurement.get(console, options, table).maximum <= console.width:
            return table
    return layouts[-1]


def break_words(text: str, columns: int) -> str:
    """The text in lines of at most `columns`, broken between words only, so that no figure is cut in two."""
    return "\n".join(textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False))
