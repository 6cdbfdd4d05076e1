"""Kernels as files of their own: what a Triton function calls and names goes with it, the program's modules do not.

Each module of the program becomes a file, or several where its functions see different things under one name. They
import each other, installed modules, and nothing of the program.
"""

from __future__ import annotations
import __future__

import builtins
import hashlib
import importlib
import keyword
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from fusetune.capture.kept import KERNELS
from fusetune.core.brief import brief, brief_error
from fusetune.errors import CaptureError
from fusetune.ops.hashing import innermost
from fusetune.ops.sources import definition_of, is_installed, is_triton_s, jitted, names_of, scope_of

_WHOLE: Final = frozenset({"triton", "torch", "numpy"})
"""Packages that are imported, not copied from."""
_DECORATORS: Final = {
    "jit": "from triton import jit as _kept_jit",
    "gluon": "from triton.experimental.gluon import jit as _kept_gluon",
    "constexpr": "from triton import constexpr_function as _kept_constexpr",
}
_CONSTEXPR: Final = "triton.language.core.constexpr"
_FLAG: Final = __future__.annotations.compiler_flag


class NotExportedError(Exception):
    """A kernel that cannot stand alone, with the reason as a sentence about it."""


class Place(NamedTuple):
    """A function in a file: `module` is the file's stem."""

    module: str
    name: str


class _Binding(NamedTuple):
    """One name of a file: `meant` is equal for equal things, `text` defines it, and `of` is the file it comes from."""

    name: str
    meant: object
    text: str
    of: str | None = None


class _File:
    def __init__(self, stem: str, source: str, *, future: bool) -> None:
        self.stem, self.source, self.future = stem, source, future
        self.names: dict[str, object] = {}
        self.imports: dict[str, None] = {}
        self.body: list[str] = []
        self.needs: set[str] = set()

    def text(self) -> str:
        heading = [f'"""What a capture keeps of {_word(self.source)}."""']
        heading += ["from __future__ import annotations"] if self.future else []
        return "\n\n".join(["\n".join([*heading, *self.imports]), *self.body]) + "\n"


class Exporter:
    """Collects functions, then writes their files."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._places: dict[int, Place] = {}
        self._held: list[Any] = []  # So that no other object gets an id that is in use.
        self._under_way: list[Any] = []

    def function(self, value: Any) -> Place:
        """Take in a Triton function and all that it needs. Raises NotExportedError."""
        one = jitted(value)
        if one is None:
            raise NotExportedError(f"{_word(value)} is no function of Triton")
        return self._function(one)

    def texts(self) -> dict[str, str]:
        """The files by their names."""
        return {f"{stem}.py": file.text() for stem, file in self._files.items()}

    def _function(self, one: Any) -> Place:
        function = innermost(one)
        if id(function) in self._places:
            return self._places[id(function)]
        if any(function is held for held in self._under_way):
            raise NotExportedError(f"its {function.__name__} calls itself")
        try:
            definition = definition_of(one)
        except (OSError, TypeError, SyntaxError, ValueError) as error:
            raise NotExportedError(f"the source of its {function.__name__} cannot be read: {brief(error)}") from error
        future = bool(function.__code__.co_flags & _FLAG)
        kind, decorator = _decorator_of(one)
        self._under_way.append(function)
        try:
            bindings = self._bindings(function, definition, future=future)
        finally:
            self._under_way.pop()
        name = function.__name__
        file = self._file(function.__module__, [*bindings, _Binding(name, function, "")], future=future)
        if kind:
            file.imports[_DECORATORS[kind]] = None
            # The interpreter wants it among the names of each function.
            file.imports["import triton.language as _kept_tl"] = None
        file.body.append(f"{decorator}{definition.rstrip()}")
        self._held.append(function)
        place = self._places[id(function)] = Place(file.stem, name)
        return place

    def _bindings(self, function: FunctionType, definition: str, *, future: bool) -> list[_Binding]:
        around = scope_of(function)
        found = []
        for name, chains in sorted(names_of(definition, annotations=not future).items()):
            if name in around and getattr(jitted(around[name]), "fn", around[name]) is not function:
                found.append(self._binding(name, around[name], chains))
        return found

    def _binding(self, name: str, value: Any, chains: Iterable[tuple[str, ...]] = ((),)) -> _Binding:
        """What defines a name. Raises NotExportedError where nothing does."""
        if isinstance(value, ModuleType):
            return self._module(name, value, set(chains))
        one = jitted(value)
        own = type(value) is FunctionType and not hasattr(value, "__wrapped__")
        if one is None and own and not is_installed(value.__module__):
            one = value
        if one is not None and not is_triton_s(innermost(one)):
            place = self._function(one)
            text = f"from .{place.module} import {place.name} as {name}"
            return _Binding(name, innermost(one), text, place.module)
        inside = value.value if _full_name(type(value)) == _CONSTEXPR else None
        if type(inside) is FunctionType and not is_installed(inside.__module__):
            place = self._function(inside)
            text = f"from .{place.module} import {place.name} as _kept_{name}\nimport triton.language as _kept_tl\n"
            text += f"{name} = _kept_tl.constexpr(_kept_{name})"
            return _Binding(name, (_CONSTEXPR, inside), text, place.module)
        literal = _expression(value)
        if literal is not None:
            needs = "import triton.language as _kept_tl\n" if "_kept_tl" in literal else ""
            needs += "import torch as _kept_torch\n" if "_kept_torch" in literal else ""
            return _Binding(name, f"{name} = {literal}", f"{needs}{name} = {literal}")
        imported = _import_of(value)
        if imported is None:
            raise NotExportedError(f"it uses {name}, {_kind(value)}, which only the program has")
        module, qualified = imported
        text = f"from {module} import {qualified} as {name}"
        return _Binding(name, text, text)

    def _module(self, name: str, module: ModuleType, chains: set[tuple[str, ...]]) -> _Binding:
        """A module that is installed is imported; of one of the program, a file has the names that are asked for."""
        importable = sys.modules.get(module.__name__) is module and is_installed(module.__name__)
        text = f"import {module.__name__} as {name}"
        top = module.__name__.partition(".")[0]
        if importable and (top in _WHOLE or top in sys.stdlib_module_names):
            return _Binding(name, text, text)
        if () in chains:
            if importable:
                return _Binding(name, text, text)
            raise NotExportedError(f"it uses {name}, a module of the program, as a whole")
        asked: dict[str, set[tuple[str, ...]]] = {}
        for chain in chains:
            asked.setdefault(chain[0], set()).add(chain[1:])
        try:
            bindings = [
                self._binding(one, getattr(module, one), rest)
                for one, rest in sorted(asked.items())
                if hasattr(module, one)
            ]
        except NotExportedError:
            if importable:
                return _Binding(name, text, text)
            raise
        file = self._file(f"{module.__name__} by name", bindings, future=False)
        return _Binding(name, ("module", file.stem), f"from . import {file.stem} as {name}", file.stem)

    def _file(self, source: str, bindings: list[_Binding], *, future: bool) -> _File:
        """The file of a module that takes these names: they mean nothing else there, and no import goes in a circle."""
        needs = {one.of for one in bindings if one.of is not None}
        for file in self._files.values():
            fits = file.source == source and file.future == future
            fits = fits and not any(self._leads(need, file.stem) for need in needs - {file.stem})
            if fits and all(file.names.get(one.name, one.meant) == one.meant for one in bindings):
                break
        else:
            stem = _stem(source, self._files)
            file = self._files[stem] = _File(stem, source, future=future)
        for one in bindings:
            if one.name in file.names:
                continue
            file.names[one.name] = one.meant
            if one.of == file.stem:
                other = one.text.split()[3]
                if other != one.name:
                    file.body.append(f"{one.name} = {other}")
            elif one.text:
                *imports, last = one.text.split("\n")
                file.imports.update(dict.fromkeys(imports))
                file.body.append(last)
        file.needs |= needs - {file.stem}
        return file

    def _leads(self, start: str, end: str) -> bool:
        seen, waiting = set(), [start]
        while waiting:
            one = waiting.pop()
            if one == end:
                return True
            if one not in seen:
                seen.add(one)
                waiting += self._files[one].needs
        return False


def _decorator_of(one: Any) -> tuple[str | None, str]:
    """What makes a Triton function of a Python function again: its name in _DECORATORS, and the line."""
    kind = type(one).__name__
    if isinstance(one, FunctionType):
        return None, ""
    if kind == "ConstexprFunction":
        return "constexpr", "@_kept_constexpr\n"
    given = getattr(one, "kwargs", None) if hasattr(one, "rewrite") else vars(one)
    names = ("do_not_specialize", "do_not_specialize_on_alignment", "noinline", "debug")
    options = {name: (given or {}).get(name) for name in names}
    options = {name: list(value) if isinstance(value, tuple | set) else value for name, value in options.items()}
    told = {name: _expression(value) for name, value in options.items() if value}
    text = ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)
    gluon = bool(getattr(one, "is_gluon", bool)())
    return ("gluon", f"@_kept_gluon({text})\n") if gluon else ("jit", f"@_kept_jit({text})\n")


def _expression(value: Any) -> str | None:
    """Source that gives an equal value; None where there is none."""
    found: str | None = None
    kind = _full_name(type(value))
    if type(value) in {bool, int, str, type(None)}:
        found = repr(value)
    elif type(value) is float:
        found = repr(value) if math.isfinite(value) else f'float("{value}")'
    elif type(value) in {tuple, list}:
        parts = [_expression(one) for one in value]
        if all(one is not None for one in parts):
            inner = ", ".join(map(str, parts))
            found = f"[{inner}]" if isinstance(value, list) else f"({inner},)" if parts else "()"
    elif kind == "torch.dtype":
        found = f"_kept_{value}"
    elif kind == _CONSTEXPR:
        inside = _expression(value.value)
        found = None if inside is None else f"_kept_tl.constexpr({inside})"
    elif kind == "triton.language.core.dtype":
        found = f"_kept_tl.dtype({value.name!r})"
    return found


def _import_of(value: Any) -> tuple[str, str] | None:
    """The installed module that a function or class is had from, and its name there."""
    name = getattr(value, "__name__", None)
    if not isinstance(name, str):
        return None
    if getattr(builtins, name, None) is value:
        return "builtins", name
    for module in (getattr(value, "__module__", None), getattr(getattr(jitted(value), "fn", None), "__module__", None)):
        known = isinstance(module, str) and is_installed(module)
        if isinstance(module, str) and known and getattr(sys.modules[module], name, None) is value:
            return module, name
    return None


def _stem(source: str, taken: Iterable[str]) -> str:
    stem = re.sub(r"\W+", "_", source, flags=re.ASCII).strip("_") or "module"
    stem = f"of_{stem}"[:80] if keyword.iskeyword(stem) or stem[0].isdigit() else stem[:80]
    number, name = 1, stem
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _kind(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _word(value: Any) -> str:
    """A name from somebody's program, as it may stand in a sentence or a docstring."""
    return re.sub(r"[^\w. <>-]", "?", str(getattr(value, "__name__", value)))[:100]


def load_kernel(folder: Path, module: str, name: str) -> Any:
    """A kernel from the files of a capture's folder, the same object each time. Raises CaptureError."""
    kernels = folder.resolve() / KERNELS
    if not (module.isidentifier() and name.isidentifier()):
        raise CaptureError(f"{brief(folder)} names no kernel; capture the program again")
    try:
        made = (kernels / "__init__.py").stat().st_mtime_ns
    except OSError as error:
        raise CaptureError(f"{brief(kernels)} holds no kernels ({error.strerror}); capture again") from error
    package = f"fusetune_kept_{hashlib.sha256(f'{kernels}:{made}'.encode(), usedforsecurity=False).hexdigest()[:16]}"
    if package not in sys.modules:
        fresh = ModuleType(package)
        fresh.__path__ = [os.fspath(kernels)]
        sys.modules[package] = fresh
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return getattr(importlib.import_module(f"{package}.{module}"), name)
    except Exception as error:
        told = textwrap.shorten(brief_error(error), 300)
        raise CaptureError(f"the kernel in {brief(kernels)} cannot be loaded: {told}; capture again") from error
    finally:
        sys.dont_write_bytecode = before
