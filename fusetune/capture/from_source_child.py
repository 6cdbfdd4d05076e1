"""The process that imports kernels: `python -m fusetune.capture.from_source_child REQUEST ANSWER`, both JSON.

See from_source.py.
"""

from __future__ import annotations

import ast
import operator
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from fusetune.capture.answers import write_answer
from fusetune.capture.captures import make_private, write_private
from fusetune.capture.exported import Exporter, NotExportedError
from fusetune.capture.from_source import KernelPlace, KernelSource, NoKernel, SourceAnswer, SourceRequest
from fusetune.capture.kept import KERNELS
from fusetune.capture.needed import needed
from fusetune.core.brief import brief, brief_error
from fusetune.core.target import find_target
from fusetune.core.trouble import trouble_of
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, UsageError
from fusetune.ops.sources import jitted, source_hash_of

_LOCALS = "<locals>"


class _NoKernelError(Exception):
    """Why there is no kernel: a NoKernel."""

    def __init__(self, why: str, *, gone: bool = False, never: bool = False) -> None:
        super().__init__(why)
        self.told = NoKernel(why, gone, never)


class _MachineError(Exception):
    """The machine did not let a file be looked at."""


def main() -> int:
    """Import what is asked for, and write down what was found."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=SourceRequest)
    answer = _answer(request)
    try:
        write_answer(Path(sys.argv[2]), answer)
    except OSError:  # who asked sees that there is none, and where there is no room
        return EXIT_INCONCLUSIVE
    return EXIT_OK


def _answer(request: SourceRequest) -> SourceAnswer:
    try:
        from fusetune.capture.stand_in import stand_in

        with stand_in(find_target(request.target)):
            return found_in(request.wanted, Path(request.folder))
    except UsageError as error:
        trouble = trouble_of(error)  # Of a package that is there, and cannot be loaded for want of memory.
        return SourceAnswer(usage=str(error)) if trouble is None else SourceAnswer(machine=trouble.detail)
    except (_MachineError, ImportError, MemoryError, OSError) as error:
        trouble = trouble_of(error)
        return SourceAnswer(machine=str(error) if trouble is None else trouble.detail)


def found_in(wanted: Sequence[KernelPlace], folder: Path) -> SourceAnswer:
    """Each kernel in a folder of its own below `folder`, in this process."""
    of_file: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in wanted:
        module, _, qualname = one.kernel.partition(":")
        of_file[one.file, module].append(qualname.partition(".")[0])
    modules: dict[tuple[str, str], ModuleType | NoKernel] = {}
    kernels: list[KernelSource | None] = []
    reasons: list[NoKernel | None] = []
    for number, one in enumerate(wanted):
        key = one.file, one.kernel.partition(":")[0]
        if key not in modules:
            modules[key] = _module_or_why(Path(one.file), key[1], of_file[key])
        held = modules[key]
        found = held if isinstance(held, NoKernel) else _kernel_or_why(held, one, folder / f"{number:03d}")
        kernels.append(found if isinstance(found, KernelSource) else None)
        reasons.append(found if isinstance(found, NoKernel) else None)
    return SourceAnswer(tuple(kernels), tuple(reasons))


def _module_or_why(file: Path, module: str, names: Collection[str]) -> ModuleType | NoKernel:
    try:
        return _imported(file, module, names)
    except _NoKernelError as error:
        return error.told


def _kernel_or_why(module: ModuleType, wanted: KernelPlace, folder: Path) -> KernelSource | NoKernel:
    try:
        return _written(module, wanted, folder)
    except _NoKernelError as error:
        return error.told


def _imported(file: Path, module: str, names: Collection[str]) -> ModuleType:
    """What the names need of a file, as the module that it is."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _NoKernelError(f"{file} is not there any more", gone=True) from error
    except OSError as error:
        raise _MachineError(f"{file} cannot be read: {error.strerror or error}") from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise _NoKernelError(f"{file} is no Python that can be read{f', line {line}' if line else ''}") from error
    depth = module.count(".") + (file.name == "__init__.py")
    root = str(file.parents[min(depth, len(file.parents) - 1)])
    if root not in sys.path:
        sys.path.insert(0, root)
    made = ModuleType(_name_of(module))
    made.__file__ = str(file)
    made.__package__ = module if file.name == "__init__.py" else module.rpartition(".")[0]
    sys.modules[made.__name__] = made
    try:
        code = compile(needed(tree, names), str(file), "exec", dont_inherit=True)
        exec(code, vars(made))
    except Exception as error:
        raise _NoKernelError(f"{file} cannot be imported: {brief_error(error)}") from error
    return made


def _name_of(module: str) -> str:
    """The module's name; another where the script is called as a module that this process has, as `profile.py`."""
    taken = "." not in module and (module in sys.modules or module in sys.stdlib_module_names)
    return f"source_of_{module}" if taken else module


def _written(module: ModuleType, wanted: KernelPlace, folder: Path) -> KernelSource:
    qualname = wanted.kernel.partition(":")[2]
    if _LOCALS in qualname:
        raise _NoKernelError(f"{wanted.file}: {qualname} stands inside a function: it cannot be had", never=True)
    try:
        kernel = jitted(operator.attrgetter(qualname)(module))
    except AttributeError:
        kernel = None
    if kernel is None:
        raise _NoKernelError(f"{wanted.file} has no kernel {qualname} any more", gone=True)
    exporter = Exporter()
    try:
        place = exporter.function(kernel)
        hashed = source_hash_of(kernel)
    except NotExportedError as error:
        raise _NoKernelError(f"{wanted.file}: {qualname} cannot be taken out of it: {error}", never=True) from error
    except (OSError, TypeError, SyntaxError, ValueError) as error:
        raise _NoKernelError(f"{wanted.file}: the source of {qualname} cannot be read: {brief(error)}") from error
    _write(exporter, folder)
    return KernelSource(str(folder), place.module, place.name, hashed)


def _write(exporter: Exporter, folder: Path) -> None:
    texts: dict[str, Any] = {"__init__.py": '"""A kernel as its file has it now."""\n', **exporter.texts()}
    try:
        make_private(folder / KERNELS)
        for name, text in texts.items():
            write_private(folder / KERNELS / name, text.encode())
    except OSError as error:
        raise _MachineError(f"{folder} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
