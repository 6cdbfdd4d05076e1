"""The sizes of `benchmarks/sizes.py`: thirty that a seed draws, four that are named, and others to fit by, as cells.

M is log-uniform in 1..16384, K and N in 64..16384. Of three sizes that follow each other one has K and N that are
multiples of 128, one multiples of 8, one odd ones, and each has another dtype; which form goes with which dtype turns.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from family_sweeps import KINDS, Cell

SEED: Final = 20261130
FITTED_SEED: Final = 20261201
DRAWN: Final = 30
MOST_ROWS, LEAST, MOST = 16384, 64, 16384
Form = Literal["multiples of 128", "multiples of 8", "odd"]
FORMS: Final[tuple[Form, ...]] = ("multiples of 128", "multiples of 8", "odd")
FITTED: Final = 24
Group = Literal["named", "drawn", "normalized", "fitting"]
GROUPS: Final[tuple[Group, ...]] = ("named", "drawn", "normalized")
NAMED: Final = (
    (1500, 7000, 1100, "float16"),
    (300, 5000, 1000, "float16"),
    (640, 5120, 1280, "bfloat16"),
    (96, 14336, 4096, "bfloat16"),
)
"""M, K, N at which cuBLAS with our finishing kernel was ahead on an H100; what is drawn does not have them."""
WITHOUT_PRIOR: Final = 6
"""Of so many drawn sizes a sweep with `--prior off` tells what the prior costs."""


class Sized(NamedTuple):
    """A cell, why it is here, and how its K and N were drawn; of some cells a sweep is made without the prior too."""

    cell: Cell
    group: Group
    form: Form | None
    without_prior: bool = False


def drawn(seed: int = SEED, count: int = DRAWN) -> list[Sized]:
    """The drawn sizes for gemm_scale."""
    rng = random.Random(seed)
    found = []
    for place in range(count):
        three, within = divmod(place, 3)
        form = FORMS[(within + three) % 3]
        M = round(_log_uniform(rng, 1, MOST_ROWS))
        K, N = (_as(form, _log_uniform(rng, LEAST, MOST)) for _ in range(2))
        every = max(1, count // WITHOUT_PRIOR)
        found.append(Sized(Cell(M, K, N, KINDS[within], "gemm_scale"), "drawn", form, place % every == 0))
    return found


def normalized(sizes: Sequence[Sized]) -> list[Sized]:
    """One of each three drawn sizes, with BatchNorm in training and in evaluation; training takes two rows or more."""
    found = []
    for three in range(len(sizes) // 3):
        first = (three + three // 3) % 3
        turned = [sizes[3 * three + (first + step) % 3] for step in range(3)]
        chosen = next((one for one in turned if one.cell.M > 1), None)
        for op in ("train", "eval") if chosen else ():
            cell = chosen.cell
            found.append(Sized(Cell(cell.M, cell.K, cell.N, cell.kind, op), "normalized", chosen.form))
    return found


def all_sizes() -> list[Sized]:
    """Every cell, the named ones first."""
    sizes = drawn()
    named = [Sized(Cell(*one, "gemm_scale"), "named", None) for one in NAMED]
    return [*named, *sizes, *normalized(sizes)]


def fitted() -> list[Sized]:
    """Other sizes, drawn alike, whose sweeps the cost model's constants may be fitted to: none of them is judged."""
    judged = {(one.cell.M, one.cell.K, one.cell.N) for one in all_sizes()}
    found = (one._replace(group="fitting", without_prior=False) for one in drawn(FITTED_SEED, FITTED))
    return [one for one in found if (one.cell.M, one.cell.K, one.cell.N) not in judged]


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _as(form: Form, size: float) -> int:
    """The nearest size of a form between LEAST and MOST."""
    if form == "odd":
        return min(max(2 * round((size - 1) / 2) + 1, LEAST + 1), MOST - 1)
    step = 128 if form == "multiples of 128" else 8
    return min(max(step * round(size / step), step, LEAST), MOST)
