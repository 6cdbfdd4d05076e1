"""Modules that `fusetune tune -o` wrote: whether each is in the strict order, and imports in a clean interpreter."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

IMPORTS = ("import torch", "import torch.nn as nn", "import triton", "import triton.language as tl")
NEVER = {"get_inputs", "get_init_inputs", "Model"}
LIMIT_S = 120.0


class Module(NamedTuple):
    """A module, and the reference of the program that it was made of."""

    path: Path
    reference: Path


def all_facts(modules: Mapping[str, Module], target: str | None = None) -> dict[str, dict[str, Any]]:
    """What is true of each module that is there, by its name; with a target, whether it compiles for that GPU, too."""
    there = {name: module for name, module in modules.items() if module.path.is_file()}
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
        return dict(zip(there, pool.map(functools.partial(facts, target=target), there.values()), strict=True))


def facts(module: Module, target: str | None = None) -> dict[str, Any]:
    """`in_order`, `imports`, and with a target `compiles`; where one does not hold, why in its place."""
    wrong = list(disorder(module.path.read_text(encoding="utf-8")))
    told = {"in_order": not wrong or wrong[0], "imports": imported(module.path)}
    return told if target is None else {**told, "compiles": compiled(module, target)}


def disorder(text: str) -> Iterator[str]:
    """What in a module is not in the order: imports, kernels, wrappers, ModelNew, and nothing that tries it."""
    body = ast.parse(text).body
    lines = [ast.unparse(node) for node in body if isinstance(node, ast.Import)]
    if tuple(lines[:4]) != IMPORTS:
        yield f"it begins with {'; '.join(lines[:4])}"
    last = 0
    for node in body:
        place = section(node)
        if place is not None and place < last:
            yield f"line {node.lineno} stands too late"
        last = max(last, place or 0)
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            yield f"line {node.lineno} runs it"
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in NEVER:
            yield f"it holds {node.name}"
    if last != 4:
        yield "it has no ModelNew"


def section(node: ast.stmt) -> int | None:
    """1 an import, 2 a kernel, 3 a wrapper, 4 the model; None: anything else, which may stand where it is needed."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return 1
    if isinstance(node, ast.FunctionDef):
        return 2 if any("jit" in ast.unparse(one) for one in node.decorator_list) else 3
    if isinstance(node, ast.ClassDef):
        return 4 if node.name == "ModelNew" else None
    return None


def imported(path: Path) -> bool | str:
    """Whether Python alone imports it, with nothing of ours on its path."""
    code = f"import runpy; runpy.run_path({str(path)!r}, run_name='optimized')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return ended_well([sys.executable, "-c", code], path.parent, environment)


def compiled(module: Module, target: str) -> bool | str:
    """Whether all that its forward launches compiles for a GPU; its trials of configs are compiled as well."""
    command = [sys.executable, "-m", "fusetune", "capture", "--target", target, "--reference", str(module.reference)]
    return ended_well([*command, str(module.path)], module.path.parent, dict(os.environ))


def ended_well(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> bool | str:
    """True where a command ends with 0; else the last line that it said."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {LIMIT_S:g} s"
    said = done.stderr.strip().splitlines()
    return done.returncode == 0 or (said[-1][:200] if said else f"exit code {done.returncode}")
