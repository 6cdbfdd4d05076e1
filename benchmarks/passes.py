"""How kernels that read y again should go through it: `python benchmarks/passes.py`. Needs a GPU.

Training with `reread`, `owner` or a library reads y twice after the products: for the moments of its columns, and to
normalize it, by two kernels, or by one whose CTAs own whole columns. For several sizes all three are timed in many
shapes (ROWS x COLUMNS elements at a time, warps, loads that run ahead, CTAs a column), each behind a copy that leaves y
where the products leave it, its end in L2; what the copy takes alone is subtracted. Moments, and what owners make of y,
are held against float64. The shapes that the library takes (ops/gemm_scale/passes.py, `owned_columns` in
ops/gemm_scale/space.py) are chosen by this, and told with how much slower than the fastest they are; so is the one
kernel in its shape over the two in theirs. Writes passes-<gpu>.json into --output.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fusetune.compiler.processes import usable_cores
from fusetune.core.target import find_target
from fusetune.core.text import slugify
from fusetune.measure.nvml import gpu_present
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.early import PDL_CAPABILITY, launches_early, waits_for_products
from fusetune.ops.gemm_scale.endings import moments_of_rows, normalize_columns
from fusetune.ops.gemm_scale.owner import normalize_owned_columns
from fusetune.ops.gemm_scale.problem import Dtype, Problem, make_problem
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import Launch, abstract_tensors

HERE = Path(__file__).resolve().parent
SIZES: tuple[tuple[int, int, Dtype], ...] = (
    (16384, 4096, "float16"),
    (16384, 4096, "float32"),
    (4096, 11008, "float16"),
    (4096, 11008, "float32"),
    (1024, 8192, "float16"),
    (1024, 8192, "float32"),
    (2048, 3072, "float16"),
    (2048, 3072, "float32"),
    (512, 4096, "float32"),
    (256, 4096, "float16"),
    (512, 2048, "float32"),
    (2048, 1024, "float16"),
)
TILES = ((32, 64), (64, 64), (16, 128), (32, 128), (64, 128), (8, 256), (16, 256), (32, 256))
MOST_ELEMENTS = 32
SHARED_BYTES = 227 << 10
"""What a CTA can have on sm_90; a tile of float32 for each load that runs ahead."""
"""Elements a thread beyond which registers run out."""
COPIES, ROUNDS = 6, 7
OWNED_TILES = tuple((rows, columns) for rows in (64, 128, 256, 512) for columns in (16, 32, 64))
KINDS = ("moments", "normalize", "owned")
ALLOWED = 2e-3
"""How far y may be from float64's, of its largest value; it is rounded to 16 bits."""
JOINED_PARTS = 16
"""Tiles of moments a column that the normalizing kernel joins here."""
EPS, MOMENTUM = 1e-5, 0.1


class Shape(NamedTuple):
    """How a kernel goes through y; `parts` is how many CTAs share a column."""

    rows: int
    columns: int
    num_warps: int
    stages: int
    parts: int


def moments_shapes() -> list[Shape]:
    return [
        Shape(rows, columns, warps, stages, parts)
        for rows, columns in TILES
        for warps in (4, 8)
        for stages in (1, 3)
        for parts in (2, 4, 8, 16, 32)
        if rows * columns <= MOST_ELEMENTS * 32 * warps
    ]


def normalizing_shapes() -> list[Shape]:
    return [
        Shape(rows, columns, warps, 1, parts)
        for rows, columns in TILES
        for warps in (4, 8)
        for parts in (8, 16, 32, 64)
        if rows * columns <= MOST_ELEMENTS * 32 * warps
    ]


def owned_shapes() -> list[Shape]:
    return [
        Shape(rows, columns, warps, stages, 1)
        for rows, columns in OWNED_TILES
        for warps in (4, 8, 16)
        for stages in (1, 3, 5)
        if 8 * 32 * warps <= rows * columns <= MOST_ELEMENTS * 32 * warps
        and rows * columns * 4 * (stages - 1) <= SHARED_BYTES
    ]


def chosen(problem: Problem) -> dict[str, Shape]:
    """What the library takes."""
    spec, found = load_spec("gemm_scale_bn"), {}
    launches = [
        launch
        for config in (Config("reread"), Config("owner"))
        for launch in spec.launches(problem, config, abstract_tensors(spec, problem, config, find_target("h200")))[1:]
    ]
    for kind, launch in zip(KINDS, launches, strict=True):
        assert isinstance(launch, Launch)
        rows, columns = launch.constants["ROWS"], launch.constants["COLUMNS"]
        stages = launch.constants.get("STAGES", 1)
        found[kind] = Shape(rows, columns, launch.options["num_warps"], stages, (*launch.grid, 1)[1])
    return found


def tile_of(M: int, parts: int) -> int:
    """Rows of one tile of moments."""
    return max(64, M // parts)


def moments_launch(M: int, N: int, shape: Shape, early: bool) -> tuple[tuple[int, int], dict[str, Any], dict[str, Any]]:
    """Grid, constants and options."""
    tile_m = tile_of(M, shape.parts)
    constants = {"TILE_M": tile_m, "ROWS": shape.rows, "COLUMNS": shape.columns, "STAGES": shape.stages}
    options = _options(moments_of_rows, shape, early)
    return (-(-N // shape.columns), -(-M // tile_m)), {**constants, "OVERLAPS": early}, options


def normalizing_launch(
    M: int, N: int, shape: Shape, tile_m: int, early: bool
) -> tuple[tuple[int, int], int, dict[str, Any], dict[str, Any]]:
    """Grid, rows a CTA, constants and options."""
    rows = max(shape.rows, -(-M // (shape.parts * shape.rows)) * shape.rows)
    tiles = 1 << (-(-M // tile_m) - 1).bit_length()
    constants = {
        "TILE_M": tile_m,
        "TILES": max(2, min(64, tiles)),
        "ROWS": shape.rows,
        "COLUMNS": shape.columns,
        "UPWARDS": False,
        "COUNTER": "none",
        "OVERLAPS": early,
        "PREFETCHES": True,
    }
    return (-(-N // shape.columns), -(-M // rows)), rows, constants, _options(normalize_columns, shape, early)


def owned_launch(M: int, N: int, shape: Shape, early: bool) -> tuple[tuple[int], dict[str, Any], dict[str, Any]]:
    """Grid, constants and options."""
    constants = {
        "ROWS": shape.rows,
        "COLUMNS": shape.columns,
        "STAGES": shape.stages,
        "EVEN_ROWS": M % shape.rows == 0,
        "COUNTER": "none",
        "OVERLAPS": early,
        "PREFETCHES": True,
    }
    return (-(-N // shape.columns),), constants, _options(normalize_owned_columns, shape, early)


def _early(M: int, N: int, dtype: Dtype) -> bool:
    """Whether training launches its kernels early at this size here."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    problem = make_problem(M, N, N, dtype, mode="train")
    return major * 10 + minor >= PDL_CAPABILITY and launches_early(problem, "train")


def _options(kernel: Any, shape: Shape, early: bool) -> dict[str, Any]:
    early = early and not waits_for_products(kernel)
    return {"num_warps": shape.num_warps, **({"launch_pdl": True} if early else {})}


def compiled(job: tuple[str, tuple[int, int, Dtype], Shape]) -> str | None:
    """Fill Triton's cache; why not, where it cannot be filled."""
    import torch

    kind, (M, N, dtype), shape = job
    of = getattr(torch, dtype)
    try:
        if kind == "moments":
            grid, constants, options = moments_launch(M, N, shape, _early(M, N, dtype))
            moments_of_rows.warmup(of, torch.float32, M, N, grid=grid, **constants, **options)
        elif kind == "owned":
            owned, constants, options = owned_launch(M, N, shape, _early(M, N, dtype))
            normalize_owned_columns.warmup(*(of,) * 8, EPS, MOMENTUM, M, N, grid=owned, **constants, **options)
        else:
            grid, rows, constants, options = normalizing_launch(
                M, N, shape, tile_of(M, JOINED_PARTS), _early(M, N, dtype)
            )
            vectors = (of,) * 7
            normalize_columns.warmup(
                of, torch.float32, *vectors, EPS, MOMENTUM, M, N, rows, grid=grid, **constants, **options
            )
    except Exception as error:  # noqa: BLE001 - one shape must not cost the others
        return f"{job}: {error!r}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    arguments = parser.parse_args()
    if not gpu_present():
        parser.error("no NVIDIA GPU here")
    jobs = [("moments", size, shape) for size in SIZES for shape in moments_shapes()]
    jobs += [("normalize", size, shape) for size in SIZES for shape in normalizing_shapes()]
    jobs += [("owned", size, shape) for size in SIZES for shape in owned_shapes()]
    with multiprocessing.get_context("spawn").Pool(max(1, usable_cores() - 1)) as pool:
        failed = [why for why in pool.imap_unordered(compiled, jobs, chunksize=16) if why]
    for why in failed:
        print(f"not compiled: {why}", file=sys.stderr)
    import torch

    sizes = [timed_size(*size) for size in SIZES]
    gpu = torch.cuda.get_device_name(0)
    write(arguments.output / f"passes-{slugify(gpu)}.json", gpu, sizes)


def timed_size(M: int, N: int, dtype: Dtype) -> dict[str, Any]:
    """Microseconds of each shape of both kernels at one size."""
    import torch

    of = getattr(torch, dtype)
    torch.manual_seed(0)
    source = torch.randn(M, N, device="cuda", dtype=of) + 3
    y = torch.empty_like(source)
    vectors = [torch.rand(N, device="cuda", dtype=of) + 0.5 for _ in range(7)]
    early = _early(M, N, dtype)
    copy_us = _timed(lambda: y.copy_(source))
    times: dict[str, dict[Shape, float]] = {kind: {} for kind in KINDS}
    calls: dict[tuple[str, Shape], Callable[[], None]] = {}
    taken = chosen(make_problem(M, N, 64, dtype, mode="train"))
    for shape in moments_shapes():
        tile_m = tile_of(M, shape.parts)
        moments = torch.full((2, -(-M // tile_m), N), float("nan"), device="cuda")
        grid, constants, options = moments_launch(M, N, shape, early)

        def take(grid: Any = grid, constants: Any = constants, options: Any = options, moments: Any = moments) -> None:
            moments_of_rows[grid](y, moments, M, N, **constants, **options)

        y.copy_(source)
        take()
        if (apart := _apart(moments, source, tile_m)) > 1e-4:
            sys.exit(f"moments of {M} x {N} {dtype} by {shape} are {apart:.1e} apart from float64's")
        times["moments"][shape] = _timed(lambda take=take: (y.copy_(source), take())) - copy_us
        calls["moments", shape] = take
    tile_m = tile_of(M, JOINED_PARTS)
    moments = torch.ones(2, -(-M // tile_m), N, device="cuda")
    for shape in normalizing_shapes():
        grid, rows, constants, options = normalizing_launch(M, N, shape, tile_m, early)

        def normalize(grid: Any = grid, rows: int = rows, constants: Any = constants, options: Any = options) -> None:
            normalize_columns[grid](y, moments, *vectors, EPS, MOMENTUM, M, N, rows, **constants, **options)

        times["normalize"][shape] = _timed(lambda normalize=normalize: (y.copy_(source), normalize())) - copy_us
        calls["normalize", shape] = normalize
    expected = _normalized(source, vectors)
    for shape in owned_shapes():
        owned, constants, options = owned_launch(M, N, shape, early)

        def own(grid: Any = owned, constants: Any = constants, options: Any = options) -> None:
            normalize_owned_columns[grid](y, *vectors, EPS, MOMENTUM, M, N, **constants, **options)

        y.copy_(source)
        own()
        if not (off := float((y - expected).abs().max() / expected.abs().max())) <= ALLOWED:
            sys.exit(f"y of {M} x {N} {dtype} by {shape} is {off:.1e} off float64's")
        times["owned"][shape] = _timed(lambda own=own: (y.copy_(source), own())) - copy_us
    take, normalize = (calls[kind, taken[kind]] for kind in ("moments", "normalize"))
    two_us = _timed(lambda: (y.copy_(source), take(), normalize())) - copy_us
    return summed(M, N, dtype, copy_us, times, two_us)


def _normalized(source: Any, vectors: Sequence[Any]) -> Any:
    """What becomes of y by float64; of the vectors scale, gamma and beta count."""
    wide = source.double()
    scale, gamma, beta = (vector.double() for vector in vectors[1:4])
    variance = scale**2 * wide.var(0, unbiased=False)
    return (wide - wide.mean(0)) * (scale * gamma / (variance + EPS).sqrt()) + beta


def _apart(moments: Any, source: Any, tile_m: int) -> float:
    """How far mean and variance, joined of the tiles' moments, are from float64's; whole tiles only."""
    wide = source.double()
    mean = moments[0].double().mean(0)
    m2 = moments[1].double().sum(0) + (tile_m * (moments[0].double() - mean) ** 2).sum(0)
    variance = m2 / len(source)
    return float(max((mean - wide.mean(0)).abs().max(), (variance - wide.var(0, unbiased=False)).abs().max()))


def _timed(work: Callable[[], object]) -> float:
    """Median microseconds of one call, several in a CUDA graph."""
    import torch

    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(COPIES):
            work()
    graph.replay()
    taken = []
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) * 1e3 / COPIES)
    return statistics.median(taken)


def summed(
    M: int, N: int, dtype: Dtype, copy_us: float, times: Mapping[str, Mapping[Shape, float]], two_us: float
) -> dict[str, Any]:
    """The fastest shapes of each kernel, and the chosen ones beside them; two_us is of the two in theirs."""
    row: dict[str, Any] = {"M": M, "N": N, "dtype": dtype, "copy_us": round(copy_us, 2)}
    taken = chosen(make_problem(M, N, 64, dtype, mode="train"))
    for kind, found in times.items():
        order = sorted(found, key=lambda shape: found[shape])
        row[kind] = {
            "chosen": taken[kind]._asdict(),
            "chosen_us": round(found[taken[kind]], 2),
            "slower": round(found[taken[kind]] / found[order[0]] - 1, 4),
            "fastest": [{**shape._asdict(), "us": round(found[shape], 2)} for shape in order[:8]],
            "shapes": len(found),
            "slowest_us": round(found[order[-1]], 2),
        }
    row["two_us"] = round(two_us, 2)
    row["owned_over_two"] = round(times["owned"][taken["owned"]] / two_us, 3)
    return row


def write(path: Path, gpu: str, sizes: Sequence[Mapping[str, Any]]) -> None:
    for size in sizes:
        told = [f"{kind} {size[kind]['chosen_us']:.1f} us ({size[kind]['slower']:+.1%})" for kind in KINDS]
        print(f"{size['M']} x {size['N']} {size['dtype']}: {', '.join(told)}; one for two {size['owned_over_two']:.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"torch": version("torch"), "triton": version("triton")}
    result = {"gpu": gpu, "date": f"{date.today():%Y-%m-%d}", "environment": environment, "sizes": sizes}
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
