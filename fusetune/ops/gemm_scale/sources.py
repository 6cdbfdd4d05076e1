"""Which code the launches of a config may run, by name; and its hash, for which no Triton is loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.hashing import functions_in, hash_sources

Code = tuple[tuple[str, str], ...]
"""Module of this folder and name of each function."""


def _of(module: str, *names: str) -> Code:
    return tuple((module, name) for name in names)


SHARED: Final[Code] = (
    *_of("endings", "await_others", "prefetch", "prefetch_vectors", "scaled", "normalized_by_running"),
    *_of("endings", "column_moments", "store_moments", "batch_factor"),
    *_of("endings", "arrives_last", "sum_of_all", "update_running", "finished"),
    *_of("tiles", "place_of", "rounded_to_tf32", "tiled_products", "store_finished", "joined_products"),
    *_of("tiles", "persistent_products", "halves", "store_half", "store_part"),
    *_of("endings", "finish_split", "moments_of_rows", "normalize_columns"),
)
"""All code that launches of most variants may run: what an entry was tuned with."""
DEFERRED: Final = _of(
    "deferred", "column_affine", "with_affine", "as_pairs", "from_pairs", "store_pairs", "deferred_products"
)
"""What launches of `deferred` may run besides."""
OWNER: Final = _of("owner", "normalize_owned_columns")
"""What launches of `owner`, and of a library in training, may run besides."""
MASKED: Final = _of("tiles", "store_masked")
"""What launches of `masked` may run besides, where `GUARD` says so."""
VECTORED: Final = _of("vectored", "vectored_products")
"""What launches of `vectored` run besides."""
PADDED: Final = _of("padded", "copied_block", "padded_rows")
"""What launches of `padded` run besides, and what those of `masked` do."""
LATER: Final[Mapping[str, Mapping[str, Code]]] = {
    "gemm_scale": {"deferred": DEFERRED, "vectored": VECTORED, "masked": MASKED, "padded": (*MASKED, *PADDED)},
    "gemm_scale_bn": {
        "deferred": DEFERRED,
        "owner": OWNER,
        "library": OWNER,
        "vectored": VECTORED,
        "masked": MASKED,
        "padded": (*MASKED, *PADDED),
    },
}
"""By op and variant, in the order that they came, what later variants run besides what all others share."""
GUARD: Final = (("masked", "padded"), "MASKED")
"""Variants, and the constant that is True in their launches alone.

What that guards is compiled for no other variant, and so no part of their hashes: what was tuned before there was any
of it is what runs now.
"""


def loaded(code: Code) -> tuple[Any, ...]:
    """The functions themselves, for which Triton is loaded."""
    return tuple(getattr(import_module(f"{__package__}.{module}"), name) for module, name in code)


def source_hash(op: str, config: Config | None = None) -> str:
    """The hash of a variant's code, or of all of an op. Those that came first share one."""
    later = LATER[op]
    return _hash_of(op, tuple(later) if config is None else tuple({config.variant} & later.keys()))


def hashes_so_far(op: str) -> tuple[str, ...]:
    """What the hash of all of an op was with the first of the variants that came later alone, with two, and so on.

    The first is that of none of them, the last that of now: kernels that there were already are the same in each.
    """
    later = tuple(LATER[op])
    return tuple(dict.fromkeys(_hash_of(op, later[:count]) for count in range(len(later) + 1)))


@functools.cache
def _hash_of(op: str, chosen: tuple[str, ...]) -> str:
    later = LATER[op]
    code = dict.fromkeys((*SHARED, *(one for name in chosen for one in later[name])))
    guarded, constant = GUARD
    sources = (_functions(module)[name] for module, name in code)
    return hash_sources(*sources, without=None if any(name in chosen for name in guarded) else constant)


@functools.cache
def _functions(module: str) -> Mapping[str, str]:
    return functions_in(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
