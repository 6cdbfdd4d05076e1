"""What a kernel does to each of its tensors, by Triton's own intermediate code, and which tensors share memory.

Relies on the text of TTIR as Triton 3.6 to 3.9 write it: in `asm["ttir"]`, functions inlined but those marked noinline.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

Does = Literal["read", "written", "both", "atomic", "unused"]


class Role(NamedTuple):
    """What a kernel does to one tensor; `atomic` goes before all else.

    `table` says that its integers are used as pointers, and `behind` what is done to that memory. `sure` is false where
    some access may have been of this tensor or of another one.
    """

    does: Does
    table: bool = False
    behind: Does = "unused"
    sure: bool = True


LOCATION: Final = re.compile(r"\s*loc\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
"""Where a line of TTIR comes from."""
NAME: Final = r"%[\w$.-]+"
"""What a value is called there: `%c-1_i32`, and of what has parts `%a.offsets.1`, as Triton 3.8 names them."""
_DEFINED: Final = re.compile(rf"^({NAME})(?::(\d+))? = (.*)$")
_VALUE: Final = re.compile(rf"{NAME}(?:#\d+)?")
_OPERATION: Final = re.compile(r'^"?([a-z_]+(?:\.[a-z_]+)+)"?')
_PARAMETER: Final = re.compile(rf"({NAME}): ([^,)]*)")
_CARRIED: Final = re.compile(rf"({NAME}) = ({NAME}(?:#\d+)?)")
_BRANCH: Final = re.compile(r"(\^\w+)(?:\(([^:)]*):[^)]*\))?")
_TO_MEMORY: Final = re.compile(r"^tt\.(?:experimental_)?(?:descriptor_)?(load|gather|store|scatter|reduce|atomic_\w+)$")
_ACCESS: Final[dict[str, Does]] = {"load": "read", "gather": "read", "store": "written", "scatter": "written"}
_FIRST_ONLY: Final = frozenset(
    {"tt.addptr", "tt.advance", "tt.make_tensor_ptr", "tt.make_tensor_descriptor", "tt.make_tensor_desc"}
)
_NO_POINTER: Final = frozenset(
    {"arith.cmpi", "arith.cmpf", "tt.get_program_id", "tt.get_num_programs", "tt.make_range"}
)
_OPAQUE: Final = frozenset({"tt.elementwise_inline_asm", "tt.extern_elementwise"})

_READS: Final = re.compile(r"\b(?:ld|prefetch)\.")
_WRITES: Final = re.compile(r"\b(?:st|red|atom|cp|multimem)\.")
"""Of PTX that a kernel brings itself."""

_Token = tuple[bool, str]
"""A tensor by its name, and whether what is meant is the memory that its integers point to."""


class _Region:
    """What stands between braces: the names in it, and what the operation that owns it gives and carries on."""

    def __init__(self, kind: str, results: Sequence[int] = (), carried: Sequence[int] = ()) -> None:
        self.kind = kind
        self.results = results
        self.carried = list(carried)
        self.names: dict[str, int] = {}
        self.blocks: dict[str, list[int]] = {}
        self.branches: list[tuple[str, list[int]]] = []
        self.passed: list[int] = []


class _Reader:
    """Reads the text once into a graph of values, from which each access is followed back to parameters."""

    def __init__(self, names: Sequence[str]) -> None:
        self._tensors = names
        self._count = 0
        self._from: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        self._origin: dict[int, str] = {}
        self._regions: list[_Region] = [_Region("module")]
        self._accesses: list[tuple[Does, int, bool]] = []  # The last: an integer, which is no loaded pointer.
        self._parameters: dict[str, list[int]] = {}
        self._returned: dict[str, list[list[int]]] = defaultdict(list)
        self._calls: list[tuple[str, list[int], list[int]]] = []
        self._function = ""

    def read(self, text: str) -> None:
        for line in text.splitlines():
            line = LOCATION.sub("", line).strip()  # noqa: PLW2901 - the same line, without where it comes from
            if line and not line.startswith(("#", "//")):
                self._line(line)
        for name, given, results in self._calls:
            for parameter, value in zip(self._parameters.get(name, ()), given, strict=False):
                self._link(parameter, value)
            for values in self._returned[name]:
                for result, value in zip(results, values, strict=False):
                    self._link(result, value)

    def accesses(self) -> Iterator[tuple[Does, frozenset[_Token]]]:
        tokens = self._tokens()
        for does, value, is_integer in self._accesses:
            yield does, frozenset(one for one in tokens[value] if not (is_integer and one[0]))

    def _tokens(self) -> dict[int, frozenset[_Token]]:
        """The tensors that each value may point into, through loops until nothing changes."""
        found: dict[int, frozenset[_Token]] = defaultdict(frozenset)
        found.update({value: frozenset({(False, name)}) for value, name in self._origin.items()})
        users: dict[int, set[int]] = defaultdict(set)
        for value, sources in self._from.items():
            for source, _ in sources:
                users[source].add(value)
        waiting = list(self._from)
        while waiting:
            value = waiting.pop()
            made = found[value]
            for source, loaded in self._from[value]:
                held = found[source]
                made = made | (frozenset((True, name) for _, name in held) if loaded else held)
            if made != found[value]:
                found[value] = made
                waiting.extend(users[value])
        return found

    def _line(self, line: str) -> None:
        if line.startswith("}"):
            ended = self._end()
            if line.endswith("{"):  # } else {, } do {
                kind = "scf.do" if ended.kind == "scf.while" else ended.kind
                region = _Region(kind, ended.results, ended.carried)
                region.passed = ended.passed
                self._regions.append(region)
        elif line.startswith("^"):
            self._block(line)
        elif line.startswith("tt.func"):
            self._begin(line)
        else:
            self._operation(line)

    def _begin(self, line: str) -> None:
        name = line.partition("@")[2].partition("(")[0]
        public = " public " in line.partition("@")[0]
        self._function = name
        self._regions.append(_Region("tt.func"))
        tensors = iter(self._tensors if public else ())
        for parameter, kind in _PARAMETER.findall(line.partition("(")[2]):
            value = self._define(parameter)
            self._parameters.setdefault(name, []).append(value)
            if public and kind.startswith(("!tt.ptr", "!tt.tensordesc")):
                self._origin[value] = next(tensors, parameter)

    def _block(self, line: str) -> None:
        label = line.partition(":")[0].partition("(")[0]
        values = [self._define(name) for name, _ in _PARAMETER.findall(line)]
        region = self._regions[-1]
        region.blocks[label] = values
        if region.kind == "scf.do":
            for value, source in zip(values, region.passed, strict=False):
                self._link(value, source)

    def _end(self) -> _Region:
        ended = self._regions.pop()
        for label, given in ended.branches:
            for value, source in zip(ended.blocks.get(label, ()), given, strict=False):
                self._link(value, source)
        return ended

    def _operation(self, line: str) -> None:
        defined = _DEFINED.match(line)
        body = defined[3] if defined else line
        operation = found[1] if (found := _OPERATION.match(body)) else ""
        loop = operation in {"scf.for", "scf.while"}
        # `scf.for %i = %a to %b step %c iter_args(%x = %y)`, `scf.while (%x = %y)`.
        carried = _CARRIED.findall(body.partition("iter_args" if operation == "scf.for" else "(")[2]) if loop else []
        outer = [self._find(name) for _, name in carried]
        operands = [] if loop else [self._find(name) for name in _VALUE.findall(body)]
        results = self._results(defined[1], int(defined[2] or 1)) if defined else []
        if body.endswith("{"):
            inner = _Region(operation, results)
            self._regions.append(inner)
            inner.carried = [self._define(name) for name, _ in carried]
            for value, source in zip(inner.carried, outer, strict=True):
                self._link(value, source)
            if operation == "scf.for":
                for value, source in zip(results, outer, strict=True):
                    self._link(value, source)
            if operation.startswith("scf."):
                return
        self._flow(operation, body, operands, results)

    def _flow(self, operation: str, body: str, operands: list[int], results: list[int]) -> None:
        if operation in {"scf.yield", "scf.condition"}:
            self._yield(operation, operands)
        elif operation == "tt.return":
            self._returned[self._function].append(operands)
        elif operation == "tt.call":
            self._calls.append((body.partition("@")[2].partition("(")[0], operands, results))
        elif operation.startswith("cf."):
            for label, given in _BRANCH.findall(body):
                values = [self._find(name) for name in _VALUE.findall(given)]
                self._regions[-1].branches.append((label, values))
        elif (access := _TO_MEMORY.match(operation)) and operation != "tt.reduce" and operands:
            # Of a descriptor_reduce and of atomics the tensor is the first operand too.
            self._accesses.append((_ACCESS.get(access[1], "atomic"), operands[0], False))
            for result in results:
                self._link(result, operands[0], loaded=True)
        elif operation not in _NO_POINTER:
            loads = operation in _OPAQUE and bool(_READS.search(body))
            if operation in _OPAQUE:
                kinds = body.rpartition(" -> ")[0].rpartition(" : ")[2].split(", ")
                does: Does = "read" if loads and not _WRITES.search(body) else "both"
                for operand, kind in zip(operands, kinds, strict=False):
                    self._accesses.append((does, operand, "!tt.ptr" not in kind))
            first, last = (
                (0, 1) if operation in _FIRST_ONLY else (1, None) if operation == "arith.select" else (0, None)
            )
            for result in results:
                for operand in operands[first:last]:
                    self._link(result, operand, loaded=loads)

    def _yield(self, operation: str, operands: list[int]) -> None:
        region = self._regions[-1]
        if operation == "scf.condition":
            region.passed = operands[1:]
            for result, source in zip(region.results, region.passed, strict=False):
                self._link(result, source)
            return
        # What a while's second part gives goes to its first, what a loop's body gives to the next turn and to its end.
        to = [region.carried] if region.kind == "scf.do" else [region.carried, region.results]
        for targets in to:
            for target, source in zip(targets, operands, strict=False):
                self._link(target, source)

    def _results(self, name: str, count: int) -> list[int]:
        if count == 1:
            return [self._define(name)]
        return [self._define(f"{name}#{index}") for index in range(count)]

    def _define(self, name: str) -> int:
        self._count += 1
        self._regions[-1].names[name] = self._count
        return self._count

    def _find(self, name: str) -> int:
        for region in reversed(self._regions):
            if name in region.names:
                return region.names[name]
        return self._define(name)

    def _link(self, value: int, source: int, *, loaded: bool = False) -> None:
        self._from[value].append((source, loaded))


def roles_of(compiled: Any) -> dict[str, Role]:
    """What a compiled kernel does to each of its tensors and descriptors, by the name of its parameter.

    `compiled` is Triton's CompiledKernel, such as `read_kernel` gives for a GPU that is not there. Raises KeyError
    where it holds no TTIR, ValueError where that is not written as is known here.
    """
    return roles(compiled.asm["ttir"], compiled.src.signature)


def roles(ttir: str, signature: Mapping[str, Any]) -> dict[str, Role]:
    """The same of TTIR as text and the signature that it was compiled for; a tensor in a tuple is named `name.0`."""
    names = [name for name, kind in flat_signature(signature.items()) if kind.startswith(("*", "tensordesc"))]
    reader = _Reader(names)
    reader.read(ttir)
    done: dict[_Token, set[Does]] = defaultdict(set)
    unsure: set[str] = set()
    for does, tokens in reader.accesses():
        if len(tokens) > 1:
            unsure.update(name for _, name in tokens)
        for token in tokens:
            done[token].add(does)
    return {
        name: Role(
            _together(done[False, name]), bool(done[True, name]), _together(done[True, name]), name not in unsure
        )
        for name in names
    }


def aliases(tensors: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The groups of tensors that share a storage, each with at least two names, in the order of the names given.

    Storages that overlap, as somebody's own memory may, are one. What holds no byte, or is no tensor, is in none.
    """
    spans = {name: span for name, one in tensors.items() if (span := _span(one)) is not None}
    group = {name: name for name in spans}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    names = list(spans)
    for index, name in enumerate(names):
        for other in names[:index]:
            (device, low, high), (elsewhere, first, last) = spans[name], spans[other]
            if device == elsewhere and low < last and first < high:
                group[root(name)] = root(other)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(root(name), []).append(name)
    return tuple(tuple(one) for one in found.values() if len(one) > 1)


def _span(tensor: Any) -> tuple[str, int, int] | None:
    """The device of a tensor or of what a descriptor describes, and where its storage begins and ends."""
    tensor = tensor if hasattr(tensor, "untyped_storage") else getattr(tensor, "base", None)
    if not hasattr(tensor, "untyped_storage"):
        return None
    storage = tensor.untyped_storage()
    start = int(storage.data_ptr())
    return (str(tensor.device), start, start + int(storage.nbytes())) if start else None


def _together(does: set[Does]) -> Does:
    if "atomic" in does:
        return "atomic"
    if "both" in does or {"read", "written"} <= does:
        return "both"
    return next(iter(does), "unused")


def flat_signature(entries: Iterable[tuple[Any, Any]], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and types of a signature's parameters, those in a tuple by themselves as `name.0`."""
    for name, kind in entries:
        if isinstance(kind, tuple | list):
            yield from flat_signature(enumerate(kind), f"{before}{name}.")
        else:
            yield f"{before}{name}", str(kind)
