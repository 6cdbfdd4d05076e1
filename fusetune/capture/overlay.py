"""Files with another text in this process: what imports, runs, opens or shows their source sees that one.

Nothing on disk is touched, and `__file__` and line numbers are those of the file with its new text. A file need not be
there yet. Processes that the program starts itself see what is on disk.

Private parts that this relies on: `SourceFileLoader` has every import of a file by `get_code`, `get_data`;
`runpy` reads by `io.open_code`; `linecache.updatecache` reads what `inspect` shows, and with it Triton; pytest
keeps the tests that it rewrites in `__pycache__`, and reads them there by `open`.
"""

from __future__ import annotations

import builtins
import io
import linecache
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import decode_source
from pathlib import Path
from typing import Any, Final

from fusetune.capture.patching import Patches

_READS: Final = frozenset("rbtU")
"""All that the mode of a file has that is only read."""
_CACHE: Final = "__pycache__"


class Overlay:
    """Between `install` and `remove` files have the texts that `texts` gives by their paths."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = {os.path.realpath(file): data for file, data in texts.items()}
        self._names = {Path(file).name for file in (*texts, *self._texts)}
        self._copies: dict[str, str] = {}
        self._patches = Patches()

    def install(self) -> None:
        """Begin. Does nothing where there are no texts."""
        if not self._texts:
            return
        folder = self._patches.enter_context(tempfile.TemporaryDirectory(prefix="fusetune-text-"))
        for number, (file, data) in enumerate(self._texts.items()):
            copy = Path(folder, f"{number}-{Path(file).name}")
            copy.write_bytes(data)
            self._copies[file] = str(copy)
        self._forget()
        self._patches.callback(self._forget)
        self._patches.put(SourceFileLoader, "get_code", self._code(SourceFileLoader.get_code))
        self._patches.put(SourceFileLoader, "get_data", self._data(SourceFileLoader.get_data))
        self._patches.put(linecache, "updatecache", self._lines(linecache.updatecache))
        opened = self._opened(builtins.open)
        self._patches.put(builtins, "open", opened)
        self._patches.put(io, "open", opened)
        self._patches.put(io, "open_code", self._opened_code(io.open_code))
        # What rewrites code before it is compiled, as pytest does, would keep it for the next run of what is on disk.
        self._patches.put(sys, "dont_write_bytecode", True)

    def remove(self) -> None:
        """End it; everything is as it was."""
        self._patches.close()

    def _file(self, path: Any) -> str | None:
        """The file that a path names, where it has another text."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        name = os.fsdecode(path)
        if os.path.basename(name) not in self._names:  # noqa: PTH119 - each file that is opened comes by here
            return None
        real = os.path.realpath(name)
        return real if real in self._texts else None

    def _forget(self) -> None:
        """Let sources be read anew."""
        for file in [one for one in linecache.cache if self._file(one) is not None]:
            del linecache.cache[file]

    def _code(self, get_code: Callable[..., Any]) -> Callable[..., Any]:
        def code(loader: SourceFileLoader, fullname: str) -> Any:
            path = loader.get_filename(fullname)
            file = self._file(path)
            return get_code(loader, fullname) if file is None else loader.source_to_code(self._texts[file], path)

        return code

    def _data(self, get_data: Callable[..., bytes]) -> Callable[..., bytes]:
        def data(loader: SourceFileLoader, path: str) -> bytes:
            file = self._file(path)
            return get_data(loader, path) if file is None else self._texts[file]

        return data

    def _lines(self, updatecache: Callable[..., list[str]]) -> Callable[..., list[str]]:
        def lines(filename: str, module_globals: Any = None) -> list[str]:
            file = self._file(filename)
            if file is None:
                return updatecache(filename, module_globals)
            data = self._texts[file]
            found = io.StringIO(decode_source(data)).readlines()
            if found and not found[-1].endswith("\n"):
                found[-1] += "\n"
            linecache.cache[filename] = (len(data), None, found, filename)  # Without a time nothing asks the disk.
            return found

        return lines

    def _opened(self, opens: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
            if not set(mode) <= _READS:
                return opens(file, mode, *args, **named)
            if self._is_compiled(file):
                raise FileNotFoundError(f"{file} is of another text than the program has now")
            return opens(self._copy(file), mode, *args, **named)

        return opened

    def _opened_code(self, opens: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path: opens(self._copy(path))

    def _copy(self, path: Any) -> Any:
        """Where the text is that a path has now."""
        file = self._file(path)
        return path if file is None else self._copies[file]

    def _is_compiled(self, path: Any) -> bool:
        """Whether a path is that of compiled code of a file that has another text."""
        if not isinstance(path, str | os.PathLike):
            return False
        parent, name = os.path.split(os.fsdecode(path))
        if os.path.basename(parent) != _CACHE:  # noqa: PTH119
            return False
        folder = os.path.realpath(os.path.dirname(parent))  # noqa: PTH120
        return any(str(Path(file).parent) == folder and name.startswith(f"{Path(file).stem}.") for file in self._texts)
