"""What a program's file uses of the program's own modules, as statements that can stand beside its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from libcst.metadata import Assignment, ImportAssignment

from fusetune.code.patch.chunks import Chunk, chunks_of, is_asked
from fusetune.code.patch.edits import Edit, Finding, NotWritableError, distinct, spliced
from fusetune.code.patch.lacking import without_lacking
from fusetune.code.patch.source_file import INSTALLED, SourceFile, last_name


class OwnModules:
    """Where the program's own modules are: beside its file, or where they were found as it ran.

    `folder` is that of the file, `known` has files by the names of modules, and `read` gives a file's text, as it is to
    be.
    """

    def __init__(self, folder: Path, known: Mapping[str, str], read: Callable[[str], bytes]) -> None:
        self._folder, self._known, self._read = folder, known, read
        self._sources: dict[str, SourceFile] = {}

    def file(self, module: str, level: int, importer: str) -> str | None:
        """The file of an own module, by its name in an import; None of any other, as of an installed one."""
        if level == 0 and module in self._known:
            return self._known[module]
        folder = self._folder if level == 0 else Path(importer).resolve().parents[level - 1]
        place = folder.joinpath(*module.split(".")) if module else folder
        for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if path.is_file() and not INSTALLED.search(str(path)):
                return str(path)
        return None

    def source(self, file: str) -> SourceFile:
        """A file as it is to be; raises NotWritableError where it cannot be read."""
        if file not in self._sources:
            self._sources[file] = without_lacking(SourceFile(file, self._read(file)))
        return self._sources[file]


class _Imported(NamedTuple):
    """One name that an import binds to something of an own module: `name` of it, or all of it, where that is None.

    `bound` is the name in the importing file, dotted where `import a.b` binds it so; `*` is all names.
    """

    file: str
    name: str | None
    bound: str


class Origins:
    """Which file a name comes from that another one imports."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._all: dict[str, list[str]] = {}

    def note(self, importer: str, name: str, file: str) -> None:
        """That a file has a name from another one, or all names, where it is `*`."""
        if name == "*":
            self._all.setdefault(importer, []).append(file)
        else:
            self._names[importer, name] = file

    def of(self, importer: str, name: str) -> frozenset[str]:
        """The files that may define what a name is in a file, which does not do so itself."""
        found: set[str] = set()
        waiting = [importer]
        while waiting:
            file = waiting.pop()
            more = [*self._all.get(file, ()), *([self._names[file, name]] if (file, name) in self._names else [])]
            waiting += [one for one in more if one not in found]
            found.update(more)
        return frozenset(found)


class Gathered(NamedTuple):
    """The comments at the top of a file, and its statements with those of its own modules where it imports them.

    `findings` say what is imported of these in a way that needs the module itself.
    """

    top: str
    chunks: list[Chunk]
    findings: Sequence[Finding] = ()
    origins: Origins = Origins()


def with_own_modules(source: SourceFile, modules: OwnModules) -> Gathered:
    """A file with its own modules; an import that names alone cannot be put for stays, with a finding.

    Raises NotWritableError where a module cannot be read, and where a name that it is given here clashes there.
    """
    walk = _Walk(modules)
    top, chunks = walk.of(source, inlined=False)
    return Gathered(top, chunks, walk.findings, walk.origins)


class _Walk:
    def __init__(self, modules: OwnModules) -> None:
        self._modules = modules
        self._seen: set[str] = set()
        self._left: set[tuple[str, str]] = set()
        self._bound: dict[str, frozenset[str]] = {}
        self.findings: list[Finding] = []
        self.origins = Origins()

    def of(self, source: SourceFile, *, inlined: bool) -> tuple[str, list[Chunk]]:
        """The statements of a file, those of what it imports before its own."""
        self._seen.add(_real(source.file))
        source = self._by_names(source)
        top, chunks = chunks_of(source, inlined=inlined)
        found: list[Chunk] = []
        for chunk in chunks:
            statements = _imports(chunk.node)
            imported = [one for statement in statements for one in self._imported(source, statement)]
            if not imported:
                self._note_inner(source, chunk)
                found.append(chunk)
            elif chunk.kind != "import" or not isinstance(chunk.node, cst.SimpleStatementLine):
                self._note(source, chunk.node, imported)
                found.append(chunk)
            else:
                found += self._in_place_of(source, chunk, imported)
        return top, found

    def _in_place_of(self, source: SourceFile, chunk: Chunk, imported: Sequence[_Imported]) -> Iterator[Chunk]:
        """What stands for an import: the modules' statements, other names for theirs, and what else it imports."""
        for file in dict.fromkeys(one.file for one in imported):
            if _real(file) not in self._seen:
                yield from self.of(self._modules.source(file), inlined=True)[1]
        for one in imported:
            if one.name is not None:
                self.origins.note(source.file, one.bound, one.file)
            if one.name in {None, "*", one.bound}:
                continue
            if one.bound in self._bound_in(one.file):
                raise source.refused(chunk.node, f"{one.bound} is something else in {one.file}: call it otherwise here")
            yield from _made(one.file, f"{one.bound} = {one.name}\n", inlined=True)
        others = [text for statement in _imports(chunk.node) for text in self._others(source, statement)]
        yield from _made(source.file, "".join(f"{text}\n" for text in others), inlined=chunk.inlined)

    def _imported(self, source: SourceFile, statement: cst.Import | cst.ImportFrom) -> Iterator[_Imported]:
        """What a statement imports of own modules; nothing of one that stays."""
        if (source.file, source.text(statement)) in self._left:
            return
        if isinstance(statement, cst.Import):
            for alias in statement.names:
                name = source.text(alias.name)
                file = self._modules.file(name, 0, source.file)
                if file is not None:
                    yield _Imported(file, None, name if alias.asname is None else last_name(alias.asname.name))
            return
        module, level = source.text(statement.module) if statement.module else "", len(statement.relative)
        file = self._modules.file(module, level, source.file)
        if isinstance(statement.names, cst.ImportStar):
            if file is not None:
                yield _Imported(file, "*", "*")
            return
        for alias in statement.names:
            name = last_name(alias.name)
            bound = name if alias.asname is None else last_name(alias.asname.name)
            if file is not None and name in self._bound_in(file):
                yield _Imported(file, name, bound)
                continue
            inner = self._modules.file(f"{module}.{name}" if module else name, level, source.file)
            if inner is not None:
                yield _Imported(inner, None, bound)
            elif file is not None:
                raise source.refused(statement, f"{name} is not to be found at the top of {file}")

    def _others(self, source: SourceFile, statement: cst.Import | cst.ImportFrom) -> Iterator[str]:
        """What a statement imports beside own modules, as statements."""
        imported = list(self._imported(source, statement))
        if not imported:
            yield source.text(statement)
        elif isinstance(statement, cst.Import):
            for alias in statement.names:
                if self._modules.file(source.text(alias.name), 0, source.file) is None:
                    yield f"import {source.text(alias)}".rstrip(", ")

    def _bound_in(self, file: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        """The names at the top of a file, with all of those whose modules it imports so."""
        if file in self._bound:
            return self._bound[file]
        source = self._modules.source(file)
        found = {name for chunk in chunks_of(source)[1] for name in chunk.binds}
        for statement in [one for node in source.module.body for one in _imports(node)]:
            if isinstance(statement, cst.ImportFrom) and isinstance(statement.names, cst.ImportStar):
                others = {one.file for one in self._imported(source, statement)} - {file, *seen}
                found.update(*(self._bound_in(one, seen | {file}) for one in others))
        if not seen:  # Of a circle not all may be known yet.
            self._bound[file] = frozenset(found)
        return frozenset(found)

    def _by_names(self, source: SourceFile) -> SourceFile:
        """The file with `module.name` written as `name`, of each own module that it imports as a whole."""
        statements = [one for node in source.module.body for one in _imports(node)]
        edits: list[Edit] = []
        for statement in statements:
            try:
                imported = list(self._imported(source, statement))
                whole = {one.bound: one.file for one in imported if one.name is None}
                edits += self._without_modules(source, whole)
            except NotWritableError as error:
                self._left.add((source.file, source.text(statement)))
                text = f"{error.finding.text}; what is imported here has to be beside the module"
                self.findings.append(Finding(source.file, source.line(statement), text))
        return SourceFile(source.file, spliced(source.data, distinct(edits))) if edits else source

    def _without_modules(self, source: SourceFile, whole: Mapping[str, str]) -> list[Edit]:
        """The edits of the places that read some modules, each by its name there."""
        begins = {bound.partition(".")[0] for bound in whole}
        names = [one for one in source.all(cst.Name) if one.value in begins and _is_imported(source, one)]
        return [edit for one in names if (edit := self._by_name(source, one, whole)) is not None]

    def _by_name(self, source: SourceFile, first: cst.Name, whole: Mapping[str, str]) -> Edit | None:
        """The edit of one place that reads a module: the name of it that is asked for there, alone.

        None where it is another module of the same package.
        """
        node: cst.CSTNode = first
        above = source.parent(node)
        while isinstance(above, cst.Attribute) and above.value is node and source.text(node) not in whole:
            node, above = above, source.parent(above)
        bound = source.text(node)
        if bound not in whole and "." in bound:
            return None
        if bound not in whole or not isinstance(above, cst.Attribute) or above.value is not node:
            raise source.refused(first, f"the module {first.value} is used as a whole, and not a name of it")
        name = above.attr.value
        if name not in self._bound_in(whole[bound]):
            raise source.refused(above, f"{name} is not to be found at the top of {whole[bound]}")
        if _is_given_a_value(source, above):
            raise source.refused(above, f"{bound}.{name} is given a value here, and {name} alone would be another one")
        if _is_its_own(source, above, name):
            raise source.refused(above, f"{bound}.{name} cannot be {name} alone, which is something else here")
        self.origins.note(source.file, name, whole[bound])
        return source.replaced(above, name, name)

    def _note_inner(self, source: SourceFile, chunk: Chunk) -> None:
        """Note what is imported of own modules inside a function or a class."""
        inner: list[cst.Import | cst.ImportFrom] = [*source.all(cst.Import, chunk.node)]
        for statement in [*inner, *source.all(cst.ImportFrom, chunk.node)]:
            self._note(source, statement, list(self._imported(source, statement)))

    def _note(self, source: SourceFile, node: cst.CSTNode, imported: Sequence[_Imported]) -> None:
        for one in imported:
            name = one.bound if one.name is None else one.name
            text = f"{name} is imported of {one.file} where it is used, so that has to be beside the module"
            self.findings.append(Finding(source.file, source.line(node), text))


def _imports(node: cst.CSTNode) -> list[cst.Import | cst.ImportFrom]:
    """The imports of a top statement, those of its blocks too, and none of a function's or a class's."""
    if isinstance(node, cst.Import | cst.ImportFrom):
        return [node]
    if isinstance(node, cst.FunctionDef | cst.ClassDef | cst.BaseExpression):
        return []
    return [one for child in node.children for one in _imports(child)]


def _made(file: str, text: str, *, inlined: bool) -> list[Chunk]:
    return chunks_of(SourceFile(file, text.encode()), inlined=inlined)[1] if text else []


def _is_imported(source: SourceFile, node: cst.Name) -> bool:
    """Whether a name is read, and means what an import binds."""
    if is_asked(source, node):
        return False
    if any(isinstance(one, cst.Import | cst.ImportFrom) for one in source.above(node)):
        return False
    scope = source.scope(node)
    return scope is not None and any(isinstance(one, ImportAssignment) for one in scope[node.value])


def _is_given_a_value(source: SourceFile, node: cst.CSTNode) -> bool:
    """Whether an attribute is assigned to, or deleted, and not read."""
    above = source.parent(node)
    while isinstance(above, cst.Element | cst.StarredElement | cst.Tuple | cst.List):
        node, above = above, source.parent(above)
    return isinstance(above, cst.Del) or getattr(above, "target", None) is node


def _is_its_own(source: SourceFile, node: cst.CSTNode, name: str) -> bool:
    """Whether a name means something at a part that the file itself makes."""
    scope = source.scope(node)
    found = scope[name] if scope is not None else ()
    return any(isinstance(one, Assignment) and not isinstance(one, ImportAssignment) for one in found)


def _real(file: str) -> str:
    return str(Path(file).resolve())
