"""What a grid must have been computed from, by its numbers alone: tiles that cover sizes, if nothing else fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusetune.capture.expressions import cdiv
from fusetune.capture.tiling import Tiling

_UNKNOWN: Final = Tiling({}, {})


class Point(NamedTuple):
    """One launch of a kernel: its grid, all its arguments by name, and those of them that are constants."""

    grid: tuple[int, ...]
    named: Mapping[str, Any]
    constants: Mapping[str, Any]


class Inferred(NamedTuple):
    """Source of the grid over constants, empty where there is none; why; and the constants that it may follow."""

    text: str
    why: str
    suspects: frozenset[str]


class _Form(NamedTuple):
    """A number of programs: of each pair, how many tiles of the second cover the size that the first names."""

    tiles: tuple[tuple[str, str], ...]
    times: str = ""

    def at(self, sizes: Mapping[str, int], constants: Mapping[str, Any]) -> int | None:
        found = sizes.get(self.times) if self.times else 1
        for size, tile in self.tiles:
            if found is None or size not in sizes or not _is_tile(constants.get(tile)):
                return None
            found *= cdiv(sizes[size], constants[tile])
        return found

    def text(self, sizes: Mapping[str, int]) -> str:
        """The form over its tiles, with the sizes as numbers: two forms of one text are one function."""
        parts = sorted(f"cdiv({sizes[size]}, {tile})" for size, tile in self.tiles)
        return " * ".join([*parts, *([str(sizes[self.times])] if self.times else [])])

    def told(self) -> str:
        parts = [f"cdiv({size}, {tile})" for size, tile in self.tiles]
        return " * ".join([*parts, *([self.times] if self.times else [])])


def inferred(points: Sequence[Point], tiling: Tiling = _UNKNOWN) -> Inferred:
    """The one way to compute the first point's grid from its constants that fits every point, or why there is none.

    A size of the launch that is the number itself goes before any tile, since a grid of one program a row is as common.
    What the kernel does with its constants tells apart tiles of one number.
    """
    first = points[0]
    sizes = [sizes_of(one.named, one.constants) for one in points]
    texts: list[str] = []
    told: list[str] = []
    suspects: set[str] = set()
    for axis, number in enumerate(first.grid):
        wanted = [one.grid[axis] if axis < len(one.grid) else 1 for one in points]
        forms = list(_fitting(points, sizes, wanted, number))
        same = _plain([one.constants for one in points], wanted, {})
        distinct: dict[str, _Form] = {}
        for form in forms:
            distinct.setdefault(form.text(sizes[0]), form)  # Arguments come before shapes, and are the program's words.
        meant = {text: form for text, form in distinct.items() if _is_meant(form, axis, sizes[0], tiling)}
        if len(distinct) > 1 and len(meant) == 1:
            distinct = meant
        suspects |= {name for name in _all(first) if first.constants[name] == number}
        if number == 1 and all(one == 1 for one in wanted):
            # Tiles that are larger than what they cover: one of another size may need more of them.
            suspects |= {tile for form in forms for _, tile in form.tiles} if axis == 0 else set()
            texts.append("1")
        elif not distinct:
            if any(one != number for one in wanted) and not _plain(sizes, wanted, {}):
                return Inferred(
                    "", f"axis {axis} of the grid differs between launches, and nothing explains it", _all(first)
                )
            texts.append(str(number))
        elif named := _plain(sizes, wanted, first.constants):
            suspects |= {tile for form in forms for _, tile in form.tiles}
            texts.append(str(number))
            told.append(f"axis {axis} is {named}")
        elif len(distinct) > 1 or same:
            some = " or ".join([*(form.told() for form in distinct.values()), *([same] if same else [])][:2])
            return Inferred(
                "", f"axis {axis} of the grid, {number}, may be {some}", frozenset(suspects) | _tiles(forms)
            )
        else:
            ((text, form),) = distinct.items()
            texts.append(text)
            told.append(f"axis {axis} is {form.told()}")
    text = f"({', '.join(texts)})" if len(texts) > 1 else f"({texts[0]},)"
    followed = {name for name in first.constants if any(f", {name})" in one for one in texts)}
    if not followed:
        why = "; ".join(told) or "no tile explains the grid's numbers"
        return Inferred("", why, frozenset(suspects))
    return Inferred(text, f"by its numbers, {'; '.join(told)}, and nothing else", frozenset(suspects - followed))


def sizes_of(named: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, int]:
    """The sizes in a launch by how they are told: integer arguments, dimensions of tensors, products of dimensions."""
    found = {name: value for name, value in {**named, **constants}.items() if _is_size(value)}
    for name, value in named.items():
        shape = shape_of(value)
        for first in range(len(shape)):
            product = 1
            for last in range(first, len(shape)):
                product *= shape[last]
                if product > 0:
                    found[_product_told(name, first, last, len(shape))] = product
    return found


def shape_of(value: Any) -> tuple[int, ...]:
    """The dimensions of a tensor or a descriptor of one; none of anything else."""
    shape = getattr(value, "shape", None)
    if shape is None or not all(isinstance(one, int) for one in shape):
        return ()
    return tuple(int(one) for one in shape)


def _product_told(name: str, first: int, last: int, count: int) -> str:
    if first == last:
        return f"{name}.shape[{first}]"
    if (first, last) == (0, count - 1):
        return f"{name}.numel()"
    return f"prod({name}.shape[{first}:{last + 1}])"


def _fitting(
    points: Sequence[Point], sizes: Sequence[Mapping[str, int]], wanted: Sequence[int], number: int
) -> Iterator[_Form]:
    """The forms that give the wanted number at every point."""
    for form in _forms(sizes[0], points[0].constants, number):
        if all(form.at(size, point.constants) == one for size, point, one in zip(sizes, points, wanted, strict=True)):
            yield form


def _forms(sizes: Mapping[str, int], constants: Mapping[str, Any], number: int) -> Iterator[_Form]:
    tiles = [name for name, value in constants.items() if _is_tile(value)]
    # A constant is a size only where it is larger than every tile: a tile does not cut another.
    covered = {
        told: size for told, size in sizes.items() if told not in tiles or size > max(constants[t] for t in tiles)
    }
    single = [
        (told, tile, cdiv(size, constants[tile])) for told, size in covered.items() for tile in tiles if told != tile
    ]
    for told, tile, count in single:
        if count == number:
            yield _Form(((told, tile),))
    if number == 1:
        return
    for told, tile, count in single:
        if not 1 < count < number or number % count:
            continue
        rest = number // count
        for times, size in covered.items():
            if size == rest and times != told:
                yield _Form(((told, tile),), times)
        for other, second, parts in single:
            if parts == rest and (told, tile) < (other, second):
                yield _Form(((told, tile), (other, second)))


def _plain(sizes: Sequence[Mapping[str, Any]], wanted: Sequence[int], but: Mapping[str, Any]) -> str:
    """A size that is the number itself at every point, and is none of `but`; empty if there is none."""
    for told in sizes[0]:
        if told not in but and all(one.get(told) == number for one, number in zip(sizes, wanted, strict=True)):
            return told
    return ""


def _is_meant(form: _Form, axis: int, sizes: Mapping[str, int], tiling: Tiling) -> bool:
    """Whether the kernel multiplies this axis' programs by each tile of a form, and by it covers the size there."""
    for told, tile in form.tiles:
        covered = tiling.covers.get(tile, frozenset())
        known = {sizes[one] for one in covered if one in sizes}
        if axis not in tiling.axes.get(tile, ()) or (covered and sizes[told] not in known):
            return False
    return True


def _tiles(forms: Sequence[_Form]) -> frozenset[str]:
    return frozenset(tile for form in forms for _, tile in form.tiles)


def _all(point: Point) -> frozenset[str]:
    return frozenset(name for name, value in point.constants.items() if _is_tile(value))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_tile(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1
