"""From a Config to launches: which of the tiles' kernels run, with which grid, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import triton
import triton.language as tl
from msgspec import structs

from fusetune.core.brief import brief
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.device import Gpu, gpu_of
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.deferred import (
    deferred_products,
)
from fusetune.ops.gemm_scale.early import PDL_CAPABILITY, Ending, launches_early, waits_for_products
from fusetune.ops.gemm_scale.endings import (
    finish_split,
    moments_of_rows,
    normalize_columns,
)
from fusetune.ops.gemm_scale.launchable import incapable
from fusetune.ops.gemm_scale.library import folded, multiply, multiply_and_add
from fusetune.ops.gemm_scale.owner import normalize_owned_columns
from fusetune.ops.gemm_scale.padded import padded_rows
from fusetune.ops.gemm_scale.passes import (
    FINISHED_ELEMENTS,
    MOMENTS_COLUMNS,
    MOMENTS_ROWS,
    MOMENTS_STAGES,
    NORMALIZED_ROWS,
    PADDED_COLUMNS,
    PADDED_ELEMENTS,
    columns_to_normalize,
    is_owned,
    owned_stages,
    rows_of_moments,
)
from fusetune.ops.gemm_scale.persistent import ctas_per_sm, parts_of, stored_at_once
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.sources import DEFERRED, MASKED, OWNER, PADDED, SHARED, VECTORED, loaded
from fusetune.ops.gemm_scale.space import (
    OWNED_AT_ONCE,
    holds_columns,
    owned_columns,
    padded_length,
    padded_unit,
    row_unit,
)
from fusetune.ops.gemm_scale.split import joins_summands, tiles_of
from fusetune.ops.gemm_scale.tiles import (
    joined_products,
    persistent_products,
    tiled_products,
)
from fusetune.ops.gemm_scale.vectored import vectored_products
from fusetune.ops.spec import Call, Launch, Operand, TileDescriptor

LOWEST: Final = structs.replace(BASELINE, BLOCK_M=16)
"""For rows of y so long that 64 of them are out of reach of the first."""
KERNELS: Final = loaded(SHARED)
DEFERRED_KERNELS: Final = loaded(DEFERRED)
OWNER_KERNELS: Final = loaded(OWNER)
MASKED_KERNELS: Final = loaded(MASKED)
VECTORED_KERNELS: Final = loaded(VECTORED)
PADDED_KERNELS: Final = loaded(PADDED)

_ELEMENT_TYPES: Final = {"float32": tl.float32, "float16": tl.float16, "bfloat16": tl.bfloat16}


def workspace(problem: Problem, config: Config, ending: Ending) -> tuple[Operand, ...]:
    """What the launches need beside the op's operands: scratch tensors that no value outlives a call in."""
    return (*_copies(problem, config), *_summed(problem, config, ending))


def _copies(problem: Problem, config: Config) -> tuple[Operand, ...]:
    if not config.pads:
        return ()
    length = padded_length(problem)
    rows = {"x_padded": problem.M, "weight_padded": problem.N}
    return tuple(Operand(name, (count, length), problem.dtype, role="output") for name, count in rows.items())


def _summed(problem: Problem, config: Config, ending: Ending) -> tuple[Operand, ...]:
    """Where summands of a tile meet, or the moments of tiles."""
    if joins_summands(config, problem):
        tiles = tiles_of(config, problem)
        summands = (tiles, config.SPLIT_K, config.BLOCK_M, config.BLOCK_N)
        return (
            Operand("partial", summands, "float32", role="output"),
            Operand("arrivals", (tiles,), "int32", role="counter", std=0.0),
        )
    if config.SPLIT_K > 1:
        return (Operand("partial", (config.SPLIT_K, problem.M, problem.N), "float32", role="output"),)
    if ending == "train" and not holds_columns(config, problem) and not is_owned(config, problem):
        tiles_m = triton.cdiv(problem.M, rows_of_moments(config, problem))
        return (Operand("moments", (2, tiles_m, problem.N), "float32", role="output"),)
    return ()


def references(problem: Problem, ending: Ending) -> tuple[Config, ...]:
    """Products by cuBLAS, and kernels that finish them; in evaluation also cuBLAS alone, with folded weights."""
    return (Config(variant="library"), *([Config(variant="library_folded")] if ending == "eval" else []))


def constants(config: Config, tensors: Mapping[str, Any], eps: float) -> Mapping[str, Any]:
    """What the launches of a config need of the weights, computed once for as long as these stay as they are."""
    return folded(tensors, eps) if config.variant == "library_folded" else {}


def gemm_launches(
    problem: Problem,
    config: Config,
    tensors: Mapping[str, Any],
    ending: Ending,
    *,
    eps: float = 0.0,
    momentum: float = 0.0,
    counter: Literal["none", "count", "average"] = "none",
) -> Sequence[Launch | Call]:
    """The launches of a config. `tensors` holds the operands, the workspace and the constants by name.

    Raises UnsupportedProblemError for a variant that is not known or does not do this.
    """
    why = incapable(config, problem, None if ending == "scale" else ending)
    if why is not None:
        raise UnsupportedProblemError(f"{brief(config.label())}: {why}")
    gpu = gpu_of(tensors["x"])
    ends = _Ends(problem, config, tensors, ending, eps, momentum, counter, gpu)
    if config.variant == "deferred":
        return ends.after(_deferred(ends))
    if config.is_walking:
        copied = (_padded(ends),) if config.pads else ()
        return (*copied, *ends.after(_joined(ends) if ends.joins else _persistent(ends)))
    if config.variant == "library":
        return ends.after_library()
    if config.variant == "library_folded":
        return (ends.folded(),)
    return ends.after(_tiled(ends))


class _Ends:
    """What the kernels of one launch have in common, and the kernels that finish what it leaves."""

    def __init__(
        self,
        problem: Problem,
        config: Config,
        tensors: Mapping[str, Any],
        ending: Ending,
        eps: float,
        momentum: float,
        counter: str,
        gpu: Gpu,
    ) -> None:
        self.problem, self.config, self.tensors, self.ending, self.gpu = problem, config, tensors, ending, gpu
        self.eps, self.momentum, self.counter = eps, momentum, counter
        # What finishes acc at once, whole columns of it for training; then, what the first kernel does.
        folds = ending == "eval" and problem.precision not in {"ieee", "tf32x3"}
        self.finish = {"train": "columns", "eval": "eval_folded" if folds else "eval"}.get(ending, ending)
        self.epilogue = "statistics" if ending == "train" else self.finish
        self.joins = joins_summands(config, problem)
        if config.rereads and ending == "train":
            self.epilogue = "products"
        elif config.SPLIT_K > 1 and not self.joins:
            self.epilogue = "partial"
        elif holds_columns(config, problem):
            self.epilogue = "columns"
        # The interpreter multiplies in full precision, and knows no machine instruction.
        self.rounds = problem.precision == "tf32" and gpu.sm > 0
        self.prefetches = gpu.sm > 0
        self.overlaps = gpu.sm >= PDL_CAPABILITY and launches_early(problem, ending)

    def shared(self) -> dict[str, Any]:
        """Arguments that an ending needs; a pointer that it does not follow is the bias, which is always there."""
        bias = self.tensors["bias"]
        names = {"scale": "scale", "gamma": "gamma", "beta": "beta", "mean": "running_mean", "var": "running_var"}
        return {
            "bias_ptr": bias,
            **{f"{short}_ptr": self.tensors.get(name, bias) for short, name in names.items()},
            "tracked_ptr": bias if self.counter == "none" else self.tensors["num_batches_tracked"],
            "eps": self.eps,
            "momentum": self.momentum,
            "M": self.problem.M,
            "N": self.problem.N,
        }

    def products(self) -> dict[str, Any]:
        """Arguments of either kernel that multiplies."""
        moments = self.tensors["moments" if self.epilogue == "statistics" else "bias"]
        return {**self.shared(), "moments_ptr": moments, "K": self.problem.K}

    def summands(self) -> dict[str, Any]:
        """Arguments of the kernels that may join summands."""
        partial, arrivals = ("partial", "arrivals") if self.joins else ("bias", "bias")
        return {"partial_ptr": self.tensors[partial], "arrivals_ptr": self.tensors[arrivals]}

    def tile_constants(self) -> dict[str, Any]:
        """Constants of either kernel that multiplies."""
        tile = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "SPLIT_K")
        return {
            **{name: getattr(self.config, name) for name in tile},
            "PRECISION": self.problem.precision or "ieee",
            "EPILOGUE": self.epilogue,
            "COUNTER": self.counter,
            "OVERLAPS": self.overlaps,
            "PREFETCHES": self.prefetches,
        }

    def options(self, kernel: Any, num_warps: int, num_stages: int) -> dict[str, Any]:
        # Set although it is today's default: a later Triton turns contraction into FMA off.
        options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
        return {**options, "launch_pdl": True} if self.overlaps and not waits_for_products(kernel) else options

    def after(self, first: Launch) -> Sequence[Launch | Call]:
        """The first kernel, and those that finish what it left."""
        if self.epilogue == "partial":
            return (first, self._finish_split())
        if self.epilogue == "statistics":
            return (first, self._normalize(upwards=True))
        if self.epilogue == "products":
            return (first, *self._after_products())
        return (first,)

    def after_library(self) -> Sequence[Launch | Call]:
        """The products by cuBLAS in y, and the kernels that make y of them in place."""
        product = Call(multiply, {"weight": self.tensors["weight"], **self._by_library()})
        if self.ending != "train":
            return (product, self._finish_split())
        return (product, *self._after_products())

    def folded(self) -> Call:
        """All of it by cuBLAS, from weights that hold the rest. The compiler has none of them, and no need to."""
        weight, bias = self.tensors.get("folded_weight"), self.tensors.get("folded_bias")
        return Call(multiply_and_add, {"weight": weight, "bias": bias, **self._by_library()})

    def _by_library(self) -> dict[str, Any]:
        return {"x": self.tensors["x"], "out": self.tensors["y"], "tf32": self.problem.precision == "tf32"}

    def _after_products(self) -> tuple[Launch, ...]:
        if is_owned(self.config, self.problem):
            return (self._normalize_owned(),)
        return (self._moments(), self._normalize(upwards=False))

    def _normalize_owned(self) -> Launch:
        columns = owned_columns(self.problem, self.gpu.sms)
        return Launch(
            kernel=normalize_owned_columns,
            grid=(triton.cdiv(self.problem.N, columns),),
            arguments={"y_ptr": self.tensors["y"], **self.shared()},
            constants={
                "ROWS": OWNED_AT_ONCE,
                "COLUMNS": columns,
                "STAGES": owned_stages(columns),
                "EVEN_ROWS": self.problem.M % OWNED_AT_ONCE == 0,
                "COUNTER": self.counter,
                "OVERLAPS": self.overlaps,
                "PREFETCHES": self.prefetches,
            },
            options=self.options(normalize_owned_columns, 4, 2),
        )

    def _moments(self) -> Launch:
        M, N = self.problem.M, self.problem.N
        rows = rows_of_moments(self.config, self.problem)
        return Launch(
            kernel=moments_of_rows,
            grid=(triton.cdiv(N, MOMENTS_COLUMNS), triton.cdiv(M, rows)),
            arguments={"y_ptr": self.tensors["y"], "moments_ptr": self.tensors["moments"], "M": M, "N": N},
            constants={
                "TILE_M": rows,
                "ROWS": MOMENTS_ROWS,
                "COLUMNS": MOMENTS_COLUMNS,
                "STAGES": MOMENTS_STAGES,
                "OVERLAPS": self.overlaps,
            },
            options=self.options(moments_of_rows, 4, 2),
        )

    def _normalize(self, *, upwards: bool) -> Launch:
        M, N = self.problem.M, self.problem.N
        tile_m = rows_of_moments(self.config, self.problem)
        columns = columns_to_normalize(self.problem, triton.cdiv(M, tile_m))
        # Few rows: a CTA for every 32, to have one for every SM. Many: at most 16 CTAs a column, since each joins all
        # moments of its columns anew.
        rows = max(NORMALIZED_ROWS, triton.cdiv(triton.cdiv(M, 16), NORMALIZED_ROWS) * NORMALIZED_ROWS)
        return Launch(
            kernel=normalize_columns,
            grid=(triton.cdiv(N, columns), triton.cdiv(M, rows)),
            arguments={
                "y_ptr": self.tensors["y"],
                "moments_ptr": self.tensors["moments"],
                **self.shared(),
                "rows_per_cta": rows,
            },
            constants={
                "TILE_M": tile_m,
                "TILES": min(64, triton.next_power_of_2(triton.cdiv(M, tile_m))),
                "ROWS": NORMALIZED_ROWS,
                "COLUMNS": columns,
                "UPWARDS": upwards,
                "COUNTER": self.counter,
                "OVERLAPS": self.overlaps,
                "PREFETCHES": self.prefetches,
            },
            options=self.options(normalize_columns, 4, 2),
        )

    def _finish_split(self) -> Launch:
        M, N = self.problem.M, self.problem.N
        rows = triton.next_power_of_2(M) if self.ending == "train" else min(32, triton.next_power_of_2(M))
        columns = max(16, FINISHED_ELEMENTS // rows)
        return Launch(
            kernel=finish_split,
            grid=(triton.cdiv(N, columns), triton.cdiv(M, rows)),
            arguments={
                "partial_ptr": self.tensors["partial" if self.epilogue == "partial" else "y"],
                **self.shared(),
                "y_ptr": self.tensors["y"],
            },
            constants={
                "SPLIT_K": self.config.SPLIT_K,
                "ROWS": rows,
                "COLUMNS": columns,
                "EPILOGUE": self.finish,
                "COUNTER": self.counter,
                "OVERLAPS": self.overlaps,
                "PREFETCHES": self.prefetches,
            },
            options=self.options(finish_split, 4, 2),
        )


def _tiled(ends: _Ends) -> Launch:
    problem, config, tensors = ends.problem, ends.config, ends.tensors
    stride_xm, stride_xk = tensors["x"].stride()
    stride_wn, stride_wk = tensors["weight"].stride()
    tiles = tiles_of(config, problem)
    kernel, units = tiled_products, {}
    if config.variant == "vectored":
        rows = problem.K | stride_xm | stride_wn  # The least unit of all is that of their bits together.
        unit = row_unit(rows) if stride_xk == stride_wk == 1 else 1
        kernel, units = vectored_products, {"UNIT_K": unit, "UNIT_N": row_unit(problem.N)}
    return Launch(
        kernel=kernel,
        grid=(tiles, config.SPLIT_K) if config.SPLIT_K > 1 else (tiles,),
        arguments={
            "x_ptr": tensors["x"],
            "w_ptr": tensors["weight"],
            **ends.products(),
            **ends.summands(),
            "y_ptr": tensors["partial" if ends.epilogue == "partial" else "y"],
            "stride_xm": stride_xm,
            "stride_xk": stride_xk,
            "stride_wn": stride_wn,
            "stride_wk": stride_wk,
        },
        constants={
            **ends.tile_constants(),
            "EVEN_K": problem.K % config.BLOCK_K == 0,
            "EVEN_MN": _is_even(problem, config),
            "ROUNDS": ends.rounds,
            "JOINS": ends.joins,
            **units,
        },
        options=ends.options(kernel, config.num_warps, config.num_stages),
    )


def _is_even(problem: Problem, config: Config) -> bool:
    return problem.M % config.BLOCK_M == 0 and problem.N % config.BLOCK_N == 0


def _padded(ends: _Ends) -> Launch:
    problem, tensors = ends.problem, ends.tensors
    stride_xm, stride_xk = tensors["x"].stride()
    stride_wn, stride_wk = tensors["weight"].stride()
    length = padded_length(problem)
    columns = min(PADDED_COLUMNS, triton.next_power_of_2(length))
    rows = PADDED_ELEMENTS // columns
    blocks = (triton.cdiv(problem.M, rows) + triton.cdiv(problem.N, rows)) * triton.cdiv(length, columns)
    return Launch(
        kernel=padded_rows,
        grid=(blocks,),
        arguments={
            "x_ptr": tensors["x"],
            "w_ptr": tensors["weight"],
            "x_padded_ptr": tensors["x_padded"],
            "w_padded_ptr": tensors["weight_padded"],
            "M": problem.M,
            "N": problem.N,
            "K": problem.K,
            "stride_xm": stride_xm,
            "stride_xk": stride_xk,
            "stride_wn": stride_wn,
            "stride_wk": stride_wk,
        },
        constants={
            "ROWS": rows,
            "COLUMNS": columns,
            "UNIT": padded_unit(problem),
            "OVERLAPS": ends.overlaps,
        },
        options=ends.options(padded_rows, 4, 2),
    )


def _read(ends: _Ends) -> dict[str, Any]:
    """X and W as the copy engine reads them."""
    config, copied = ends.config, "_padded" if ends.config.pads else ""
    x, weight = ends.tensors[f"x{copied}"], ends.tensors[f"weight{copied}"]
    return {
        "x_desc": TileDescriptor(x, (config.BLOCK_M, config.BLOCK_K), ends.rounds),
        "w_desc": TileDescriptor(weight, (config.BLOCK_N, config.BLOCK_K), ends.rounds),
    }


def _joined(ends: _Ends) -> Launch:
    problem, config, tensors = ends.problem, ends.config, ends.tensors
    return Launch(
        kernel=joined_products,
        grid=(tiles_of(config, problem), config.SPLIT_K),
        arguments={
            **_read(ends),
            **ends.shared(),
            **ends.summands(),
            "y_ptr": tensors["y"],
            "K": problem.K,
        },
        constants={**ends.tile_constants(), "EVEN_MN": _is_even(problem, config)},
        options=ends.options(joined_products, config.num_warps, config.num_stages),
    )


def _persistent(ends: _Ends) -> Launch:
    problem, config, tensors = ends.problem, ends.config, ends.tensors
    parts = parts_of(config, problem)
    items = tiles_of(config, problem) * config.SPLIT_K
    block = (config.BLOCK_M, config.BLOCK_N // parts)
    stored: Any = TileDescriptor(tensors["y"], block)
    if ends.epilogue == "partial":
        stored = TileDescriptor(tensors["partial"], (1, *block))
    if config.masks:
        stored = stored.tensor
    return Launch(
        kernel=persistent_products,
        grid=(min(items, ends.gpu.sms * ctas_per_sm(config, problem)),),
        arguments={
            **_read(ends),
            "y_desc": stored,
            **ends.products(),
        },
        constants={
            **ends.tile_constants(),
            # Of interest to training alone; for the rest one code serves both.
            "EVEN_M": ends.ending == "train" and problem.M % config.BLOCK_M == 0,
            "PARTS": parts,
            "DTYPE": _ELEMENT_TYPES[problem.dtype],
            "MASKED": stored_at_once(problem) if config.masks else 0,
        },
        options=ends.options(persistent_products, config.num_warps, config.num_stages),
    )


def _deferred(ends: _Ends) -> Launch:
    problem, config, tensors = ends.problem, ends.config, ends.tensors
    shared = ends.shared()
    constants = ends.tile_constants()
    for name in ("SPLIT_K", "PRECISION", "COUNTER", "PREFETCHES"):
        del constants[name]
    return Launch(
        kernel=deferred_products,
        grid=(min(tiles_of(config, problem), ends.gpu.sms * ctas_per_sm(config, problem)),),
        arguments={
            "x_desc": TileDescriptor(tensors["x"], (config.BLOCK_M, config.BLOCK_K)),
            "w_desc": TileDescriptor(tensors["weight"], (config.BLOCK_N, config.BLOCK_K)),
            "y_desc": TileDescriptor(tensors["y"], (config.BLOCK_M, config.BLOCK_N // parts_of(config, problem))),
            "y_ptr": tensors["y"],
            **{name: shared[name] for name in shared if name not in {"tracked_ptr", "momentum"}},
            "K": problem.K,
        },
        constants={
            **constants,
            "DTYPE": _ELEMENT_TYPES[problem.dtype],
            # The interpreter knows no machine instruction.
            "CONVERTS": ends.gpu.sm > 0,
        },
        options=ends.options(deferred_products, config.num_warps, config.num_stages),
    )
