"""A file of tuned configs with an index of its problems; the entries of a large one are read when they are asked for.

YAML takes a millisecond or two an entry. A file that is large, and of exactly the form that `fusetune sweep` writes, is
therefore split at its entries' first lines, which name the problem, and an entry is parsed and checked when it is looked
up. Everything else is read at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from fusetune.core.environment import TargetIdentity
from fusetune.core.problem import Problem
from fusetune.errors import ConfigFileError
from fusetune.store.quick_entry import NotPlainError, quick_entry
from fusetune.store.schema import SCHEMA_VERSION, ConfigFile, Entry
from fusetune.store.yaml_reader import parse_config_file, read_text

LARGE_BYTES: Final = 64_000
"""From this size on, which is some seventy entries, reading all of them is felt at the first call."""

_HEAD: Final = re.compile(
    rf"(?:#[^\n]*\n)*schema: {SCHEMA_VERSION}\nop: [a-z][a-z0-9_]*\ntarget: \{{[^\n{{}}]*\}}\nentries:\n(?=- problem: )"
)
_ENTRY: Final = re.compile(
    r"^- problem: \{M: (\d+), N: (\d+), K: (\d+), dtype: (\w+)(?:, precision: (\w+))?(?:, mode: (\w+))?\}$", re.MULTILINE
)
_FOREIGN: Final = re.compile(r"^[^ \-]|^-[^ ]|\t|\r", re.MULTILINE)
"""What no line after the head begins with, or holds, in a file that fusetune wrote."""

_Key = tuple[int, int, str, str | None, str | None, int]


class IndexedFile:
    """The entries of one file, by what a look-up asks for. `op` and `target` are the file's."""

    def __init__(self, op: str, target: TargetIdentity, problems: Iterable[tuple[Any, ...]]) -> None:
        self.op, self.target = op, target
        self._index: dict[_Key, list[tuple[int, int]]] = {}
        for number, (M, N, K, dtype, precision, mode) in enumerate(problems):
            self._index.setdefault((N, K, dtype, precision, mode, _bucket(M)), []).append((M, number))
        self._read: dict[int, Entry] = {}
        self._reader: Callable[[int], Entry] | None = None

    def candidates(self, problem: Problem) -> list[tuple[int, int]]:
        """M and the number of each entry that differs from the problem in M only, within its power-of-two bucket."""
        key = (problem.N, problem.K, problem.dtype, problem.precision, problem.mode, _bucket(problem.M))
        return self._index.get(key, [])

    def entry(self, number: int) -> Entry:
        """An entry by its number in the file. Raises ConfigFileError where it cannot be believed."""
        found = self._read.get(number)
        if found is None:
            assert self._reader is not None, "what is not read has a reader"
            found = self._read[number] = self._reader(number)
        return found


def index_of(file: ConfigFile) -> IndexedFile:
    """The index of a file that has been read whole."""
    made = IndexedFile(file.op, file.target, (_of(entry.problem) for entry in file.entries))
    made._read = dict(enumerate(file.entries))
    return made


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
    if head is None or _FOREIGN.search(text, head.end()):
        return None
    found = list(_ENTRY.finditer(text, head.end()))
    if len(found) != text.count("\n- ", head.end() - 1):
        return None
    problems = [(int(match[1]), int(match[2]), int(match[3]), match[4], match[5], match[6]) for match in found]
    if len(set(problems)) != len(problems):
        return None
    top = parse_config_file(head[0].removesuffix("entries:\n"), path)
    starts = [match.start() for match in found]
    ends = [*starts[1:], len(text)]
    made = IndexedFile(top.op, top.target, problems)

    def read(number: int) -> Entry:
        block = text[starts[number] : ends[number]]
        try:
            return msgspec.convert(quick_entry(block), Entry)
        except (NotPlainError, msgspec.ValidationError):
            # Where the parser finds fault, it has to find it on the line where it is.
            lines = text.count("\n", 0, starts[number]) - head[0].count("\n")
            try:
                return parse_config_file(head[0] + "\n" * lines + block, path).entries[0]
            except ConfigFileError as error:
                raise type(error)(str(error).replace("$.entries[0]", f"$.entries[{number}]")) from error

    made._reader = read
    return made


def _of(problem: Problem) -> tuple[Any, ...]:
    return problem.M, problem.N, problem.K, problem.dtype, problem.precision, problem.mode


def _bucket(M: int) -> int:
    # (2^(b-1), 2^b] has one bit length once its ends are lowered by one.
    return (M - 1).bit_length()
