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
VECTORED: Final = _of("vectored", "vectored_products")
"""What launches of `vectored` run besides."""
LATER: Final[Mapping[str, Mapping[str, Code]]] = {
    "gemm_scale": {"deferred": DEFERRED, "vectored": VECTORED},
    "gemm_scale_bn": {"deferred": DEFERRED, "owner": OWNER, "library": OWNER, "vectored": VECTORED},
}
"""By op and variant, what variants that came later run besides what all others share."""


def loaded(code: Code) -> tuple[Any, ...]:
    """The functions themselves, for which Triton is loaded."""
    return tuple(getattr(import_module(f"{__package__}.{module}"), name) for module, name in code)


def source_hash(op: str, config: Config | None = None) -> str:
    """The hash of a variant's code, or of all of an op. Those that came first share one."""
    return _hash_of(op, None if config is None else config.variant)


@functools.cache
def _hash_of(op: str, variant: str | None) -> str:
    later = LATER[op]
    chosen = later if variant is None else {variant} & later.keys()
    code = dict.fromkeys((*SHARED, *(one for name in chosen for one in later[name])))
    return hash_sources(*(_functions(module)[name] for module, name in code))


@functools.cache
def _functions(module: str) -> Mapping[str, str]:
    return functions_in(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
