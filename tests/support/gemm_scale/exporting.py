"""Modules to export in tests: each variant and mode once, without files of configs."""

from __future__ import annotations

from msgspec import structs

from fusetune.core.target import Target
from fusetune.nn.export.choice import Choice
from fusetune.nn.export.module import module_text
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Dtype, Problem, make_problem
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import KernelSpec
from fusetune.store.lookup import Lookup

TILED = Config(BLOCK_M=32, BLOCK_N=16, BLOCK_K=64, GROUP_M=2, num_stages=3)
WHOLE_COLUMNS = Config(BLOCK_M=64, BLOCK_N=16, BLOCK_K=32)
VECTORED = Config(variant="vectored", BLOCK_M=32, BLOCK_N=16, BLOCK_K=64, GROUP_M=2, num_stages=3)
SPLIT = Config(variant="split_k", BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, SPLIT_K=4)
JOINED = Config(variant="split_k", BLOCK_M=32, BLOCK_N=32, BLOCK_K=32, SPLIT_K=2)
JOINED_COLUMNS = Config(variant="split_k", BLOCK_M=64, BLOCK_N=16, BLOCK_K=32, SPLIT_K=2)
PERSISTENT = Config(variant="persistent", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3)
PERSISTENT_SPLIT = Config(variant="persistent", BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, SPLIT_K=4, num_stages=3)
PERSISTENT_JOINED = Config(variant="persistent", BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, SPLIT_K=2, num_stages=3)
MASKED = Config(variant="masked", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3)
PADDED = Config(variant="padded", BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, GROUP_M=2, num_stages=3)
PADDED_SPLIT = Config(variant="padded", BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, SPLIT_K=3, num_stages=3)
PADDED_JOINED = Config(variant="padded", BLOCK_M=64, BLOCK_N=32, BLOCK_K=32, SPLIT_K=2, num_stages=3)
DEFERRED = Config(variant="deferred", BLOCK_M=32, BLOCK_N=64, BLOCK_K=16, num_stages=3)
REREAD = Config(variant="reread", BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, num_stages=3)
OWNER = Config(variant="owner", BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, num_stages=3)
"""Both in training; for everything else, the same tiles as `persistent`."""
CONFIGS = {
    "baseline": BASELINE,
    "tiled": TILED,
    "vectored": VECTORED,
    "columns": WHOLE_COLUMNS,
    "split_k": SPLIT,
    "joined": JOINED,
    "joined_columns": JOINED_COLUMNS,
    "persistent": PERSISTENT,
    "persistent_split": PERSISTENT_SPLIT,
    "persistent_joined": PERSISTENT_JOINED,
    "masked": MASKED,
    "padded": PADDED,
    "padded_split": PADDED_SPLIT,
    "padded_joined": PADDED_JOINED,
    "reread": REREAD,
    "owner": OWNER,
    "deferred": DEFERRED,
}
OPS = ("gemm_scale", "gemm_scale_bn")


def modes_of(op: str) -> tuple[str | None, ...]:
    """The modes of an op, or None for one without."""
    return ("train", "eval") if op == "gemm_scale_bn" else (None,)


def dtype_of(config: Config) -> Dtype:
    """What a config is exported for here, unless a test says otherwise."""
    return "float16" if config == DEFERRED else "float32"


def in_mode(config: Config, mode: str | None) -> Config:
    """What stands for a config that is for training alone."""
    return structs.replace(config, variant="persistent") if config in (REREAD, OWNER) and mode != "train" else config


def choice_of(problem: Problem, config: Config) -> Choice:
    """A config for a problem, as if a file held it."""
    tried = tuple(dict.fromkeys([config, BASELINE]))
    return Choice(problem, Lookup(config, "baseline"), tried)


def exported(
    op: str,
    config: Config,
    target: Target,
    *,
    sizes: tuple[int, int, int] = (48, 80, 96),
    dtype: Dtype | None = None,
    autotune: bool = False,
) -> str:
    """The text of a module for M, N, K of `sizes`."""
    dtype = dtype or dtype_of(config)
    # Many tests look at one and the same module.
    key = (op, config, target.name, target.capability, sizes, dtype, autotune)
    if key not in _texts:
        spec: KernelSpec = load_spec(op)
        choices = [choice_of(make_problem(*sizes, dtype, mode=mode), in_mode(config, mode)) for mode in modes_of(op)]
        _texts[key] = module_text(spec, choices, target, autotune=autotune)
    return _texts[key]


_texts: dict[tuple[object, ...], str] = {}
