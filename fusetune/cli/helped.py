"""The help of a command: its options in groups, what each takes, and three examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from fusetune.cli.examples import EXAMPLES
from fusetune.ops.built_in import example_options, named_values

OTHER: Final = "Other options"

_PROBLEM: Final = ("--op", *(f"--{value.name}" for value in named_values()), "--size", "--shapes")
_PROGRAM: Final = ("-m", "--args", "--reference")
_KERNELS: Final = ("--kernel", "--top", "--share", "--limit")
_GPUS: Final = ("--gpus", "--scheduler", "--dask-config")
_PREDICTED: Final = ("--config", "--target")

GROUPS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "sweep": {
        "Problem": _PROBLEM,
        "GPUs": _GPUS,
        "Search": ("--space", "--target", "--prior", "--allow-library", "--fresh", "--workers"),
        "Decision": ("--min-gain", "--confidence"),
        "Measuring": ("--cache", "--seed", "--exclusive", "--lock-clocks"),
        "Files": ("--output", "--runs", "--json"),
    },
    "tune": {
        "Program": _PROGRAM,
        "Kernels": (*_KERNELS, "--target"),
        "GPUs": _GPUS,
        "Search": (
            "--space",
            "--num-ctas",
            "--maxnreg",
            "--budget",
            "--source-budget",
            "--ncu",
            "--fresh",
        ),
        "Decision": ("--min-gain", "--bit-exact", "--vouch", "--rtol", "--atol", "--exact", "--no-program-check"),
        "Measuring": ("--cache", "--seed", "--exclusive", "--workers"),
        "Source": ("--diff", "--apply", "--autotune", "--lookup", "--per-kernel"),
        "Files": ("--output", "--configs", "--runs", "--keep", "--quota"),
    },
    "run": {"Program": _PROGRAM, "Configs": ("--configs", "--on-miss", "--allow-predicted")},
    "report": {
        "Which problems": ("--op", "--gpu", "--dtype", "--verdict", "--since", "--limit", "--shipped"),
        "Form": ("--run", "--format", "--json", "--html", "--output"),
        "Where to look": ("--configs", "--runs", "--doctor"),
    },
    "doctor": {
        "Kernels": ("--kernels", "--op", "--limit", "--seed", "--workers", "--output"),
        "Form": ("--json",),
    },
    "export": {"Problem": _PROBLEM, "Config": (*_PREDICTED, "--configs"), "Form": ("--autotune", "--output")},
    "capture": {
        "Program": _PROGRAM,
        "Kernels": (*_KERNELS, "--target"),
        "Captures on disk": ("--keep", "--exact", "--quota", "--list", "--remove"),
    },
    "gate": {
        "How": ("--static", "--live", "--from", "--against", "--on-mismatch", "--budget", "--workers"),
        "Pins": ("--pin",),
        "Kernels": ("--op", "--kernels", "--program", "--vouch"),
        "For CI": ("--json", "--junit", "--markdown"),
    },
    "inspect": {
        "Problem": _PROBLEM,
        "Config": (*_PREDICTED, "--ncu"),
        "The whole space": ("--all", "--space", "--compile", "--top", "--workers"),
        "Form": ("--json", "--ptx", "--sass"),
    },
    "profile": {"Problem": _PROBLEM, "Config": _PREDICTED, "ncu": ("--ncu", "--metrics", "--print-command")},
    "warmup": {"Problem": _PROBLEM},
}
"""The options of each command that has many, by what they are about; what is in no group stands below OTHER."""

_METAVARS: Final = {
    "--op": "OP",
    "--dtype": "DTYPE",
    "--mode": "MODE",
    "--precision": "PRECISION",
    "--min-gain": "SHARE",
    "--confidence": "SHARE",
    "--share": "SHARE",
    "--rtol": "RATIO",
    "--atol": "VALUE",
    "--seed": "NUMBER",
    "--workers": "COUNT",
    "--top": "COUNT",
    "--metrics": "NAMES",
    **{f"--{value.name}": "SIZE" for value in named_values() if value.is_size},
}
"""What an option takes, where it does not say so itself: click knows types only, as TEXT."""


class Helped(click.Command):
    """A command whose help shows groups, metavars and examples."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        for option in self.params:
            if isinstance(option, click.Option) and option.metavar is None and not option.is_flag:
                option.metavar = _metavar(option)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click: in groups, in the order of GROUPS."""
        told: dict[str, list[tuple[str, str]]] = {}
        for title, option in self.in_groups(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):  # Some versions of click list arguments, too.
                told.setdefault(title, []).append(record)
        for title, records in told.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def in_groups(self, ctx: click.Context) -> Iterator[tuple[str, click.Parameter]]:
        """Each parameter with the title of its group."""
        known = {_name(parameter): parameter for parameter in self.get_params(ctx)}
        for title, names in GROUPS.get(self.name or "", {}).items():
            for name in names:
                if name in known:
                    yield title, known.pop(name)
        title = OTHER if GROUPS.get(self.name or "") else "Options"
        for parameter in known.values():
            yield title, parameter

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click: the examples, one line each with what it does above it."""
        super().format_epilog(ctx, formatter)
        examples = examples_of(self.name or "")
        if examples:
            with formatter.section("Examples"):
                for command, about in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}# {about}\n")
                    formatter.write(f"{'':>{formatter.current_indent}}{command}\n")


def examples_of(name: str) -> list[tuple[str, str]]:
    """The examples of a command, each with what it does."""
    return [(command.format(problem=example_options()), about) for command, about in EXAMPLES.get(name, ())]


def _metavar(option: click.Option) -> str | None:
    if isinstance(option.type, click.Path):
        return "FILE" if not option.type.dir_okay else "DIR" if not option.type.file_okay else "PATH"
    return _METAVARS.get(_name(option))


def _name(parameter: click.Parameter) -> str:
    """The longest of an option's names, or the one of an argument."""
    return max((*parameter.opts, *parameter.secondary_opts), key=len, default=parameter.name or "")
