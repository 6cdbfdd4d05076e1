"""`fusetune compare`: what changed between two runs or two files of configs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from fusetune.cli.completing import runs_or_files
from fusetune.cli.helped import Helped
from fusetune.cli.shared_options import run_dirs_option
from fusetune.cli.shown import echo, echo_json, json_option
from fusetune.core.text import encodable, printable
from fusetune.core.values import to_builtins
from fusetune.ops import loading  # noqa: F401 - a user's own ops may have types of their own
from fusetune.store.paths import runs_dir

FORMATS: Final = ("table", "json")


@click.command("compare", cls=Helped)
@click.argument("first", metavar="A", shell_complete=runs_or_files)
@click.argument("second", metavar="B", shell_complete=runs_or_files)
@run_dirs_option
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to show it."
)
@json_option
def compare(first: str, second: str, run_dirs: tuple[Path, ...], form: str, as_json: bool) -> None:
    """Say what changed from A to B, and whether it matters: each a .yaml file of configs, a run's id, or its journal.

    Whether it matters is decided by the keep rule, on the gains that both have over BASELINE: times of two sessions are
    never compared with each other.
    """
    import msgspec

    from fusetune.report.compare import compare as differences_of
    from fusetune.report.compare import describe, load_side

    folders = run_dirs or (runs_dir(),)
    found = differences_of(load_side(first, folders), load_side(second, folders))
    if as_json or form == "json":
        body = {"compare": 1, "first": encodable(first), "second": encodable(second), "differences": found}
        echo_json(msgspec.json.format(msgspec.json.encode(body, enc_hook=to_builtins), indent=2).decode())
        return
    for difference in found:
        echo(printable(describe(difference)))
        for told in difference.environment:
            echo(f"  {printable(told)}")
    counts = {change: sum(one.change == change for one in found) for change in dict.fromkeys(d.change for d in found)}
    echo("compare: " + ", ".join(f"{count} {change.replace('_', ' ')}" for change, count in counts.items()))
