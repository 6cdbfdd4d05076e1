"""The op that tests of the engine take as their sample, by names that any op could have.

It is one that comes with fusetune, so that files name it and commands find it without being told where it is. Whose op
it is nobody but this folder knows: another one as the sample is a change here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC, GemmScale
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.gemm_scale.space import SEED_SPACE, Space, candidates, pipelined_shared_bytes, reject_reason

__all__ = [
    "ANOTHER_KERNEL",
    "BASELINE",
    "Config",
    "EVALUATION",
    "FILE",
    "FILES",
    "IMPOSSIBLE",
    "LARGE_TILE",
    "LIBRARIES",
    "OP",
    "OP_WITH_MODES",
    "PLACE",
    "Problem",
    "SEED_SPACE",
    "SIZES",
    "SPEC",
    "SampleSpec",
    "Space",
    "TRAINING",
    "WALKING",
    "candidates",
    "columns_of",
    "damaged",
    "depth_of",
    "ladder",
    "make_problem",
    "pipelined_shared_bytes",
    "reject_reason",
    "tile",
    "tile_elements",
]

SampleSpec = GemmScale
OP: Final = SPEC.name
OP_WITH_MODES: Final = f"{OP}_bn"
TRAINING: Final = "train"
EVALUATION: Final = "eval"
"""The modes of the op that has some; `OP` has none."""
PLACE: Final = "fusetune.ops.gemm_scale.linear_scale:SPEC"
FILE: Final = f"{OP}.yaml"
"""What a file of its configs is called."""
FILES: Final = Path(__file__).parent / "files"
"""Files of configs, good and bad; a name says which."""
SIZES: Final = ("--M", "128", "--K", "1024", "--N", "512")
"""A problem of it on the command line."""
LIBRARIES: Final = (Config(variant="library"), Config(variant="library_folded"))
"""Configs that stand for a library's own kernel, and for one that folds what comes after it into its operands."""
LARGE_TILE: Final = Config("persistent", 128, 256, 64, GROUP_M=8, num_warps=8, num_stages=3)
"""A config of a large tile, of another kernel than BASELINE's."""
ANOTHER_KERNEL: Final = Config(variant="deferred")
"""A config of one more kernel."""
WALKING: Final = Config("persistent", 128, 256, 128, GROUP_M=16, SPLIT_K=8, num_warps=16, num_stages=4)
"""A config with all that a label can name."""


def tile(rows: int = 64, columns: int = 64, depth: int = 32, **more: Any) -> Config:
    """A config of a tile of so many rows and columns, in steps of `depth`."""
    return Config(BLOCK_M=rows, BLOCK_N=columns, BLOCK_K=depth, **more)


def tile_elements(config: Config) -> int:
    """How many elements of the result a tile has."""
    return config.BLOCK_M * config.BLOCK_N


def columns_of(problem: Problem) -> int:
    """How many columns the result has."""
    return problem.N


def depth_of(config: Config) -> int:
    """How many elements a step of a tile takes at once."""
    return config.BLOCK_K


def ladder(count: int) -> list[Config]:
    """Configs that differ in a constant alone."""
    return [Config(BLOCK_N=32, GROUP_M=2 + step) for step in range(count)]


def damaged(text: str) -> str:
    """A file's text with a word for a number in a config whose steps are of 128."""
    return text.replace("BLOCK_K: 128", "BLOCK_K: many")


IMPOSSIBLE: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "tiled with a SPLIT_K of 2": (("SPLIT_K: 1", "SPLIT_K: 2"),),
    "split_k with a SPLIT_K of 1": (("variant: tiled", "variant: split_k"),),
    "split_k with more parts than steps": (("variant: tiled", "variant: split_k"), ("SPLIT_K: 1", "SPLIT_K: 64")),
    f"reread in {OP}": (("variant: tiled", "variant: reread"),),
    f"owner in {OP}": (("variant: tiled", "variant: owner"),),
    "deferred in float32": (("variant: tiled", "variant: deferred"),),
    "folded weights without BatchNorm": (("variant: tiled", "variant: library_folded"),),
    "a tile that no registers hold": (("BLOCK_M: 64", "BLOCK_M: 1024"), ("BLOCK_N: 16", "BLOCK_N: 1024")),
    "a tile of 48 rows": (("BLOCK_M: 64", "BLOCK_M: 48"),),
}
"""What makes a config that nothing can launch of a file's one entry, of 64 rows by 16 columns: texts and others."""
