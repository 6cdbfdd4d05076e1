"""Candidates of a GEMM: which configs are worth trying, and the one predicate that says why one is not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from fusetune.core.space import SPACE_NAMES, Rejection, SpaceName
from fusetune.core.target import Target
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import BASELINE, MASKING, Config
from fusetune.ops.gemm_scale.persistent import persistent_shared_bytes
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.split import joins_summands

MMA_TILE = 16 * 8
"""Elements of the accumulator tile of one mma.sync instruction, m16n8."""

MAX_ACCUMULATOR_REGISTERS = 128
"""Accumulator registers a thread beyond which a tile spills whatever else it does: at 256 of 255, surely."""

COPY_ENGINE_CAPABILITY: Final = 90
WGMMA_CAPABILITY: Final = 90
"""The one generation that multiplies with wgmma; the next one's accumulators are in a memory of their own."""
DEFERRED_STEPS: Final = 6
"""Steps along K that `deferred` needs: four to store the tile before, one for the vectors, one to end."""
WHOLE_COLUMNS: Final = 256
"""Rows up to which a CTA can hold whole columns of acc."""
OWNED_ROWS, OWNED_BYTES = 2048, 48 << 20
"""Rows, and bytes of y, up to which one kernel whose CTAs own whole columns is worth its while.

It reads y twice, and the second time should find it in L2: by benchmarks/passes.py on an H200, one kernel takes 0.53
to 0.88 of two at seven sizes of up to 34 MB and 1.01 at an eighth, and 1.00 to 1.74 at four from 90 MB on."""
OWNED_AT_ONCE: Final = 128
"""Rows that a CTA of such a kernel reads at a time, of 32 columns that it owns, or of 16 (`owned_columns`)."""
CTAS_PER_SM_TO_SPLIT_FOR: Final = 4
"""More CTAs than so many an SM only make the sum of their parts longer."""
MOST_SPLITS: Final = 16
FILLING: Final = 0.9
"""Of the steps along K that the busiest SM takes with the nearest powers of two, so many at most are left by a number
of splits that is none: less is not worth a candidate."""


class Space(msgspec.Struct, frozen=True):
    """Values of each tunable parameter, by name of a field of Config; the space is their product.

    `others` are spaces of other variants, whose parameters take other values.
    """

    values: Mapping[str, tuple[int, ...]]
    variants: tuple[str, ...] = ("tiled",)
    others: tuple[Space, ...] = ()

    def configs(self) -> tuple[Config, ...]:
        """All products, BASELINE first and once."""
        names = list(self.values)
        configs = [
            Config(variant=variant, **dict(zip(names, values, strict=True)))
            for variant in self.variants
            for values in itertools.product(*self.values.values())
        ]
        for other in self.others:
            configs += [config for config in other.configs() if config.variant in other.variants]
        return (BASELINE, *(config for config in dict.fromkeys(configs) if config != BASELINE))


SPLIT_K_SPACE: Final = Space(
    {
        "BLOCK_M": (16, 32, 64, 128),
        "BLOCK_N": (16, 32, 64, 128),
        "BLOCK_K": (32, 64, 128),
        "SPLIT_K": (2, 4, 8, 16),
        "num_warps": (2, 4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    variants=("split_k",),
)
"""For few tiles: several CTAs share one along K."""

PERSISTENT_SPACE: Final = Space(
    {
        "BLOCK_M": (64, 128, 256),
        "BLOCK_N": (64, 128, 256),
        "BLOCK_K": (32, 64, 128),
        "GROUP_M": (1, 4, 8, 16),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    variants=("persistent", *MASKING),
)
"""For many tiles on a GPU with a copy engine."""

SMALL_PERSISTENT_SPACE: Final = Space(
    {
        "BLOCK_M": (16, 32, 64, 128),
        "BLOCK_N": (16, 32, 64, 128),
        "BLOCK_K": (32, 64, 128, 256),
        "SPLIT_K": (1, 2, 4, 8, 16),
        "num_warps": (2, 4),
        "num_stages": (3, 4, 5),
    },
    variants=("persistent", *MASKING),
)
"""The same for few tiles: a CTA has one, or shares it along K."""

TILED_VALUES: Final = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (16, 32, 64, 128, 256),
    "BLOCK_K": (16, 32, 64, 128, 256),
    "num_warps": (2, 4, 8),
    "num_stages": (2, 3, 4, 5),
    "GROUP_M": (1, 8),
}

DEFERRED_SPACE: Final = Space(
    {
        "BLOCK_M": (64, 128),
        "BLOCK_N": (128, 256),
        "BLOCK_K": (64,),
        "GROUP_M": (1, 4, 8, 16),
        "num_warps": (4, 8),
        "num_stages": (3, 4),
    },
    variants=("deferred",),
)
"""For many tiles of 16-bit y: each is stored while the next one is multiplied.

256 rows are left out: 10 to 16 % slower than 128 x 256 on an H100."""

_GEMM_SPACES: Final = (SPLIT_K_SPACE, PERSISTENT_SPACE, SMALL_PERSISTENT_SPACE, DEFERRED_SPACE)
GEMM_SPACE: Final = Space(TILED_VALUES, others=_GEMM_SPACES)
"""Tile sizes, warps, stages and tile order of a GEMM-like op, in each of its variants."""

REREAD_SPACE: Final = Space(PERSISTENT_SPACE.values, variants=("reread", "owner"))
"""For many tiles in training: other kernels take the moments of what the first one stored; one, where y is small."""

BATCH_NORM_SPACE: Final = Space(TILED_VALUES, others=(*_GEMM_SPACES, REREAD_SPACE))
"""GEMM_SPACE, and what only an op with statistics of its columns can do."""

SEED_SPACE: Final = Space({"num_warps": (4, 8), "num_stages": (2, 3)})
"""The seed's own small space: the BASELINE tile with 4 or 8 warps and 2 or 3 stages."""


def candidates(space: Space, name: SpaceName) -> tuple[Config, ...]:
    """The configs of an op's space under one of its three names; BASELINE is always the first.

    full: the product of all values. standard: full without tiles that no published tuning has found to win
    (`_is_lopsided`). seed: the seed's own. Raises UsageError for another name.
    """
    if name == "seed":
        return SEED_SPACE.configs()
    if name == "full":
        return space.configs()
    if name == "standard":
        return tuple(config for config in space.configs() if config == BASELINE or not _is_lopsided(config))
    raise UsageError(f"space {name!r} is not known; use one of {', '.join(SPACE_NAMES)}")


def filling_splits(configs: Iterable[Config], problem: Problem, target: Target) -> tuple[Config, ...]:
    """Those that split K in two, with as many splits instead as give each SM one CTA, or two.

    Tiles seldom divide the SMs: of 132, 40 tiles leave 52 idle with two splits each, and with four 28 CTAs wait for the
    others; with three 12 idle. Only numbers between powers of two, which are candidates anyway, and only where the
    busiest SM then has FILLING of their steps along K at most.
    """
    found: dict[Config, None] = {}
    for config in configs:
        if config.SPLIT_K != 2:
            continue
        tiles = -(-problem.M // config.BLOCK_M) * -(-problem.N // config.BLOCK_N)
        steps = -(-problem.K // config.BLOCK_K)
        for most in (target.sms // tiles, 2 * target.sms // tiles):
            if not 2 < most <= MOST_SPLITS:
                continue
            # As many as take the same number of steps each: one more would have none.
            splits = -(-steps // -(-steps // most))
            if splits.bit_count() == 1:
                continue
            below = 1 << (splits.bit_length() - 1)
            beside = min(_busiest_steps(tiles, count, steps, target.sms) for count in (below, 2 * below))
            if _busiest_steps(tiles, splits, steps, target.sms) <= FILLING * beside:
                found[msgspec.structs.replace(config, SPLIT_K=splits)] = None
    return tuple(found)


def _busiest_steps(tiles: int, splits: int, steps: int, sms: int) -> int:
    """Steps along K that the SM with most CTAs takes."""
    return -(-tiles * splits // sms) * -(-steps // splits)


def row_unit(length: int) -> int:
    """The largest power of two, 16 at most, that divides so many elements, and so what every row of them begins on."""
    return max(1, min(16, length & -length))


def is_vectored(problem: Problem) -> bool:
    """Whether rows begin on some elements of which the compiler is not told: see ops/gemm_scale/vectored.py."""
    return any(size % 16 and row_unit(size) > 1 for size in (problem.K, problem.N))


def vectored(configs: Iterable[Config], problem: Problem) -> tuple[Config, ...]:
    """The candidates, of which those that go by pointers become `vectored` where that moves more at a time.

    Not BASELINE, which is the same for every problem. The others would do the same, a few elements at a time.
    """
    if not is_vectored(problem):
        return tuple(configs)
    return tuple(
        msgspec.structs.replace(config, variant="vectored")
        if config.variant in {"tiled", "split_k"} and config != BASELINE
        else config
        for config in configs
    )


def pipelined_shared_bytes(config: Config, problem: Problem, target: Target) -> int:
    """Shared memory that the software pipeline needs, in bytes a CTA.

    Warpgroup instructions read their operands from shared memory while later ones arrive, so each of num_stages buffers
    is live; mma.sync copies to registers first and gets by with one buffer less. Inputs that are rounded (tf32) or
    split in three (tf32x3, bf16x3) go to registers too, and W comes back beside the pipeline. 16-bit rows that do not
    start on 32 bytes, or `vectored` on 4, cannot be copied asynchronously, and are not pipelined. Source: Triton's
    lowering, checked against `metadata.shared`.
    """
    if config.is_walking:
        return persistent_shared_bytes(config, problem)
    tile_bytes = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * problem.element_bytes
    if not is_pipelined(config, problem):
        return tile_bytes
    ahead = tile_bytes * max(config.num_stages - 1, 1)
    if not uses_wgmma(config, problem, target):
        return ahead
    w_bytes = {"tf32": 4, "tf32x3": 8, "bf16x3": 4}.get(problem.precision or "")
    if w_bytes:
        return ahead + config.BLOCK_N * config.BLOCK_K * w_bytes
    return tile_bytes * config.num_stages


def holds_columns(config: Config, problem: Problem) -> bool:
    """Whether a CTA sees whole columns of y, so that training needs no second kernel to normalize them."""
    if problem.mode != "train" or config.BLOCK_M < problem.M or config.is_library or config.rereads:
        return False
    return config.SPLIT_K == 1 or joins_summands(config, problem)


def begins_on_16_bytes(length: int, problem: Problem) -> bool:
    """Whether each row of a matrix does that has so many elements in one and no gaps, as the copy engine wants it."""
    return length * problem.element_bytes % 16 == 0


def unaligned(config: Config, problem: Problem) -> str | None:
    """Why the copy engine cannot move what a variant has it move; None where it can."""
    if config.pads:
        return None
    if begins_on_16_bytes(problem.K, problem) and (config.masks or begins_on_16_bytes(problem.N, problem)):
        return None
    moved = "x and W" if config.masks else "x, W and y"
    return f"the copy engine needs rows of {moved} that begin on 16 bytes"


def padded_unit(problem: Problem) -> int:
    """Elements of 128 bytes, a line of L2: on as many each row of the copies of x and W begins."""
    return 128 // problem.element_bytes


def padded_length(problem: Problem) -> int:
    """Elements from the beginning of one row to that of the next, in the copies of x and W."""
    unit = padded_unit(problem)
    return -(-problem.K // unit) * unit


def masking_variant(problem: Problem) -> str | None:
    """What lets the copy engine load where it cannot store y: from x and W, or from copies; None where it can."""
    if not begins_on_16_bytes(problem.K, problem):
        return "padded"
    return None if begins_on_16_bytes(problem.N, problem) else "masked"


def owns_columns(problem: Problem) -> bool:
    """Whether y is so small that one kernel normalizes it, whose CTAs own whole columns."""
    return problem.M <= OWNED_ROWS and problem.M * problem.N * problem.element_bytes <= OWNED_BYTES


def owned_columns(problem: Problem, sms: int) -> int:
    """Columns that a CTA owns: 32, or 16 where these still leave an SM for each CTA.

    By benchmarks/passes.py on an H200, the eight fastest shapes all have 16 columns at 512 x 2048 and 2048 x 1024
    (M x N), and 32 or more at 1024 x 8192.
    """
    return 16 if sms >= -(-problem.N // 16) else 32


def is_pipelined(config: Config, problem: Problem) -> bool:
    """Whether loads can run ahead at all: asynchronous copies take 4 bytes or more, and odd 16-bit rows offer 2.

    The copy engine's always do.
    """
    unit = row_unit(problem.K)
    by_pointers = problem.element_bytes > 2 or unit == 16 or (config.variant == "vectored" and unit > 1)
    return by_pointers or config.is_walking


def uses_wgmma(config: Config, problem: Problem, target: Target) -> bool:
    """Whether Triton multiplies with warpgroup instructions: wgmma on sm_90, tcgen05 on sm_100; 64 rows and 4 warps."""
    tensor_cores = problem.precision != "ieee"
    return target.sm in (90, 100) and config.BLOCK_M >= 64 and config.num_warps >= 4 and tensor_cores


REJECTIONS: Final[Mapping[str, str]] = {
    "accumulator_registers": "it has so many sums in a tile that a thread's registers do not hold them",
    "alignment": "it copies by TMA, which needs rows that begin on 16 bytes",
    "beyond_l2": "it reads y again from L2, which y has no room in",
    "capability": "it uses what this GPU does not have",
    "dtype": "it keeps a tile of y beside its sums, for which elements of this size take too many registers",
    "few_steps": "it has too few steps along K to store the tile before behind them",
    "few_tiles": "it has too few tiles: SMs would have none, or no next one",
    "idle_splits": "it splits K into more parts than there are steps along it",
    "idle_stages": "it has more stages than there are steps along K",
    "idle_warps": "it has a tile too small to give each warp a part",
    "many_splits": "it splits K into so many parts that they wait for SMs",
    "many_tiles": "it splits K though there is a tile for each SM without that",
    "no_effect": "it would do the same as another candidate that is there",
    "precision": "it feeds tensor cores, which this precision does not use",
    "rows": "it finishes whole columns in one CTA, and they are too long for that",
    "tile_too_large": "it has a tile larger than the problem",
}
"""What the reasons below mean, for people."""


def reject_reason(config: Config, problem: Problem, target: Target) -> Rejection | None:
    """Why this config cannot run or cannot win on this target, from its numbers alone; None lets it through.

    BASELINE is never rejected for being too large for the problem: it is what everything is compared with.
    """
    shared = pipelined_shared_bytes(config, problem, target)
    if shared > target.shared_bytes_per_cta:
        return Rejection(
            "shared_memory", f"needs {shared} bytes of shared memory, {target.name} has {target.shared_bytes_per_cta}"
        )
    accumulators = config.BLOCK_M * config.BLOCK_N // (32 * config.num_warps)
    if accumulators > MAX_ACCUMULATOR_REGISTERS:
        return Rejection("accumulator_registers", f"{accumulators} accumulator registers a thread")
    if MMA_TILE * config.num_warps > config.BLOCK_M * config.BLOCK_N:
        return Rejection("idle_warps", f"{config.BLOCK_M}x{config.BLOCK_N} has no m16n8 tile for each warp")
    if config == BASELINE:
        return None
    return _unfit_variant(config, problem, target) or _too_large_for(config, problem)


def _unfit_variant(config: Config, problem: Problem, target: Target) -> Rejection | None:
    """Why a variant cannot compute this problem, or is not made for it."""
    tiles = -(-problem.M // config.BLOCK_M) * -(-problem.N // config.BLOCK_N)
    # First what it cannot compute at all.
    if config.variant == "deferred" and (unfit := _unfit_deferred(config, problem, target)):
        return unfit
    if config.is_walking and (unfit := _unfit_persistent(config, problem, target, tiles)):
        return unfit
    if config.variant == "deferred" and tiles <= target.sms:
        return Rejection("few_tiles", f"{tiles} tiles for {target.sms} SMs: none has a next one")
    if config.rereads and (unfit := _unfit_reread(config, problem)):
        return unfit
    if config.SPLIT_K > 1:
        return _unfit_split(config, problem, target, tiles)
    return None


def _unfit_persistent(config: Config, problem: Problem, target: Target, tiles: int) -> Rejection | None:
    if target.sm < COPY_ENGINE_CAPABILITY:
        return Rejection("capability", f"{target.name} has no copy engine (TMA); 9.0 and later have")
    if unfit := _unfit_rows(config, problem):
        return unfit
    if problem.precision == "ieee":
        return Rejection("precision", "ieee does not use the tensor cores that this variant feeds")
    if 64 <= config.BLOCK_M < 16 * config.num_warps:
        return Rejection("idle_warps", f"{config.num_warps // 4} warpgroups of 64 rows for {config.BLOCK_M}")
    if tiles * config.SPLIT_K < target.sms // 5:
        return Rejection("few_tiles", f"{tiles * config.SPLIT_K} CTAs leave most of {target.sms} SMs without any")
    return None


def _unfit_rows(config: Config, problem: Problem) -> Rejection | None:
    if why := unaligned(config, problem):
        return Rejection("alignment", why)
    if config.pads and begins_on_16_bytes(problem.K, problem):
        return Rejection("no_effect", "rows of x and W begin on 16 bytes: the copy engine needs no copies of them")
    if config.variant == "masked" and begins_on_16_bytes(problem.N, problem):
        return Rejection("no_effect", "rows of y begin on 16 bytes: persistent stores them by the copy engine")
    return None


def _unfit_reread(config: Config, problem: Problem) -> Rejection | None:
    if config.variant in {"reread", "owner"} and problem.mode != "train":
        return Rejection("no_effect", "there are no moments to take")
    if problem.mode == "train" and config.BLOCK_M >= problem.M:
        return Rejection("no_effect", "a CTA holds whole columns, and need not read them again")
    if config.variant == "reread" and owns_columns(problem):
        return Rejection("no_effect", "owner does the same with one kernel less, and y is small enough for it")
    if config.variant == "owner" and not owns_columns(problem):
        return Rejection(
            "beyond_l2", f"{problem.M} rows, or y as a whole, are too many to find again in L2; reread reads y by tiles"
        )
    return None


def _unfit_deferred(config: Config, problem: Problem, target: Target) -> Rejection | None:
    if target.sm != WGMMA_CAPABILITY:
        return Rejection("capability", f"{target.name} has no wgmma, whose accumulators are a CTA's registers; 9.0 has")
    if problem.element_bytes != 2:
        return Rejection(
            "dtype", f"a tile of {problem.dtype} beside its accumulators takes more registers than there are"
        )
    if not uses_wgmma(config, problem, target):
        return Rejection("idle_warps", "wgmma needs 64 rows and 4 warps")
    steps = -(-problem.K // config.BLOCK_K)
    if steps < DEFERRED_STEPS:
        return Rejection("few_steps", f"{steps} steps along K, and the tile before takes {DEFERRED_STEPS - 1} to store")
    return None


def _unfit_split(config: Config, problem: Problem, target: Target, tiles: int) -> Rejection | None:
    steps = -(-problem.K // config.BLOCK_K)
    if steps < config.SPLIT_K:
        return Rejection("idle_splits", f"{config.SPLIT_K} CTAs share {steps} steps along K")
    if problem.mode == "train" and problem.M > WHOLE_COLUMNS:
        return Rejection("rows", f"the second kernel holds whole columns of {WHOLE_COLUMNS} rows at most")
    if tiles >= target.sms:
        return Rejection("many_tiles", f"{tiles} tiles give each of {target.sms} SMs one without splitting K")
    if tiles * config.SPLIT_K > CTAS_PER_SM_TO_SPLIT_FOR * target.sms:
        return Rejection("many_splits", f"{tiles * config.SPLIT_K} CTAs for {target.sms} SMs")
    return None


def _too_large_for(config: Config, problem: Problem) -> Rejection | None:
    for block, size in (("BLOCK_M", problem.M), ("BLOCK_N", problem.N), ("BLOCK_K", problem.K)):
        covering = max(16, 1 << (size - 1).bit_length())
        if getattr(config, block) > covering:
            return Rejection("tile_too_large", f"{block} {getattr(config, block)} for a size of {size}")
    steps = -(-problem.K // config.BLOCK_K)
    if config.num_stages > max(2, steps + 1):
        return Rejection("idle_stages", f"{config.num_stages} stages for {steps} steps along K")
    tile_rows = -(-problem.M // config.BLOCK_M)
    if config.GROUP_M > 1 and tile_rows == 1:
        return Rejection("no_effect", "GROUP_M orders rows of tiles, and there is one row")
    return None


def _is_lopsided(config: Config) -> bool:
    """Whether a tile is out of proportion: it moves many bytes for few products, or is deep beyond use.

    Work a byte of a tile grows with BLOCK_M*BLOCK_N/(BLOCK_M+BLOCK_N); wider than 8 to 1 it is under a third of the
    square tile's. A step along K shorter than 32 does not amortise its barrier; one of 256 pays for the smallest tiles
    only. CTAs that share a tile or walk through many are kept busy by loads that run ahead, three stages or more of
    them; the first need no more than four warps, and no more than two for the smallest tiles.
    """
    long, short = max(config.BLOCK_M, config.BLOCK_N), min(config.BLOCK_M, config.BLOCK_N)
    if long > 8 * short or config.BLOCK_K == 16:
        return True
    if (config.variant == "split_k" or config.is_walking) and config.num_stages < 3:
        return True
    small = long * short <= 32 * 32
    if config.variant == "split_k" and config.num_warps != (2 if small else 4):
        return True
    if config.is_walking and config.num_warps == 2 and not small:
        return True
    return config.BLOCK_K == 256 and long * short > 64 * 64
