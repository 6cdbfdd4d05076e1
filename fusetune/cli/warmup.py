"""`fusetune warmup`: compile ahead of time what a process will launch."""

from __future__ import annotations

from pathlib import Path

import click

from fusetune.cli.shown import echo
from fusetune.errors import NoUsableGpuError, UsageError


@click.command("warmup")
@click.argument("path", metavar="[FILE|DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--M", "rows", type=click.IntRange(1), multiple=True, help="Rows of x [M, K]; may be given again.")
@click.option("--K", "depth", type=click.IntRange(1), help="Columns of x and of W [N, K].")
@click.option("--N", "columns", type=click.IntRange(1), help="Rows of W, columns of y [M, N].")
@click.option("--op", default="gemm_scale", show_default=True, help="The op.")
@click.option("--dtype", help="Of x, W and y: float32 (default), float16 or bfloat16.")
@click.option("--mode", help="train or eval, for an op that tells them apart.")
@click.option("--precision", help="How float32 is multiplied: tf32 (default), ieee, tf32x3 or bf16x3.")
@click.option("--allow-predicted", is_flag=True, help="Use predicted entries, too, as load(..., allow_predicted=True).")
def warmup(
    *,
    path: Path | None,
    rows: tuple[int, ...],
    depth: int | None,
    columns: int | None,
    op: str,
    dtype: str | None,
    mode: str | None,
    precision: str | None,
    allow_predicted: bool,
) -> None:
    """Compile what calls of these problems will launch, into Triton's cache: nothing is tuned, timed or run.

    Without --M, --K and --N: every problem that the files hold for this GPU, at FILE or DIR or on the search path. A
    later process with the same cache then loads its kernels instead of compiling them.
    """
    sizes = (rows, depth, columns)
    if any(sizes) and not all(sizes):
        raise UsageError("give --M, --K and --N together, or none of them for every problem of the files")
    words = {"dtype": dtype, "mode": mode, "precision": precision}
    given = {name: word for name, word in words.items() if word is not None}
    problems = [{"M": M, "N": columns, "K": depth, **given} for M in rows if columns and depth]

    from fusetune.measure.nvml import gpu_present

    if not gpu_present():
        raise NoUsableGpuError("there is no NVIDIA GPU here to compile for and load on")

    from fusetune.nn.warmup import warmup as warm_up
    from fusetune.runtime.configs import load

    load(path, allow_predicted=allow_predicted)
    done = warm_up(problems or None, op=op)
    for warmed in done:
        echo(f"{warmed.op}  {warmed.problem.describe()}  {warmed.config.label():<22} {warmed.ms:8.1f} ms")
    if not done:
        echo("no problems: the files hold none for this GPU; name one with --M, --K and --N")
