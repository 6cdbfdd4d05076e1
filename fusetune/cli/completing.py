"""What a shell completes a value with: ops, GPUs, dtypes, runs. Nothing heavy is loaded, and nothing fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from fusetune.ops.built_in import OpValue

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _completes(values: Callable[[click.Context], Iterable[tuple[str, str]]]) -> Completer:
    """Completes with these names and what is said of each; whatever goes wrong, such as a folder, completes nothing."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from fusetune.errors import FusetuneError

        before = tuple(ctx.params.get(parameter.name or "") or ()) if getattr(parameter, "multiple", False) else ()
        begun = incomplete.lower()
        try:
            found = dict(values(ctx))
        except (FusetuneError, OSError, ValueError):
            return []
        return [
            CompletionItem(name, help=about)
            for name, about in found.items()
            if name.lower().startswith(begun) and name not in before
        ]

    return complete


def _targets(_: click.Context) -> Iterator[tuple[str, str]]:
    from fusetune.core.target import known_targets

    for target in known_targets():
        yield from ((alias, target.name) for alias in target.aliases)


def _ops(_: click.Context) -> Iterator[tuple[str, str]]:
    """Those that come with fusetune, and those that this user named before."""
    from fusetune.ops.approved import approved_ops
    from fusetune.ops.built_in import families

    for family in families():
        yield from family.ABOUT.items()
    for place, op in approved_ops().items():
        yield op.name, place


def _tuned(ctx: click.Context) -> Iterator[tuple[str, str, str]]:
    """Op, folder of the GPU and file of each file of configs that `report` would read."""
    from fusetune.store.paths import config_paths, search_path

    for path in config_paths(ctx.params.get("config_roots") or search_path()):
        yield path.stem, path.parent.name, str(path)


def _tuned_ops(ctx: click.Context) -> Iterator[tuple[str, str]]:
    return ((op, gpu) for op, gpu, _ in _tuned(ctx))


def _gpus(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Those that something was tuned for, by the short names where they have one."""
    from fusetune.core.target import known_targets

    short = {target.slug: target.aliases[0] for target in known_targets() if target.aliases}
    return ((short.get(gpu, gpu), gpu) for _, gpu, _ in _tuned(ctx))


def _dtypes(_: click.Context) -> Iterator[tuple[str, str]]:
    from fusetune.core.dtypes import ELEMENT_TYPES

    return ((name, element.triton) for name, element in ELEMENT_TYPES.items())


def _runs(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """The newest first, since that is the one that somebody is after."""
    from fusetune.store.paths import LATEST, run_ids, runs_dir

    given = ctx.params.get("run_dirs") or ()
    found = sorted({run for folder in given or (runs_dir(),) for run in run_ids(Path(folder))}, reverse=True)
    yield from ((name, "the newest run") for name in ([LATEST] if found else []))
    yield from ((run, "") for run in found)


def _captures(_: click.Context) -> Iterator[tuple[str, str]]:
    from fusetune.capture.captures import runs

    yield from ((one.run, one.program) for one in runs())
    yield "all", "every run that is kept"


TARGETS = _completes(_targets)
OPS = _completes(_ops)
TUNED_OPS = _completes(_tuned_ops)
GPUS = _completes(_gpus)
DTYPES = _completes(_dtypes)
RUNS = _completes(_runs)
CAPTURES = _completes(_captures)


def value_of_op(value: OpValue) -> Completer | None:
    """Completes a value of a problem that is one of some words; None where it is none."""
    return _completes(lambda _: ((choice, "") for choice in value.choices)) if value.choices else None


def files(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes with files, as for the words of a program."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def runs_or_files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes with runs, and where none begins so, with files."""
    return RUNS(ctx, parameter, incomplete) or files(ctx, parameter, incomplete)
