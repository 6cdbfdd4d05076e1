"""How much a kernel multiplies and what its loops load at each step, by Triton's own intermediate code.

Relies on the text of TTIR as Triton 3.6 to 3.9 write it: in `asm["ttir"]`, functions inlined but those marked noinline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fusetune.capture.cases import WorkSeen
from fusetune.capture.roles import LOCATION, NAME, flat_signature

_DEFINED: Final = re.compile(rf"^({NAME})(?::\d+)? = (.*)$")
_OPERATION: Final = re.compile(r'^"?([a-z_]+(?:\.[a-z_]+)+)"?\s*(.*)$')
_PARAMETER: Final = re.compile(rf"({NAME}): ([^,)]*)")
_ONE: Final = rf"{NAME}(?:#\d+)?"
_VALUE: Final = re.compile(_ONE)
_LOOP: Final = re.compile(rf"^(?:unsigned )?{NAME} = ({_ONE}) to ({_ONE}) step ({_ONE})")
_WHOLE: Final = re.compile(r"^(-?\d+) : (?:i\d+|index)$")
_BLOCK: Final = re.compile(r"tensor<((?:\d+x)+)(\w+)>")
_PRECISION: Final = re.compile(r"inputPrecision = (\w+)")
_LOADS: Final = re.compile(r"^tt\.(?:experimental_)?(?:descriptor_)?(?:load|gather)$")
_DOTS: Final = frozenset({"tt.dot", "tt.dot_scaled"})
_NARROW: Final[Mapping[str, str]] = {"f16": "float16", "bf16": "bfloat16"}
_OF_FLOAT32: Final = frozenset({"tf32", "tf32x3", "bf16x3", "ieee"})
_AXES: Final = ("x", "y", "z")


def _quotient(a: int, b: int) -> int:
    """Towards zero, as the hardware divides."""
    whole = abs(a) // abs(b)
    return whole if (a < 0) == (b < 0) else -whole


_ARITHMETIC: Final[Mapping[str, Callable[..., int]]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": _quotient,
    "arith.divui": _quotient,
    "arith.floordivsi": lambda a, b: a // b,
    "arith.ceildivsi": lambda a, b: -(-a // b),
    "arith.remsi": lambda a, b: a - _quotient(a, b) * b,
    "arith.remui": lambda a, b: a - _quotient(a, b) * b,
    "arith.minsi": min,
    "arith.maxsi": max,
    "arith.minui": min,
    "arith.maxui": max,
    "arith.extsi": lambda a: a,
    "arith.extui": lambda a: a,
    "arith.trunci": lambda a: a,
    "arith.index_cast": lambda a: a,
}


class _Region:
    """What stands between braces: how often a program goes through it, if that is known, and what it loads itself."""

    def __init__(self, turns: float | None, *, loop: bool) -> None:
        self.turns, self.loop, self.loads = turns, loop, 0


class _Reader:
    """Reads the text once, with whole numbers computed as the program in the middle of the grid would."""

    def __init__(self, grid: Sequence[int], parameters: Sequence[str], values: Mapping[str, int]) -> None:
        self._grid = (*grid, 1, 1)[:3]
        self._parameters, self._values = parameters, values
        self._known: dict[str, int] = {}
        self._regions: list[_Region] = []
        self._in_main = False
        self.flops: float | None = 0.0
        self.kinds: set[str | None] = set()
        self.staged_loads = 0

    def read(self, text: str) -> None:
        for line in text.splitlines():
            line = LOCATION.sub("", line).strip()  # noqa: PLW2901 - the same line, without where it comes from
            if line.startswith("}"):
                ended = self._regions.pop()
                self.staged_loads = max(self.staged_loads, ended.loads if ended.loop else 0)
                if line.endswith("{"):  # } else {, } do {: as often as what stands before
                    self._regions.append(_Region(ended.turns, loop=ended.loop))
            elif line.startswith("tt.func"):
                self._begin(line)
            elif line and not line.startswith(("#", "//", "^")):
                self._line(line)

    def _begin(self, line: str) -> None:
        self._in_main = " public " in line.partition("@")[0]
        self._regions.append(_Region(1.0 if self._in_main else None, loop=False))
        self._known = {}
        if not self._in_main:  # How often it is called is not known, nor with what.
            return
        found = [name for name, _ in _PARAMETER.findall(line.partition("(")[2])]
        names = self._parameters if len(self._parameters) == len(found) else [name[1:] for name in found]
        self._known = {
            given: self._values[name] for given, name in zip(found, names, strict=True) if name in self._values
        }

    def _line(self, line: str) -> None:
        defined = _DEFINED.match(line)
        body = defined[2] if defined else line
        operation, rest = found.groups() if (found := _OPERATION.match(body)) else ("", body)
        if defined:
            value = self._value(operation, rest)
            self._known.pop(defined[1], None)
            if value is not None:
                self._known[defined[1]] = value
        if operation in _DOTS:
            self._dot(operation, rest)
        elif _LOADS.match(operation):
            loop = next((one for one in reversed(self._regions) if one.loop), None)
            if loop is not None:
                loop.loads += 1
        if line.endswith("{"):
            self._regions.append(self._region(operation, rest))

    def _region(self, operation: str, rest: str) -> _Region:
        outer = self._regions[-1].turns if self._regions else 1.0
        if operation == "scf.while":
            return _Region(None, loop=True)
        if operation != "scf.for":
            return _Region(outer, loop=False)
        bounds = [self._known.get(name) for name in found.groups()] if (found := _LOOP.match(rest)) else [None]
        if outer is None or None in bounds:
            return _Region(None, loop=True)
        first, last, step = (one for one in bounds if one is not None)
        return _Region(outer * max(0, -(-(last - first) // step)) if step > 0 else None, loop=True)

    def _value(self, operation: str, rest: str) -> int | None:
        if operation == "arith.constant":
            found = _WHOLE.match(rest)
            return int(found[1]) if found else None
        if operation in {"tt.get_program_id", "tt.get_num_programs"}:
            extent = self._grid[_AXES.index(rest[0])] if rest[:1] in _AXES else None
            return extent if extent is None or operation == "tt.get_num_programs" else (extent - 1) // 2
        if operation not in _ARITHMETIC:
            return None
        operands = [self._known.get(name) for name in _VALUE.findall(rest)]
        if None in operands:
            return None
        try:
            return _ARITHMETIC[operation](*operands)
        except ZeroDivisionError:
            return None

    def _dot(self, operation: str, rest: str) -> None:
        blocks = [([int(one) for one in sizes.split("x") if one], kind) for sizes, kind in _BLOCK.findall(rest)]
        turns = self._regions[-1].turns if self._regions else None
        self.kinds.add(None if operation == "tt.dot_scaled" or not blocks else _kind(blocks[0][1], rest))
        if turns is None or self.flops is None or len(blocks) < 2:
            self.flops = None
        else:
            self.flops += 2.0 * math.prod(blocks[-1][0]) * blocks[0][0][-1] * turns


def _kind(element: str, rest: str) -> str | None:
    """How products of these elements are made (core/peaks.py); None for what no peak is stated of."""
    if element != "f32":
        return _NARROW.get(element)
    told = found[1] if (found := _PRECISION.search(rest)) else "ieee"
    return told if told in _OF_FLOAT32 else None


def work_of(compiled: Any, grid: Sequence[int], values: Mapping[str, Any]) -> WorkSeen:
    """What a compiled kernel multiplies and loads, launched on `grid` with these arguments by name.

    Raises KeyError where it holds no TTIR, ValueError where that is not written as is known here.
    """
    return work(compiled.asm["ttir"], compiled.src.signature, grid, values)


def work(ttir: str, signature: Mapping[str, Any], grid: Sequence[int], values: Mapping[str, Any]) -> WorkSeen:
    """The same of TTIR as text and the signature that it was compiled for.

    Loops count as the program in the middle of the grid goes through them, and both ways of an `if`.
    """
    whole = {name: value for name, value in values.items() if type(value) is int}
    parameters = [name for name, kind in flat_signature(signature.items()) if kind != "constexpr"]
    reader = _Reader(grid, parameters, whole)
    try:
        reader.read(ttir)
    except IndexError as error:
        raise ValueError("TTIR of a form that is not known here") from error
    multiplies = bool(reader.kinds)
    flops = None if reader.flops is None or not multiplies else reader.flops * math.prod(grid)
    return WorkSeen(
        multiplies=multiplies,
        kind=next(iter(reader.kinds)) if len(reader.kinds) == 1 else None,
        flops=flops,
        staged_loads=reader.staged_loads,
    )
