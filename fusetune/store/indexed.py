"""A file of tuned configs with an index of its problems; the entries of a large one are read when they are asked for.

YAML takes a millisecond or two an entry. A file that is large, and of exactly the form that `fusetune sweep` writes,
is therefore split at its entries' first lines, which name the problem, and an entry is parsed and checked when it is
looked up. Everything else is read at once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from fusetune.core.environment import TargetIdentity
from fusetune.core.problem import Problem
from fusetune.errors import ConfigFileError
from fusetune.ops.types import types_of
from fusetune.store.quick_entry import NotPlainError, quick_entry, quick_flow
from fusetune.store.schema import ConfigFile, Entry
from fusetune.store.typed import decoding
from fusetune.store.yaml_reader import parse_config_file, read_text

LARGE_BYTES: Final = 64_000
"""From this size on, which is some seventy entries, reading all of them is felt at the first call."""

_HEAD: Final = re.compile(
    r"(?:#[^\n]*\n)*schema: [12]\nop: [a-z][a-z0-9_]*\n(?:spec: [^\n]*\n)?(?:kernel: [^\n]*\n)?(?:file: [^\n]*\n)?"
    r"target: \{[^\n{}]*\}\nentries:\n(?=- problem: )"
)
_ENTRY: Final = re.compile(r"\n- problem: \{([^\n{}]*)\}(?=\n)")
_FOREIGN: Final = re.compile(r"\n(?![ -] )")
"""A line that neither begins an entry nor belongs to one, in a file that fusetune wrote."""


class IndexedFile:
    """The entries of one file, by what a look-up asks for. `op` and `target` are the file's.

    `problems` are in the file's order, as its entries are numbered. `read` makes an entry of its number.
    """

    def __init__(
        self, op: str, target: TargetIdentity, problems: Iterable[Problem], read: Callable[[int], Entry]
    ) -> None:
        self.op, self.target = op, target
        self._read = read
        self._entries: dict[int, Entry | ConfigFileError] = {}
        self._index: dict[Hashable, list[tuple[Mapping[str, int], int]]] = {}
        self.problems = tuple(problems)
        for number, problem in enumerate(self.problems):
            self._index.setdefault(problem.rest(), []).append((problem.sizes(), number))

    def candidates(self, problem: Problem) -> list[tuple[Mapping[str, int], int]]:
        """Sizes and number of each entry that differs from the problem in sizes only, in their power-of-two buckets."""
        buckets = _buckets(problem.sizes())
        found = self._index.get(problem.rest(), ())
        return [(sizes, number) for sizes, number in found if _buckets(sizes) == buckets]

    def is_sound(self) -> bool:
        """Whether no two entries are for one problem."""
        return all(len({tuple(sizes.items()) for sizes, _ in found}) == len(found) for found in self._index.values())

    def entry(self, number: int) -> Entry:
        """An entry by its number in the file. Raises ConfigFileError where it cannot be believed."""
        found = self._entries.get(number)
        if found is None:
            try:
                found = self._read(number)
            except ConfigFileError as error:
                found = type(error)(str(error))
            self._entries[number] = found
        if isinstance(found, ConfigFileError):
            raise type(found)(str(found))  # a new one: each raise would add to the traceback of the old one
        return found

    def entries(self) -> Iterator[Entry]:
        """All entries, in the file's order. Raises ConfigFileError where one cannot be believed."""
        return (self.entry(number) for number in range(len(self)))

    def readable_entries(self) -> Iterator[Entry]:
        """Those of the entries that can be believed, in the file's order."""
        for number in range(len(self)):
            with contextlib.suppress(ConfigFileError):
                yield self.entry(number)

    def __len__(self) -> int:
        return sum(map(len, self._index.values()))


def index_of(file: ConfigFile) -> IndexedFile:
    """The index of a file that has been read whole."""
    problems = (entry.problem for entry in file.entries)
    return IndexedFile(file.op, file.target, problems, file.entries.__getitem__)


def open_config_file(path: Path) -> IndexedFile:
    """The file with its index; of a large one that `fusetune sweep` wrote, the entries are read on demand.

    Raises ConfigFileError as `read_config_file` does, for what is read.
    """
    text = read_text(path)
    if len(text) >= LARGE_BYTES:
        split = _split(text, path)
        if split is not None:
            return split
    return index_of(parse_config_file(text, path))


def _split(text: str, path: Path) -> IndexedFile | None:
    """None where the text is not exactly of the form that is written."""
    head = _HEAD.match(text)
    if head is None or "\t" in text or "\r" in text or not text.endswith("\n"):
        return None
    before = head.end() - 1  # the line break ahead of the first entry
    found = list(_ENTRY.finditer(text, before))
    # No other key, no other document, and no text that only looks like an entry.
    if _FOREIGN.search(text, before, len(text) - 1) or text.count("\n- ", before) != len(found):
        return None
    top = parse_config_file(head[0].removesuffix("entries:\n"), path)
    types = types_of(top.op)
    hook = decoding(types)
    starts = [match.start() + 1 for match in found]
    ends = [*starts[1:], len(text)]

    def read(number: int) -> Entry:
        block = text[starts[number] : ends[number]]
        try:
            return msgspec.convert(quick_entry(block), Entry, dec_hook=hook)
        except (NotPlainError, msgspec.ValidationError):
            # Where the parser finds fault, it has to find it on the line where it is.
            lines = text.count("\n", 0, starts[number]) - head[0].count("\n")
            try:
                return parse_config_file(head[0] + "\n" * lines + block, path).entries[0]
            except ConfigFileError as error:
                raise type(error)(str(error).replace("$.entries[0]", f"$.entries[{number}]")) from error

    try:
        problems = [types.problem.from_builtins(quick_flow(match[1])) for match in found]
    except (NotPlainError, msgspec.ValidationError):
        return None
    made = IndexedFile(top.op, top.target, problems, read)
    return made if made.is_sound() else None


def _buckets(sizes: Mapping[str, int]) -> tuple[int, ...]:
    """(2^(b-1), 2^b] has one bit length once its ends are lowered by one."""
    return tuple((size - 1).bit_length() for size in sizes.values())
