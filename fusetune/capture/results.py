"""What a program gives as tensors by their places in it, on disk, and by how much two of these differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fusetune.capture.oracle import FROBENIUS, MAXIMUM

if TYPE_CHECKING:
    import torch

Results = dict[str, Any]
"""Tensors, numbers and words by their places, as `0.logits`."""
_CHUNK: Final = 1 << 24
"""Elements that are compared at a time, so that comparing takes little memory beside the tensors."""
_DEEPEST: Final = 20
_TINY: Final = 1e-30


class Difference(msgspec.Struct, frozen=True):
    """How far results are from others: the worst of their parts, each in its own measure.

    `error` is the relative Frobenius error, `largest` the largest error of an element over the root mean square;
    `part` is where. `allowed` is what rounding to the worst part's dtype may err by.
    `wrong` says what no tolerance allows, as other shapes, whole numbers that differ, or NaN on one side alone.
    """

    error: float = 0.0
    largest: float = 0.0
    part: str = ""
    allowed: float = 0.0
    wrong: str | None = None

    def is_none(self) -> bool:
        """Whether both are the very same."""
        return self.wrong is None and self.error == 0.0 and self.largest == 0.0

    def told(self) -> str:
        """In a few words: `relative error 1.2e-07`."""
        return self.wrong or (f"relative error {self.error:.1e}" if self.error else "max error 0")


def results_of(value: Any) -> Results:
    """Copies of the tensors, numbers and words in lists, tuples, dicts and dataclasses, without what else is there."""
    return dict(_parts("", value, 0))


def _parts(place: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "untyped_storage"):
        held = value.detach()
        yield place, held.to_dense() if held.is_sparse else held.clone()
    elif value is None or isinstance(value, bool | int | float | str):
        yield place, value
    elif depth >= _DEEPEST:
        return
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _parts(_below(place, key), one, depth + 1)
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _parts(_below(place, number), one, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for one in dataclasses.fields(value):
            yield from _parts(_below(place, one.name), getattr(value, one.name), depth + 1)


def _below(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)


def have_tensors(results: Results) -> bool:
    """Whether there is anything in them that a kernel may have computed."""
    return any(hasattr(one, "untyped_storage") or isinstance(one, float) for one in results.values())


def on_cpu(results: Results) -> Results:
    """The same with tensors in the CPU's memory."""
    return {place: one.cpu() if hasattr(one, "untyped_storage") else one for place, one in results.items()}


def save(results: Results, path: Path) -> None:
    """Write results to a file of the owner's folder, tensors in the CPU's memory. Raises OSError."""
    import torch

    torch.save(on_cpu(results), path)


def load(path: Path) -> Results:
    """Results that `save` wrote."""
    import torch

    loaded: Results = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def in_dtypes_of(results: Results, others: Results) -> Results:
    """Others with each tensor rounded to the dtype of its counterpart in the results."""
    return {
        place: one.to(results[place].dtype) if hasattr(one, "to") and hasattr(results.get(place), "dtype") else one
        for place, one in others.items()
    }


def difference(results: Results, expected: Results) -> Difference:
    """By how much results differ from those that are expected."""
    if results.keys() != expected.keys():
        other = sorted(results.keys() ^ expected.keys())
        return Difference(wrong=f"the result has other parts: {other[0] or 'the whole'}")
    worst = Difference()
    for place in results:
        found = _difference_of(place or "the result", results[place], expected[place])
        if found.wrong is not None:
            return found
        if _measure(found) >= _measure(worst):
            worst = found
    return worst


def _measure(found: Difference) -> float:
    return max(found.error, found.largest / MAXIMUM) / (found.allowed or 1e-30)


def _difference_of(place: str, mine: Any, theirs: Any) -> Difference:
    import torch

    if isinstance(mine, float) and isinstance(theirs, float):
        mine, theirs = torch.tensor([mine], dtype=torch.float64), torch.tensor([theirs], dtype=torch.float64)
        return msgspec.structs.replace(_of_tensors(place, mine, theirs), allowed=FROBENIUS["float32"])
    if not hasattr(mine, "untyped_storage") or not hasattr(theirs, "untyped_storage"):
        same = type(mine) is type(theirs) and mine == theirs
        return Difference() if same else Difference(wrong=f"{place} is {mine!r:.40}, and was {theirs!r:.40}")
    if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
        now, then = (f"{one.dtype} {list(one.shape)}" for one in (mine, theirs))
        return Difference(wrong=f"{place} is {now}, and was {then}")
    return _of_tensors(place, mine, theirs)


def _of_tensors(place: str, mine: torch.Tensor, theirs: torch.Tensor) -> Difference:
    allowed = FROBENIUS.get(str(mine.dtype).removeprefix("torch."), FROBENIUS["float32"])
    squares = norm = largest = 0.0
    count = 0
    for one, other in _chunks(mine, theirs):
        if not (one.dtype.is_floating_point or one.dtype.is_complex):
            if unlike := int((one != other).sum()):
                return Difference(part=place, wrong=f"{unlike:,} whole numbers differ in {place}")
            continue
        a, b = _doubles(one), _doubles(other)
        nan = a.isnan()
        if bool((nan != b.isnan()).any()):
            return Difference(part=place, wrong=f"{place} has NaN where the other has none")
        distance = (a - b).masked_fill((a == b) | nan, 0.0)
        if not bool(distance.isfinite().all()):
            return Difference(part=place, wrong=f"{place} has other infinities")
        finite = b.nan_to_num(0.0, 0.0, 0.0)
        squares += float((distance * distance).sum())
        norm += float((finite * finite).sum())
        largest = max(largest, float(distance.abs().max()))
        count += int(finite.numel())
    if squares == 0.0:
        return Difference(part=place, allowed=allowed)
    if norm == 0.0:
        return Difference(part=place, wrong=None if largest < _TINY else f"{place} was 0 everywhere, and is not")
    return Difference(math.sqrt(squares / norm), largest / math.sqrt(norm / count), place, allowed)


def _chunks(mine: torch.Tensor, theirs: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    flat, other = mine.reshape(-1), theirs.to(mine.device).reshape(-1)
    for at in range(0, flat.numel(), _CHUNK):
        yield flat[at : at + _CHUNK], other[at : at + _CHUNK]


def _doubles(part: torch.Tensor) -> torch.Tensor:
    import torch

    return (torch.view_as_real(part) if part.dtype.is_complex else part).double()
