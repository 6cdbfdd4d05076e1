"""What a bug report says of the machine: versions, GPUs, folders, settings. Loads neither torch nor triton.

Paths below the user's home begin with `~`; nothing else of the user is in it.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

import fusetune
from fusetune.compiler.tools import FoundTool, found_tools
from fusetune.core.brief import brief
from fusetune.core.trouble import triton_cache_dir
from fusetune.errors import FusetuneError
from fusetune.measure.gpus import SeenGpu, SeenGpus, every_gpu
from fusetune.ops.approved import book_path
from fusetune.store.paths import captures_folder, reachable_search_path, runs_dir
from fusetune.store.regular import is_folder
from fusetune.units import format_bytes

MACHINE_VERSION: Final = 1
"""History of the JSON form: 1, the first version."""

_VARIABLES: Final = ("FUSETUNE_", "TRITON_")
_ALSO: Final = ("CUDA_VISIBLE_DEVICES",)
_DISTRIBUTIONS: Final = {"torch": ("torch",), "triton": ("triton", "pytorch-triton")}
_NO: Final = "not installed"


class Folder(msgspec.Struct, frozen=True):
    """A folder that is searched or written: what for, where, whether it is there, whether it can be written or made."""

    what: str
    path: str
    there: bool
    writable: bool

    def state(self) -> str:
        """In words."""
        if self.there:
            return "writable" if self.writable else "read only"
        return "not there, can be made" if self.writable else "not there, cannot be made"


class Ptxas(msgspec.Struct, frozen=True):
    """A ptxas that Triton may call; `release` is None where it cannot be had, and `trouble` says why."""

    name: str
    path: str
    release: str | None = None
    trouble: str | None = None


class Machine(msgspec.Struct, frozen=True):
    """All of it. A version is None where the package is not installed, `torch_cuda` where torch is built without it."""

    fusetune: str
    python: str
    platform: str
    torch: str | None
    torch_cuda: str | None
    triton: str | None
    driver: str | None
    cuda: str | None
    gpus: tuple[SeenGpu, ...]
    no_gpu: str | None
    ptxas: tuple[Ptxas, ...]
    folders: tuple[Folder, ...]
    troubles: tuple[str, ...]
    variables: dict[str, str]
    machine: int = MACHINE_VERSION


def machine_here() -> Machine:
    """What is true of this machine and this user now. Raises nothing for what is missing or broken."""
    gpus = every_gpu()
    folders, troubles = _folders()
    return Machine(
        fusetune=fusetune.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        torch=_version("torch"),
        torch_cuda=_cuda_of_torch(),
        triton=_version("triton"),
        driver=gpus.driver,
        cuda=gpus.cuda,
        gpus=gpus.gpus,
        no_gpu=_why_no_gpu(gpus),
        ptxas=tuple(map(_ptxas, found_tools())),
        folders=tuple(folders),
        troubles=tuple(map(_home, troubles)),
        variables=dict(_variables()),
    )


def lines_of(machine: Machine) -> list[str]:
    """One screen: a line for each fact."""
    torch_cuda = f", built for CUDA {machine.torch_cuda}" if machine.torch_cuda else ", built without CUDA"
    lines = [
        _line("fusetune", machine.fusetune),
        _line("Python", f"{machine.python}, {machine.platform}"),
        _line("torch", f"{machine.torch}{torch_cuda}" if machine.torch else _NO),
        _line("triton", machine.triton or _NO),
        *(_line(tool.name, f"{tool.release or tool.trouble}  {tool.path}") for tool in machine.ptxas),
        _line("driver", f"{machine.driver}, runs CUDA up to {machine.cuda or '?'}" if machine.driver else "none seen"),
        *(_line(f"GPU {number}", _gpu(gpu)) for number, gpu in enumerate(machine.gpus)),
    ]
    lines += [_line("GPU", f"none: {machine.no_gpu}")] if machine.no_gpu else []
    lines.append("folders")
    lines += [f"  {folder.what:<16} {folder.path} ({folder.state()})" for folder in machine.folders]
    lines += [f"  {trouble}" for trouble in machine.troubles]
    lines.append("variables that are set" if machine.variables else "variables: none of FUSETUNE_*, TRITON_* is set")
    lines += [f"  {name}={value}" for name, value in machine.variables.items()]
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:<16} {text}".rstrip()


def _gpu(gpu: SeenGpu) -> str:
    parts = [gpu.name, f"compute capability {gpu.capability or '?'}", f"{gpu.sms or '?'} SMs"]
    parts += [format_bytes(gpu.memory_bytes)] if gpu.memory_bytes else []
    return ", ".join([*parts, *(["in MIG mode"] if gpu.mig else [])])


def _ptxas(tool: FoundTool) -> Ptxas:
    return Ptxas(tool.name, _home(tool.path), tool.release, _home(tool.trouble) if tool.trouble else None)


def _why_no_gpu(seen: SeenGpus) -> str | None:
    return None if seen.gpus else seen.why_none or "no reason is known"


def _version(package: str) -> str | None:
    for name in _DISTRIBUTIONS[package]:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cuda_of_torch() -> str | None:
    """The CUDA that torch was built for, as its version.py has it, in torch 2.11 and 2.13 alike."""
    torch = find_spec("torch")
    for folder in (torch.submodule_search_locations or ()) if torch is not None else ():
        try:
            tree = ast.parse(Path(folder, "version.py").read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            continue
        for node in tree.body:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            value = getattr(node, "value", None)
            if [getattr(target, "id", None) for target in targets] == ["cuda"] and isinstance(value, ast.Constant):
                return None if value.value is None else str(value.value)
    return None


def _folders() -> tuple[list[Folder], list[str]]:
    configs, troubles = reachable_search_path()
    found = [_folder("configs", path) for path in configs]
    ways: tuple[tuple[str, Callable[[], Path]], ...] = (
        ("runs", runs_dir),
        ("captures", captures_folder),
        ("ops by name", lambda: book_path().parent),
        ("Triton's cache", lambda: triton_cache_dir()[0]),
        ("temporary files", lambda: Path(tempfile.gettempdir())),
    )
    for what, where in ways:
        try:
            found.append(_folder(what, where()))
        except (FusetuneError, OSError, RuntimeError) as error:  # a variable that names none, no home, a full disk
            troubles.append(f"{what}: {error}")
    return found, troubles


def _folder(what: str, path: Path) -> Folder:
    there = is_folder(path)
    above = path.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    writable = is_folder(above) and os.access(above, os.W_OK | os.X_OK)
    return Folder(what, _home(str(path)), there, writable)


def _variables() -> Iterator[tuple[str, str]]:
    for name, value in sorted(os.environ.items()):
        if name.startswith(_VARIABLES) or name in _ALSO:
            yield name, _home(brief(value))


def _home(text: str) -> str:
    """The text with the user's home as `~`."""
    for home in dict.fromkeys((os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~")))):  # noqa: PTH111
        if home.startswith(os.sep) and len(home) > 1:
            text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    return text
