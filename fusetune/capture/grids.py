"""How a launch's grid follows from its constants: by calling what computes it, the caller's source, or numbers."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType, FunctionType
from typing import Any, Final, Literal, NamedTuple

from fusetune.capture.call_sites import CallSite, call_site, parsed
from fusetune.capture.expressions import Folder, NotPureError, Open, evaluated, key_of, names_in, text_of
from fusetune.capture.inferred import Point, inferred
from fusetune.capture.kernel_facts import facts_of
from fusetune.capture.tiling import Tiling, tiling_of
from fusetune.capture.written_again import WrittenAgain, covers_as_it_did, divided, written_again

_NOTHING: Final = WrittenAgain()
Kind = Literal["callable", "expression", "cdiv", "fixed"]


class Derived(NamedTuple):
    """An argument that the caller computes from constants: source over these, empty where that is not understood."""

    text: str
    reads: frozenset[str]


@dataclass(frozen=True)
class GridRule:
    """What a launch's grid is for other constants than its own, and how that is known.

    `text` is source over the constants that `reads` names, empty where only `call` can tell: it needs the program's
    process. `suspects` are the constants that a fixed grid may follow all the same. `buffers` has, by each constant
    that sizes a tensor of the program, a sentence that says where; `tied` those that the caller gives one value, of
    which all follow the first; `derived` what it computes from constants, other constants too. `sources` has what the
    caller computes constants from, as it is written.
    """

    kind: Kind
    why: str
    grid: tuple[int, ...]
    constants: Mapping[str, Any]
    reads: frozenset[str] = frozenset()
    text: str = ""
    suspects: frozenset[str] = frozenset()
    buffers: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    call: Callable[[Mapping[str, Any]], Any] | None = field(default=None, repr=False, compare=False)

    def at(self, constants: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The grid with these constants, and the launch's own for what they leave out; None where it is not known."""
        merged = {**self.constants, **(self.arguments_at(constants) or {}), **constants}
        if any(merged[one] != merged[other] for one, group in self.tied.items() for other in group):
            return None
        changed = {name for name, value in constants.items() if value != self.constants.get(name)}
        if changed & self.suspects:
            return None
        if not changed & self.reads:
            return self.grid
        found: Any = None
        if self.text:
            found = _or_none(lambda: evaluated(self.text, merged))
        elif self.call is not None:
            held = self.call
            found = _or_none(lambda: held(merged))
        return _as_grid(found, len(self.grid))

    def arguments_at(self, constants: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments that other constants change, such as a count of tiles; None where that is not understood."""
        merged = {**self.constants, **constants}
        changed = {name for name, value in constants.items() if value != self.constants.get(name)}
        found = {}
        for name, one in self.derived.items():
            if one.reads & changed and name not in constants:
                try:
                    found[name] = evaluated(one.text, merged)
                except (NotPureError, SyntaxError, ValueError):
                    return None
        return found


def rule_of(
    grid: Any,
    real: Sequence[int],
    named: Mapping[str, Any],
    constants: Mapping[str, Any],
    *,
    kernel: Any = None,
    frame: FrameType | None = None,
    points: Sequence[Point] = (),
    read: set[str] | None = None,
) -> GridRule:
    """The rule of a launch: `grid` as the program gave it, `real` what it came to, `named` all arguments by name.

    `frame` is the one that did `kernel[grid](...)`, `points` are other launches of the same kernel. To `read` the names
    are added that mean something in that frame, and that the rule goes by.
    """
    real = tuple(int(one) for one in real)
    named = {**named, **constants}
    site = call_site(frame, kernel, constants) if frame is not None and kernel is not None else None
    left_open = _left_open(site, named, _sizes_of_blocks(kernel)) if site is not None else {}
    tiling = tiling_of(kernel)
    rule = _of_callable(grid, real, named, constants, site, left_open) if callable(grid) else None
    if rule is None and not callable(grid) and site is not None:
        rule = _of_expression(site, left_open, real, named, constants, tiling)
    if rule is None:
        found = inferred([Point(real, named, constants), *points], tiling)
        kind: Kind = "cdiv" if found.text else "fixed"
        reads = names_in(found.text) if found.text else frozenset()
        rule = GridRule(kind, found.why, real, constants, reads, found.text, found.suspects)
    if site is None:
        return rule
    buffers = {
        name: f"a buffer of the program is sized by it: line {one.line}, `{one.text}`"
        for name, one in site.buffers(left_open, site.literals()).items()
        if type(constants[name]) is int and constants[name] > 1
    }
    tied = _tied(site, rule.reads)
    reads = rule.reads.union(*tied.values()) if tied else rule.reads
    computed = site.computed(left_open)
    derived = {}
    for name, made_of in site.derived(left_open).items():
        if name not in named:  # An option, which may be any.
            continue
        text = _or_none(partial(_text_of_argument, site, name, left_open, computed))
        same = bool(text) and _or_none(partial(evaluated, text, constants)) == named.get(name)
        derived[name] = Derived(text if same else "", made_of)
    derived |= {name: Derived(group[0], frozenset(group[:1])) for name, group in tied.items() if name != group[0]}
    if read is not None:
        read |= site.names.read
    return replace(rule, buffers=buffers, tied=tied, reads=reads, derived=derived, sources=site.sources())


def _tied(site: CallSite, reads: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """The constants of one value by each of them, the one that the grid reads first."""
    found: dict[str, tuple[str, ...]] = {}
    for group in dict.fromkeys(site.tied().values()):
        read = [name for name in group if name in reads]
        if read:
            found |= dict.fromkeys(group, (read[0], *(name for name in group if name != read[0])))
    return found


def _left_open(site: CallSite, named: Mapping[str, Any], blocks: frozenset[str]) -> dict[str, str]:
    """What stands for constants at a launch, but for those computed from sizes of blocks, as a count of tiles.

    What is computed from a size of the problem alone may vary by itself.
    """
    left_open = site.left_open()
    for name in dict.fromkeys(left_open.values()):
        others = {key: one for key, one in left_open.items() if one != name}
        text = _or_none(partial(_text_of_argument, site, name, others, site.computed(others))) or ""
        made_of = names_in(text) if text else frozenset()
        if made_of & blocks and text not in made_of and _or_none(partial(evaluated, text, named)) == named.get(name):
            left_open = others
    return left_open


def _sizes_of_blocks(kernel: Any) -> frozenset[str]:
    try:
        return facts_of(kernel).sizes
    except (OSError, TypeError, SyntaxError, ValueError):
        return frozenset()


def _text_of_argument(site: CallSite, name: str, left_open: Mapping[str, str], computed: frozenset[str]) -> str:
    return text_of(_folder(site.names, left_open, site, computed).fold(site.arguments[name]))


def _of_callable(
    grid: Callable[[Mapping[str, Any]], Any],
    real: tuple[int, ...],
    named: Mapping[str, Any],
    constants: Mapping[str, Any],
    site: CallSite | None,
    left_open: Mapping[str, str],
) -> GridRule:
    """A callable is asked again with other constants; its source, where it can be read, tells it without asking."""
    text = _or_none(lambda: _text_of_callable(grid, real, named, constants, site, left_open)) or ""
    recorder = Reads(named)
    first = _as_grid(_or_none(lambda: grid(recorder)), len(real))
    reads = frozenset(recorder.names & constants.keys()) | (names_in(text) if text else frozenset())
    if first != real and not text:
        why = "the grid is a callable that does not give the same grid when it is asked again"
        return GridRule("fixed", why, real, constants, suspects=frozenset(constants))
    if not reads:
        return GridRule("fixed", "the grid is a callable that reads no constant of the kernel", real, constants)
    if text and not recorder.names >= names_in(text):
        why = f"the grid is a callable around what the caller passes for a constant: {text}"
    else:
        why = f"the grid is a callable that reads {', '.join(sorted(reads))}"

    def call(merged: Mapping[str, Any]) -> Any:
        return grid({**named, **merged})

    text = text or _text_of_answers(call, real, named, constants, reads)
    return GridRule("callable", why, real, constants, reads, text, call=call)


def _text_of_answers(
    call: Callable[[Mapping[str, Any]], Any],
    real: tuple[int, ...],
    named: Mapping[str, Any],
    constants: Mapping[str, Any],
    reads: frozenset[str],
) -> str:
    """Source of the grid that fits what a callable answers for other values of each constant; empty if none does."""
    points = [Point(real, named, constants)]
    for name in sorted(reads):
        value = constants[name]
        if type(value) is not int or value < 2:
            continue
        # Odd numbers tell apart what is the same for all powers of two.
        for other in (value * 2, value // 2, value + 1, value * 3 - 1):
            changed = {**constants, name: other}
            answer = _as_grid(_or_none(partial(call, changed)), len(real))
            if answer is not None:
                points.append(Point(answer, {**named, name: other}, changed))
    text = inferred(points).text if len(points) > 1 else ""
    fits = text and all(_as_grid(evaluated(text, one.constants), len(real)) == one.grid for one in points)
    return text if fits else ""


class Reads(dict[str, Any]):
    """All arguments of a launch by name, that remembers which were asked for."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        super().__init__(named)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's."""
        self.names.add(name)
        return super().get(name, default)

    def keys(self) -> Any:
        """As a dict's; whoever asks may read all of them."""
        self.names.update(self)
        return super().keys()

    def items(self) -> Any:
        """As a dict's; whoever asks may read all of them."""
        self.names.update(self)
        return super().items()


def _text_of_callable(
    grid: Any,
    real: tuple[int, ...],
    named: Mapping[str, Any],
    constants: Mapping[str, Any],
    site: CallSite | None,
    outside: Mapping[str, str],
) -> str:
    """The source of a grid's function over the constants, proven at this launch; raises where there is none."""
    if not isinstance(grid, FunctionType):
        raise NotPureError("no plain function")
    (parameter,), body = _function_at(grid)
    cells = zip(grid.__code__.co_freevars, grid.__closure__ or (), strict=True)
    around = {**grid.__globals__, **{name: cell.cell_contents for name, cell in cells}}
    around[parameter] = dict(named)
    left_open = {key_of(ast.parse(f"{parameter}[{name!r}]").body[0].value): name for name in constants}  # type: ignore[attr-defined]
    computed: frozenset[str] = frozenset()
    if site is not None and site.file == grid.__code__.co_filename:
        ours = {key: name for key, name in outside.items() if key.partition("[")[0] != parameter}
        computed = site.computed(ours)
        left_open = {**ours, **left_open}
    folder = _folder(around, left_open, site, computed)
    text = text_of(folder.fold(body))
    if _as_grid(evaluated(text, constants), len(real)) != real or not names_in(text):
        raise NotPureError("another grid")
    return text


def _function_at(grid: FunctionType) -> tuple[list[str], ast.expr]:
    """The parameters of a lambda, or of a function that only returns, and the expression that it gives."""
    code = grid.__code__
    tree = parsed(code.co_filename, "".join(linecache.getlines(code.co_filename, grid.__globals__)))
    found: list[tuple[list[str], ast.expr]] = []
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, ast.Lambda | ast.FunctionDef) or node.lineno != code.co_firstlineno:
            continue
        parameters = [one.arg for one in node.args.args]
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            found.append((parameters, node.body))
        elif isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            body = [one for one in node.body if not _is_docstring(one)]
            if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
                found.append((parameters, body[0].value))
    if len(found) != 1:
        raise NotPureError("its source is not clear")
    return found[0]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _folder(
    values: Mapping[str, Any],
    left_open: Mapping[str, str],
    site: CallSite | None,
    computed: frozenset[str],
    nodes: Mapping[int, str] | None = None,
) -> Folder:
    """Folds with the names of a call site, those that were computed from a constant by what they were computed from."""

    def value_of(name: str) -> Any:
        if site is not None and name in computed:
            made = site.assigned(name)
            if made is None:
                raise NotPureError(f"`{name}` follows a constant in a way that is not understood")
            return folder.fold(made)
        # What a local was computed from need not be seen by a function that only reads the local.
        return site.names[name] if site is not None and name not in values else values[name]

    folder = Folder(value_of, left_open, nodes)
    return folder


def _of_expression(
    site: CallSite,
    left_open: Mapping[str, str],
    real: tuple[int, ...],
    named: Mapping[str, Any],
    constants: Mapping[str, Any],
    tiling: Tiling,
) -> GridRule | None:
    """A grid by the source of the call; None where the source does not give the grid or does not say how."""
    node = _written(site, site.grid)
    if node is None:
        return None
    text = _proven(site, node, left_open, real, constants)
    if text is None:
        return None
    again = written_again(site, node, left_open, constants, tiling)
    follows = _proven(site, node, left_open, real, constants, again) if again.nodes else None
    told = f"; {again.why}" if again.why else ""
    if follows is not None and _covers(follows, again, tiling, named, constants):
        why = f"the caller writes the number again in the grid: {follows}{told}"
        return GridRule("expression", why, real, constants, names_in(follows), follows, again.unclear)
    unclear = again.unclear | {name.removesuffix(" - 1") for name in again.nodes.values()} - names_in(text)
    if names_in(text):
        why = f"the caller computes the grid as {text}{told}"
        return GridRule("expression", why, real, constants, names_in(text), text, unclear)
    why = f"the caller computes the grid from no constant of the kernel: {ast.unparse(node)}{told}"
    return GridRule("fixed", why, real, constants, suspects=unclear)


def _covers(
    text: str, again: WrittenAgain, tiling: Tiling, named: Mapping[str, Any], constants: Mapping[str, Any]
) -> bool:
    """Whether a grid follows each number written again as the kernel's own bounds do, at several of its values.

    A constant whose bounds the kernel does not tell is held against nothing.
    """
    for name in set(again.nodes.values()) & constants.keys():
        sizes = [named.get(one) for one in tiling.covers.get(name, ())]
        whole = [one for one in sizes if type(one) is int and one > 0]
        if len(whole) != len(sizes) or len(sizes) != divided(text, name).total():
            continue
        own = constants[name]
        grids = [(tile, evaluated(text, {**constants, name: tile})) for tile in _points(own)]
        if not covers_as_it_did(grids, whole, own):
            return False
    return True


def _points(own: int) -> list[int]:
    """Values of a tile, with its own; odd ones tell apart what is the same for all powers of two."""
    return sorted({own, own * 2, own * 4, max(1, own // 2), max(1, own // 4), own + 1, own * 3 - 1})


def _written(site: CallSite, node: ast.expr) -> ast.expr | None:
    """The expression that gives a grid: where it is a name, what was assigned to it; None where that is elsewhere."""
    while isinstance(node, ast.Name):
        made = site.assigned(node.id)
        if made is None:
            return None
        node = made
    return node if isinstance(node, ast.Tuple | ast.List | ast.Call | ast.BinOp | ast.IfExp) else None


def _proven(
    site: CallSite,
    node: ast.expr,
    left_open: Mapping[str, str],
    real: tuple[int, ...],
    constants: Mapping[str, Any],
    again: WrittenAgain = _NOTHING,
) -> str | None:
    """The source of a grid over constants; None where it is not pure, or does not give the real grid."""
    try:
        computed = site.computed(left_open) | again.names
        text = text_of(_folder(site.names, left_open, site, computed, again.nodes).fold(node))
        return text if _as_grid(evaluated(text, constants), len(real)) == real else None
    except NotPureError:
        return None


def _as_grid(value: Any, count: int) -> tuple[int, ...] | None:
    """A grid of `count` axes, of numbers above 0; None where it is none."""
    if isinstance(value, Open) or not isinstance(value, tuple | list):
        return None
    numbers = [_whole(one) for one in value]
    if not numbers or any(one is None or one < 1 for one in numbers):
        return None
    longer = tuple(one for one in numbers if one is not None)
    longer += (1,) * (count - len(longer))
    return longer[:count] if all(one == 1 for one in longer[count:]) else None


def _or_none(ask: Callable[[], Any]) -> Any:
    """What a function of the program gives; None where it raises."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - somebody's function
        return None


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, RuntimeError):
        return None
