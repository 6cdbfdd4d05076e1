"""Which parameters of a launch may vary, and for every other one the reason why it may not."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusetune.capture.expressions import NotPureError, cdiv, evaluated, next_power_of_2
from fusetune.capture.grids import GridRule
from fusetune.capture.inferred import shape_of
from fusetune.capture.kernel_facts import KernelFacts, facts_of
from fusetune.capture.tiling import Tiling, tiling_of
from fusetune.capture.written_again import divided

WARPS: Final = (1, 2, 4, 8, 16)
STAGES: Final = (1, 2, 3, 4, 5)
CTAS: Final = (1, 2, 4)
REGISTERS: Final = (64, 96, 128, 168, 255)
LAYOUT: Final = re.compile(
    r"(?:\w+_)?(?:PAGE_?SIZE|CHUNK(_?SIZE)?|QUANT_?(BLOCK|GROUP)(_?SIZE)?|(BLOCK|GROUP)_?SIZE_?QUANT|BLOCK_?SEQ|SCALE_?BLOCK(_?SIZE)?"
    r"|GROUP(_?SIZE)?(_K)?)",
    re.IGNORECASE,
)
"""Names of constants that say how the input lies in memory. A group of rows of tiles, `..._M`, is none."""
_LARGEST: Final = 65536
_DEFAULTS: Final = {"num_warps": 4, "num_stages": 3, "num_ctas": 1, "maxnreg": None}


class Knob(NamedTuple):
    """One parameter of a launch: whether it may vary, why or why not, and the values to try, its own among them.

    `again`: what keeps it is what else the program makes of its value, or what is not known of that, so that running
    the program with another value in its source may still show a better one.
    """

    name: str
    value: Any
    varies: bool
    reason: str
    values: tuple[Any, ...] = ()
    again: bool = False


def knobs_of(
    kernel: Any,
    named: Mapping[str, Any],
    constants: Mapping[str, Any],
    grid: GridRule,
    options: Mapping[str, Any],
    *,
    proposals: Sequence[Mapping[str, Any]] = (),
    heuristics: Collection[str] = (),
) -> tuple[Knob, ...]:
    """Each option and constant of a launch as a knob, the options first.

    `named` are all arguments by name, `proposals` the configs of the program's own list: their constants and options.
    `heuristics` are the constants that functions of the program compute before each launch.
    """
    try:
        facts: KernelFacts | None = facts_of(kernel)
    except (OSError, TypeError, SyntaxError, ValueError):
        facts = None
    case = _Case({**named, **constants}, constants, grid, facts, proposals, heuristics, tiling_of(kernel))
    given = {
        name: value for name, value in constants.items() if name in _DEFAULTS
    }  # Triton gives these to the kernel, too.
    others = [case.knob(name, value) for name, value in constants.items() if name not in given]
    return (*_options({**given, **options}, facts, proposals), *others)


def _options(
    options: Mapping[str, Any], facts: KernelFacts | None, proposals: Sequence[Mapping[str, Any]]
) -> tuple[Knob, ...]:
    held = {**_DEFAULTS, **{name: value for name, value in options.items() if value is not None}}
    warps, stages = held["num_warps"], held["num_stages"]
    pipelined = facts is None or facts.pipelined
    return (
        Knob(
            "num_warps",
            warps,
            True,
            "any launch may have another",
            _merged(WARPS, warps, _listed("num_warps", proposals)),
        ),
        Knob(
            "num_stages",
            stages,
            True,
            "loops of the kernel load",
            _merged(STAGES, stages, _listed("num_stages", proposals)),
        )
        if pipelined
        else Knob("num_stages", stages, False, "no loop to pipeline", (stages,)),
        Knob("num_ctas", held["num_ctas"], False, "on request", _merged(CTAS, held["num_ctas"])),
        Knob("maxnreg", held["maxnreg"], False, "on request", (held["maxnreg"], *REGISTERS)),
    )


class _Case:
    """One launch, of which each constant is asked in turn."""

    def __init__(
        self,
        named: Mapping[str, Any],
        constants: Mapping[str, Any],
        grid: GridRule,
        facts: KernelFacts | None,
        proposals: Sequence[Mapping[str, Any]],
        heuristics: Collection[str],
        tiling: Tiling,
    ) -> None:
        self._named = named
        self._constants = constants
        self._grid = grid
        self._facts = facts
        self._proposals = proposals
        self._heuristics = heuristics
        self._tiling = tiling
        self._tiles = {size for one in named.values() for size in getattr(one, "block_shape", ())}
        self._dimensions = {
            f"{name}.shape[{axis}]": size for name, one in named.items() for axis, size in enumerate(shape_of(one))
        }

    def knob(self, name: str, value: Any) -> Knob:
        """Whether a constant may vary.

        What the program's own list varies does, unless the launch's other arguments would have to follow.
        """
        if name in self._heuristics:
            return self._fixed(name, value, "a heuristic of the program computes it")
        if type(value) is int and value in self._tiles:
            return self._fixed(name, value, "it is a host descriptor's tile")
        found = self._by_itself(name, value)
        proposed = _listed(name, self._proposals)
        if len(proposed) < 2:
            return found
        return Knob(
            name, value, True, "the program's own list of configs varies it", _merged(found.values, value, proposed)
        )

    def _by_itself(self, name: str, value: Any) -> Knob:
        """The same without a list; the first reason against it counts."""
        if type(value) is not int:
            return self._fixed(name, value, f"it is {_kind(value)}, no size")
        if (against := self._buffer(name, value)) is not None:
            return self._fixed(name, value, against, again=True)
        if (against := self._derived(name)) is not None:
            return self._fixed(name, value, against, again=name not in self._grid.derived)
        if (against := self._no_tile(name, value)) is not None:
            return self._fixed(name, value, against)
        return self._by_grid(name, value) if name in self._grid.reads else self._by_loop(name, value)

    def _fixed(self, name: str, value: Any, reason: str, *, again: bool = False) -> Knob:
        return Knob(name, value, False, reason, (value,), again)

    def _derived(self, name: str) -> str | None:
        """Why the caller's own arithmetic keeps a constant: it is computed, or something is from it, out of sight."""
        if name in self._grid.tied and name in self._grid.derived:
            return f"it goes with {self._grid.tied[name][0]}: the caller gives both one value"
        if name in self._grid.derived:
            made_of = ", ".join(sorted(self._grid.derived[name].reads))
            return f"the caller computes it from {made_of}"
        for other, one in self._grid.derived.items():
            if name in one.reads and not one.text:
                return f"the caller computes {other} from it, in a way that is not understood"
        return None

    def _no_tile(self, name: str, value: int) -> str | None:
        if value < 1 or value & (value - 1):
            return "it is no power of two, so no tile"
        if self._facts is not None and name not in self._facts.sizes:
            return "it is no size of a block in the kernel"
        follows = name in self._grid.reads
        if LAYOUT.fullmatch(name) and not follows:
            return "by its name it says how the input lies in memory"
        if self._facts is None and not follows:
            return "the kernel's source cannot be read, and the grid does not follow it"
        return None

    def _by_grid(self, name: str, value: int) -> Knob:
        others = self._grid.tied.get(name, (name,))[1:]
        if others and (against := self._together(name, value)) is not None:
            told = f"the caller gives one value to it and to {', '.join(others)}, and {against}"
            return self._fixed(name, value, told, again=True)
        counts = {one: self._programs(name, one) for one in _around(value)}
        values = tuple(one for one, count in counts.items() if one == value or count is not None)
        for other in (name, *others) if others else ():
            if not self._tiling.axes.get(other):
                values = tuple(one for one in values if one in self._by_loop(other, value).values)
        in_turn = [count for _, count in sorted(counts.items()) if count is not None]
        if in_turn != sorted(in_turn, reverse=True):
            return self._fixed(name, value, "the grid grows with it, so it is a size and no tile")
        if not {value * 2, value // 2} & set(values):
            told = "the grid follows it, but is not known for twice or half of it"
            return self._fixed(name, value, told, again=True)
        beside = f", {', '.join(others)} with it" if others else ""
        return Knob(name, value, True, f"the grid follows it{beside}: {self._grid.why}", values)

    def _together(self, name: str, value: int) -> str | None:
        """Why constants that are given one value cannot move together: a part of the work may not follow one of them.

        Each must be a loop's tile, or one that multiplies the number of a program; the grid is divided by these, on
        each axis, as often as there are such constants, those of which are counted once that multiply the same number.
        """
        group = self._grid.tied[name]
        tiles: dict[frozenset[str], frozenset[int]] = {}
        for one in group:
            axes = self._tiling.axes.get(one, frozenset())
            tiles[self._tiling.factors.get(one, frozenset())] = axes
            if (against := self._alone(one, value, is_on_grid=bool(axes))) is not None:
                return f"of {one}: {against}"
        on_axes = Counter(axis for axes in tiles.values() for axis in axes)
        divisions: Counter[int] = Counter()
        for one in group:
            divisions.update(divided(self._grid.text, one) if self._grid.text else {})
        return None if divisions == on_axes else "how the grid follows each of them is not known"

    def _alone(self, name: str, value: int, *, is_on_grid: bool) -> str | None:
        """Why one of several constants that are given one value must stay."""
        if name in self._heuristics:
            return "a heuristic of the program computes it"
        against = self._buffer(name, value) or self._no_tile(name, value)
        if against is None and LAYOUT.fullmatch(name):
            against = "by its name it says how the input lies in memory"
        if against is None and not is_on_grid:
            found = self._by_loop(name, value)
            against = None if found.varies else found.reason
        return against

    def _programs(self, name: str, value: int) -> int | None:
        grid = self._grid.at({name: value})
        return None if grid is None else math.prod(grid)

    def _by_loop(self, name: str, value: int) -> Knob:
        bounds = self._facts.steps.get(name, frozenset()) if self._facts is not None else frozenset()
        if (tied := self._tied_to(name, value, bounds)) is not None:
            return self._fixed(name, value, tied)
        if name in self._grid.suspects:
            return self._fixed(name, value, f"the grid may follow it: {self._grid.why}", again=True)
        if not bounds:
            told = f"neither the grid nor a loop of the kernel follows it: {self._grid.why}"
            return self._fixed(name, value, told, again=True)
        reason, values = "a loop of the kernel steps by it, and the grid does not", _around(value)
        covered = [self._worth(one) for one in bounds]
        if all(one is not None for one in covered):
            most = next_power_of_2(max(one for one in covered if one is not None))
            values = tuple(one for one in values if one <= max(most, value))
        for limit, size in self._layouts():
            if size >= value and size % value == 0:
                values = tuple(one for one in values if size % one == 0)
                reason += f"; at most {limit}, {size}"
        return Knob(name, value, True, reason, values)

    def _layouts(self) -> list[tuple[str, int]]:
        """The arguments whose names say how the input lies in memory: a loop's tile may have to divide them."""
        return [
            (name, one) for name, one in self._named.items() if LAYOUT.fullmatch(name) and type(one) is int and one > 1
        ]

    def _tied_to(self, name: str, value: int, bounds: frozenset[str]) -> str | None:
        """Why a tile follows the shape. What a loop is known to cover, it covers with a smaller one, too.

        The program's own words go before those for a tensor's shape.
        """
        if bounds and all(self._worth(one) is not None or (one and not one.isidentifier()) for one in bounds):
            return None
        for size in self._dimensions.values():
            if size == value or (size > 0 and next_power_of_2(size) == value):
                return f"it is {self._shape_told(name, size, value)}: a smaller one would compute a part of it"
        return None

    def _shape_told(self, name: str, size: int, value: int) -> str:
        """What a tile as large as some size is: by the program's source, by an argument's name, or a shape's."""
        source = self._grid.sources.get(name)
        if source is not None:
            told = f"the size {size}" if size == value else f"the next power of two of {size}"
            return f"{told}, by the caller's `{source}`"
        numbers = {one: held for one, held in self._named.items() if one not in self._constants and type(held) is int}
        word = next(one for one, held in {**numbers, **self._dimensions}.items() if held == size)
        return f"the size {word}" if size == value else f"the next power of two of {word}, {size}"

    def _worth(self, bound: str) -> int | None:
        """What a loop covers, as a number; None where the launch's arguments do not say."""
        if not bound:
            return None
        try:
            found = evaluated(bound, self._named)
        except (NotPureError, SyntaxError):
            return None
        return found if type(found) is int else None

    def _buffer(self, name: str, value: Any) -> str | None:
        """Why a buffer of the program was sized by it: by the caller's source, or by this launch's numbers."""
        if name in self._grid.buffers:
            return self._grid.buffers[name]
        if type(value) is not int or value < 2 or (self._facts is not None and name not in self._facts.sizes):
            return None
        integers = {told: one for told, one in self._named.items() if type(one) is int and one > 1}
        if any(one == value and LAYOUT.fullmatch(told) for told, one in integers.items() if told != name):
            return None  # What looks as if this had sized it was sized by that.
        for told, count in self._dimensions.items():
            # A dimension that is passed as a number is a size of the problem, whatever else it equals.
            if count < 2 or count in integers.values():
                continue
            tensor = told.partition(".")[0]
            others = {one: size for one, size in integers.items() if one not in self._constants}
            others |= {one: size for one, size in self._dimensions.items() if one.partition(".")[0] != tensor}
            for other, size in others.items():
                if size > value and cdiv(size, value) == count and count not in others.values():
                    return f"a buffer of the program is sized by it: {told} is {count}, cdiv({other}, {name})"
        return None


def _around(value: int) -> tuple[int, ...]:
    """Powers of two from a quarter to four times of a tile."""
    found = [value * 4 >> shift for shift in range(5)]
    least = min(16, value)
    return tuple(sorted(one for one in found if least <= one <= max(_LARGEST, value)))


def _listed(name: str, proposals: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The different values of a parameter in the program's list of configs."""
    found: list[Any] = []
    for one in proposals:
        if name in one and one[name] not in found:
            found.append(one[name])
    return found


def _merged(values: Sequence[Any], own: Any, proposed: Sequence[Any] = ()) -> tuple[Any, ...]:
    found = [*values, *(one for one in (own, *proposed) if one not in values)]
    distinct = [one for index, one in enumerate(found) if one not in found[:index]]
    return tuple(sorted(distinct)) if all(isinstance(one, int) for one in distinct) else tuple(distinct)


def _kind(value: Any) -> str:
    """What a constant is, in a word or two."""
    for kind, told in (
        (bool, "a bool"),
        (str, "a string"),
        (float, "a float"),
        (tuple, "a tuple"),
        (type(None), "None"),
    ):
        if isinstance(value, kind):
            return told
    if hasattr(value, "fn") or callable(value):
        return "a function"
    return f"a {type(value).__name__}"
