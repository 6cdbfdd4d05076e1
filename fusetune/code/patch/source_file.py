"""A Python file as it was read: its tree, where each part of it stands in bytes, and what its names mean."""

from __future__ import annotations

import bisect
import codecs
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, ParentNodeProvider, Scope, ScopeProvider

from fusetune.code.patch.edits import Edit, NotWritableError

Node = TypeVar("Node", bound=cst.CSTNode)
INSTALLED: Final = re.compile(r"[/\\](?:site|dist)-packages[/\\]|^<")
"""Of a path: what a package manager put there, or no file at all."""


class SourceFile:
    """One file; raises NotWritableError where it is no Python in UTF-8."""

    def __init__(self, file: str, data: bytes) -> None:
        self.file, self.data = file, data
        self._begin = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        body = data[self._begin :]
        try:
            module = cst.parse_module(body)
        except (cst.ParserSyntaxError, UnicodeDecodeError, LookupError) as error:
            raise NotWritableError(file, 1, "it cannot be read as Python") from error
        if module.encoding.lower().replace("_", "-") not in {"utf-8", "utf8", "ascii"} or module.bytes != body:
            raise NotWritableError(file, 1, f"its encoding is {module.encoding}; only UTF-8 is written")
        wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
        found: Any = wrapper.resolve_many([ByteSpanPositionProvider, ScopeProvider, ParentNodeProvider])
        self.module = module
        self._spans, self._scopes = found[ByteSpanPositionProvider], found[ScopeProvider]
        self._parents: Mapping[cst.CSTNode, cst.CSTNode] = found[ParentNodeProvider]
        self._lines = [0, *(at.end() for at in re.finditer(rb"\r\n|\r|\n", data))]
        self.newline = module.default_newline

    def start(self, node: cst.CSTNode) -> int:
        """The first byte of a part."""
        return int(self._spans[node].start) + self._begin

    def end(self, node: cst.CSTNode) -> int:
        """The first byte behind a part."""
        return self.start(node) + int(self._spans[node].length)

    def line_at(self, at: int) -> int:
        """The line of a byte, from 1."""
        return bisect.bisect_right(self._lines, at)

    def line(self, node: cst.CSTNode) -> int:
        """The line that a part begins on."""
        return self.line_at(self.start(node))

    def column(self, node: cst.CSTNode) -> int:
        """The bytes before a part on its line."""
        at = self.start(node)
        return at - self.line_start(at)

    def line_start(self, at: int) -> int:
        """The first byte of the line of a byte."""
        return self._lines[self.line_at(at) - 1]

    def between(self, start: int, end: int) -> str:
        """The source from one byte to another."""
        return self.data[start:end].decode()

    def text(self, node: cst.CSTNode) -> str:
        """The source of a part."""
        return self.between(self.start(node), self.end(node))

    def indent(self, node: cst.CSTNode) -> str:
        """The blanks before what the part's line begins with."""
        line = self.between(self.line_start(self.start(node)), self.start(node))
        return line[: len(line) - len(line.lstrip())]

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """What a part stands in."""
        return self._parents.get(node)

    def above(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """What a part stands in, from the innermost to the module."""
        found = self._parents.get(node)
        while found is not None:
            yield found
            found = self._parents.get(found)

    def inside(self, node: cst.CSTNode, outer: cst.CSTNode) -> bool:
        """Whether a part is another one or stands in it."""
        return node is outer or any(one is outer for one in self.above(node))

    def all(self, kind: type[Node], within: cst.CSTNode | None = None) -> Iterator[Node]:
        """The parts of a kind, in the order of the source."""
        waiting = [within or self.module]
        while waiting:
            node = waiting.pop()
            if isinstance(node, kind):
                yield node
            waiting += reversed(node.children)

    def scope(self, node: cst.CSTNode) -> Scope | None:
        """What tells the names that a part may use."""
        for one in (node, *self.above(node)):
            if self._scopes.get(one) is not None:
                found: Scope = self._scopes[one]
                return found
        return None

    def scope_of_target(self, target: cst.CSTNode) -> Scope | None:
        """What tells a name that is assigned to; a parameter is told by its function's body."""
        if isinstance(self.parent(target), cst.Param):
            function = next(one for one in self.above(target) if isinstance(one, cst.FunctionDef | cst.Lambda))
            return self.scope(next(iter(self.all(cst.Name, function.body)), function.body))
        return self.scope(target)

    def replaced(self, node: cst.CSTNode, text: str, what: str) -> Edit:
        """The edit that writes another text for a part."""
        start = self.start(node)
        return Edit(self.file, start, self.end(node) - start, text, self.line_at(start), what)

    def inserted(self, at: int, text: str, what: str) -> Edit:
        """The edit that puts a text before a byte."""
        return Edit(self.file, at, 0, text, self.line_at(at), what)

    def refused(self, node: cst.CSTNode, text: str) -> NotWritableError:
        """The error that says why nothing is written at a part."""
        return NotWritableError(self.file, self.line(node), text)


class Sources:
    """The files of a program, each read once.

    `held` are contents to use instead of what is on disk. `measured` has the SHA-256 of files as they were when they
    ran; one that is another now is not read.
    """

    def __init__(self, held: Mapping[str, bytes] | None = None, measured: Mapping[str, str] | None = None) -> None:
        self._data, self._measured = dict(held or {}), dict(measured or {})
        self._files: dict[str, SourceFile] = {}

    def files(self) -> list[str]:
        """The files of Python that are known by now."""
        return [one for one in dict.fromkeys((*self._data, *self._measured)) if one.endswith(".py")]

    def data(self, file: str) -> bytes:
        """A file's bytes; raises NotWritableError where it was installed, or cannot be read."""
        if INSTALLED.search(file):
            made = "no file: a program made this code" if file.startswith("<") else "an installed package, not edited"
            raise NotWritableError(file, 1, f"it is {made}")
        if file not in self._data:
            try:
                data = Path(file).read_bytes()
            except OSError as error:
                raise NotWritableError(file, 1, f"it cannot be read ({error.strerror or error})") from error
            if self._measured.get(file, found := hashlib.sha256(data).hexdigest()) != found:
                raise NotWritableError(file, 1, "it has changed since its launches were captured; tune again")
            self._data[file] = data
        return self._data[file]

    def file(self, file: str) -> SourceFile:
        """A file of Python; raises NotWritableError as `data` does, and where it is none."""
        if file not in self._files:
            self._files[file] = SourceFile(file, self.data(file))
        return self._files[file]


def last_name(node: cst.CSTNode) -> str:
    """`autotune` of `triton.autotune`; empty where a part is no name."""
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def shown(text: str, most: int = 60) -> str:
    """A source text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
