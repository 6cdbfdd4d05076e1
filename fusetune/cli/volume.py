"""How much a command says beside its results: -q less, -v what the library logs, -vv all of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from logging import LogRecord

_QUIET: Final = "fusetune.quiet"
LOGGER: Final = "fusetune"
"""Every module of the library logs below this name, by its own one."""


def volume_options() -> list[click.Option]:
    """-q and -v, which act as they are parsed."""
    return [
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_be_quiet,
            help="Say nothing on stderr but warnings and errors.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_be_verbose,
            help="Say what the library does, such as each config that is looked up; -vv: all that it logs.",
        ),
    ]


def is_quiet() -> bool:
    """Whether the command that is being run was given -q, before its name or behind it."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def _be_quiet(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        ctx.meta[_QUIET] = True


def _be_verbose(ctx: click.Context, _: click.Parameter, count: int) -> None:
    if not count or ctx.resilient_parsing:
        return
    import logging

    from fusetune.cli.shown import echo
    from fusetune.core.text import printable

    class _Lines(logging.Handler):
        """A line on stderr, as everything else that is said there."""

        def emit(self, record: LogRecord) -> None:
            echo(printable(f"{record.name}: {record.getMessage()}"), err=True)

    logger, handler = logging.getLogger(LOGGER), _Lines()
    level = logging.DEBUG if count > 1 else logging.INFO
    if logger.level == logging.NOTSET or logger.level > level:
        logger.setLevel(level)
    logger.addHandler(handler)
    ctx.call_on_close(lambda: logger.removeHandler(handler))
