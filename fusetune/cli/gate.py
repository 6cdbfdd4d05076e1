"""`fusetune gate`: fail a build when a kept config no longer keeps its promise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.store.paths import search_path
from fusetune.store.schema import ConfigFile
from fusetune.store.yaml_files import read_config_file

if TYPE_CHECKING:
    from fusetune.gate.findings import Finding

_SIGNS = {
    "holds": "ok",
    "regression": "REGRESSION",
    "inconclusive": "INCONCLUSIVE",
    "wrong_result": "WRONG RESULT",
    "not_gated": "not gated",
}


@click.command("gate")
@click.argument("paths", metavar="[FILE|DIR]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--static", "static", is_flag=True, help="Compile only: needs no GPU, times nothing.")
@click.option("--workers", type=click.IntRange(1), help="Compilations at once.  [default: one a core]")
@click.pass_context
def gate(ctx: click.Context, paths: Sequence[Path], *, static: bool, workers: int | None) -> None:
    """Check that tuned configs still hold: config files, or folders of <gpu>/<op>.yaml (default: ./configs).

    On a GPU, every kept config is measured against BASELINE again; exit 1 when one no longer is faster by its minimum
    gain, 3 when this machine is too noisy to tell, 5 when a result is wrong. Without a GPU: exit 4, unless --static
    is given, which compiles every config for its GPU and fails on a spill or too much shared memory.
    """
    from fusetune.measure.nvml import gpu_present

    files = _read(paths)
    if not static and not gpu_present():
        raise NoUsableGpuError("there is no NVIDIA GPU here to measure on; `fusetune gate --static` checks without one")
    findings = _static(files, workers) if static else _live(files)

    from fusetune.gate.findings import exit_code

    for finding in findings:
        click.echo(
            f"{_SIGNS[finding.status]:<12} {finding.file}  {finding.entry.problem.describe()}  "
            f"{finding.entry.config.label()}: {finding.detail}"
        )
    counts = {sign: sum(finding.status == status for finding in findings) for status, sign in _SIGNS.items()}
    told = ", ".join(f"{count} {sign}" for sign, count in counts.items() if count)
    click.echo(f"gate: {told or 'no entries'}{' (compiled, nothing was timed)' if static else ''}")
    ctx.exit(exit_code(findings))


def _static(files: list[tuple[Path, ConfigFile]], workers: int | None) -> list[Finding]:
    from fusetune.cli.progress import make_progress
    from fusetune.gate.static import static_gate

    return static_gate(files, make_progress(), workers=workers)


def _live(files: list[tuple[Path, ConfigFile]]) -> list[Finding]:
    from fusetune.cli.progress import make_progress
    from fusetune.gate.live import live_gate
    from fusetune.measure.cuda import CudaMeasurer

    return live_gate(files, CudaMeasurer, make_progress())


def _read(paths: Sequence[Path]) -> list[tuple[Path, ConfigFile]]:
    """The files named, and those in the folders named. Raises ConfigFileError, and UsageError where there is none."""
    found: list[Path] = []
    for path in paths or _default_folders():
        if path.is_dir():
            found += sorted(path.glob("*/*.yaml")) + sorted(path.glob("*.yaml"))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder")
    if not found:
        where = ", ".join(map(str, paths)) or "./configs"
        raise UsageError(f"no tuned configs in {where}; `fusetune sweep --M 128 --K 1024 --N 512` writes one")
    return [(path, read_config_file(path)) for path in found]


def _default_folders() -> list[Path]:
    folder = search_path()[0]
    return [folder] if folder.is_dir() else []
