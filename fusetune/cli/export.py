"""`fusetune export`: the tuned kernel as one module that needs only torch and triton."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusetune.cli.completing import TARGETS
from fusetune.cli.helped import Helped
from fusetune.cli.needed import needs
from fusetune.cli.options import problem_options, spec_and_problem
from fusetune.cli.shared_options import config_roots_option
from fusetune.cli.shown import echo
from fusetune.core.brief import brief
from fusetune.core.target import DEFAULT_TARGET, Target, find_target
from fusetune.core.text import printable
from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.store.paths import search_path
from fusetune.store.regular import is_folder, is_regular

if TYPE_CHECKING:
    from fusetune.ops.spec import KernelSpec


@click.command("export", cls=Helped)
@problem_options
@click.option(
    "--target",
    "target_name",
    metavar="NAME",
    shell_complete=TARGETS,
    help=f"For this GPU.  [default: the GPU here; without one, {DEFAULT_TARGET}]",
)
@config_roots_option
@click.option(
    "--autotune", is_flag=True, help="Choose among three configs at most, BASELINE among them, at first launch."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to FILE, whole or not at all, instead of stdout; into it, where it is a device or a pipe.",
)
@needs("tune")
def export(
    *,
    target_name: str | None,
    config_roots: tuple[Path, ...],
    autotune: bool,
    output: Path | None,
    **given: Any,
) -> None:
    """Write the kernel with its tuned config as a standalone module: imports, kernels, wrappers, a module of PyTorch's.

    It is made from the op's own kernels and needs only torch and triton. The header says where its config and its
    figures come from; without a tuned config that fits, it has the 4-warp / 2-stage baseline. An op names what writes
    it so in its `exported_by`; one that names nothing cannot be exported.
    """
    for folder in config_roots:
        if not is_folder(folder):
            told = "is a file; name the folder that it is in" if is_regular(folder) else "there is no such folder"
            raise UsageError(f"--configs {brief(folder)}: {told}")

    from fusetune.report.files import write_whole

    spec, problem = spec_and_problem(given)
    write = _writer_of(spec)
    text = write(spec, problem, _target(target_name), config_roots or search_path(), autotune=autotune)
    if output is None:
        click.echo(text, nl=False)
    elif write_whole(output, text):
        echo(printable(f"Wrote {output}"))


def _writer_of(spec: KernelSpec) -> Callable[..., str]:
    """What writes an op as a standalone module. Raises UsageError where nothing does, or it cannot be loaded."""
    if spec.exported_by is None:
        raise UsageError(
            f"op {spec.name}: nothing writes it as a standalone module; name what does in its spec's `exported_by`"
        )
    module, _, name = spec.exported_by.partition(":")
    try:
        function: Callable[..., str] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"op {spec.name}: cannot load {spec.exported_by}, which is to write it: {error}") from error
    return function


def _target(name: str | None) -> Target:
    if name is not None:
        return find_target(name)
    from fusetune.measure.nvml import gpu_present

    if not gpu_present():
        return find_target(DEFAULT_TARGET)
    from fusetune.ops.device import local_target

    try:
        return local_target(0)
    except NoUsableGpuError as error:
        raise NoUsableGpuError(
            f"there is a GPU here, and {error}, or name the GPU to export for with --target"
        ) from error
