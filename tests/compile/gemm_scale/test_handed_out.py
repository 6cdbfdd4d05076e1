"""Every module that can be handed out is taken by Triton: of shipped configs all, of the spaces one of each width.

The front end sees them all, which takes a twentieth of a second each: names, types and shapes are its business. Of each
kind one goes on to machine code: of shipped kernels, one text for inputs of one width on a generation of GPUs, that of
the largest tile; of the spaces' kernels, those of one name that take the same arguments, that of the smallest. That
each shipped tile fits its GPU is what the gate compiles the library's own kernels for.
"""

from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from fusetune.compiler.build import compile_launch
from fusetune.core.target import Target, find_target
from fusetune.errors import CompileError, UsageError
from fusetune.nn.export import choice, module
from fusetune.nn.export.module import export_module, module_text
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.persistent import parts_of
from fusetune.ops.gemm_scale.problem import DTYPES, PRECISIONS, Dtype, Problem, make_problem
from fusetune.ops.gemm_scale.space import masking_variant, reject_reason
from fusetune.ops.gemm_scale.split import joins_summands
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import KernelSpec, Launch, abstract_tensors
from fusetune.runtime.believed import read_believed_file
from tests.support.gemm_scale.exporting import OPS, choice_of, modes_of
from tests.support.gemm_scale.handed_out import (
    identity,
    kind_by_name,
    kind_by_text,
    launches_of,
    loaded,
    through_front_end,
)

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
GPUS = {"nvidia-geforce-rtx-4090": "rtx4090", "nvidia-h200": "h200", "nvidia-h100-80gb-hbm3": "h100"}
GENERATIONS = ("rtx4090", "h200")
WIDTHS: tuple[tuple[Dtype, ...], ...] = (("float32",), ("float16", "bfloat16"))
groups = pytest.mark.parametrize(("op", "dtypes"), list(itertools.product(OPS, WIDTHS)))


@pytest.fixture(autouse=True)
def _read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not change from export to export of one test run is read once."""
    monkeypatch.setattr(choice, "read_believed_file", _read)


_read = functools.cache(read_believed_file)


def shipped(folder: str, op: str) -> Iterator[Problem]:
    """The problem of each entry, without its mode: a module has both."""
    path = CONFIGS / folder / f"{op}.yaml"
    entries = _read(path).entries if path.exists() else ()
    yield from dict.fromkeys(structs.replace(entry.problem, mode=None) for entry in entries)


def test_every_folder_of_shipped_configs_is_exported_here() -> None:
    files = {(path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml")}
    assert {folder for folder, _ in files} == set(GPUS)
    assert {op for _, op in files} == set(OPS)
    assert set(itertools.chain(*WIDTHS)) == set(DTYPES)


Kind = Callable[[Launch, Target], tuple[str, ...]]


class Handed:
    """Launches of modules, each seen once, and what Triton says against them."""

    def __init__(
        self, folder: Path, kind: Callable[[Launch, Target], tuple[str, ...]], choose: Callable[..., Launch]
    ) -> None:
        self._folder, self._number, self._kind, self._choose = folder, itertools.count(), kind, choose
        self._seen: set[str] = set()
        self._kinds: dict[tuple[str, ...], tuple[Launch, Target]] = {}
        self.against: dict[str, str] = {}

    def look_at(self, text: str, problems: list[Problem], target: Target, name: str) -> None:
        """Have Triton's front end take what a module launches for these problems."""
        made = loaded(self._folder / f"handed_out_{next(self._number)}.py", text)
        for problem in problems:
            for launch in launches_of(made, problem, target):
                self._take(launch, target, f"{target.name} {name} {problem.describe()}")

    def _take(self, launch: Launch, target: Target, of: str) -> None:
        kind = self._kind(launch, target)
        before, _ = self._kinds.get(kind, (launch, target))
        self._kinds[kind] = self._choose((before, launch), key=_tile), target
        told = identity(launch)
        if told in self._seen:
            return
        self._seen.add(told)
        try:
            through_front_end(launch, target)
        except CompileError as error:
            self.against[f"{of}: {launch.kernel.fn.__name__} {dict(launch.constants)}"] = str(error)

    def compile_one_of_each_kind(self) -> int:
        """Machine code of one of each kind; how many there are."""
        for launch, target in self._kinds.values():
            try:
                compile_launch(launch, target)
            except CompileError as error:
                self.against[f"{target.name}: {launch.kernel.fn.__name__} {dict(launch.constants)}"] = str(error)
        return len(self._kinds)


def _tile(launch: Launch) -> int:
    sides = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "ROWS", "COLUMNS")
    size = 1
    for side in sides:
        size *= launch.constants.get(side, 1)
    return size


@groups
def test_every_shipped_config_is_exported_to_a_module_that_triton_takes_for_its_gpu(
    op: str, dtypes: tuple[Dtype, ...], tmp_path: Path
) -> None:
    handed, spec = Handed(tmp_path, kind_by_text, max), load_spec(op)
    modules = 0
    for folder, gpu in GPUS.items():
        target = find_target(gpu)
        for problem in shipped(folder, op):
            if problem.dtype not in dtypes:
                continue
            for autotune in (False, True):
                try:
                    text = export_module(spec, problem, target, [CONFIGS], autotune=autotune)
                except UsageError as error:
                    if autotune and "nothing to choose between" in str(error):
                        continue
                    raise
                modules += 1
                problems = [structs.replace(problem, mode=mode) for mode in modes_of(op)]
                handed.look_at(text, problems, target, "autotuned" if autotune else "")
    assert modules
    assert handed.compile_one_of_each_kind()
    assert handed.against == {}
    assert _linted(tmp_path) == ""


def test_the_front_end_makes_the_same_whatever_the_warps_and_the_stages() -> None:
    """So that it need not see a launch again for these."""
    target = find_target("h200")
    told = set()
    for warps, stages in ((4, 2), (8, 3)):
        config = structs.replace(BASELINE, num_warps=warps, num_stages=stages)
        problem = make_problem(256, 512, 1024, "float16")
        spec = load_spec("gemm_scale")
        (launch,) = spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
        told.add((identity(launch), re.sub(r"loc\(.*|#loc.*", "", through_front_end(launch, target))))
    assert len(told) == 1


# Few tiles, many, and few enough rows for one kernel to own the columns; then rows that the copy engine cannot store,
# and those that it cannot load.
SIZES = ((64, 1024, 8192), (2048, 3072, 768), (16384, 4096, 4096), (2048, 1001, 4096), (200, 1001, 4099))
SIDES = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K")


def one_of_each_width(spec: KernelSpec, problem: Problem, target: Target) -> list[Config]:
    """Configs that the space has and nothing rejects, among them every value of each side of a variant's tiles.

    Of their columns alone where only the generation is another than elsewhere: a newer one's space has all that an
    older one's has. One of each variant, and of each number of parts in which it is stored, where the type is another,
    or how float32 is multiplied: neither goes with the width of anything. Where the copy engine cannot move all, what
    is for that alone, in each split: its tiles are those of `persistent`.
    """
    first = problem.dtype == "float16" or problem.precision == "tf32"
    sides = (SIDES if target.sm >= 90 else ("BLOCK_N",)) if first else ()
    masking = masking_variant(problem)
    if masking is not None:
        sides = ("SPLIT_K",) if first else ()
    found: dict[tuple[object, ...], Config] = {}
    for config in spec.space.configs():
        if config.num_stages > 3 or config.GROUP_M > 4 or config.num_warps == 2:
            continue  # Options and the order of tiles leave the text and its types as they are.
        if masking is not None and config.variant != masking:
            continue
        shape = config.variant, joins_summands(config, problem), config.SPLIT_K > 1
        parts = parts_of(config, problem) if config.is_walking else 1
        keys = [(*shape, side, getattr(config, side)) for side in sides]
        keys += [(*shape, "parts", parts, config.BLOCK_N if first else None)]
        if not set(keys) <= found.keys() and reject_reason(config, problem, target) is None:
            found |= {key: config for key in keys if key not in found}
    return list(dict.fromkeys(found.values()))


@groups
def test_one_config_of_every_admitted_width_is_exported_to_a_module_that_triton_takes(
    op: str, dtypes: tuple[Dtype, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_formatted", lambda section: section)  # Layout is no business of Triton's.
    handed, spec = Handed(tmp_path, kind_by_name, min), load_spec(op)
    forms = [(dtype, form) for dtype in dtypes for form in (PRECISIONS if dtype == "float32" else (None,))]
    for gpu, mode, (dtype, precision) in itertools.product(GENERATIONS, modes_of(op), forms):
        target = find_target(gpu)
        done: set[object] = set()
        for M, N, K in SIZES:
            problem = make_problem(M, N, K, dtype, precision, mode=mode)  # type: ignore[arg-type]
            for config in one_of_each_width(spec, problem, target):
                # What else the text depends on, besides precision, dtype and mode.
                told = structs.astuple(structs.replace(config, GROUP_M=1, num_warps=4, num_stages=3))
                if told in done:
                    continue
                done.add(told)
                chosen = [
                    choice_of(structs.replace(problem, mode=one), config if one == mode else BASELINE)
                    for one in modes_of(op)
                ]
                handed.look_at(module_text(spec, chosen, target), [problem], target, config.label())
    assert handed.compile_one_of_each_kind()
    assert handed.against == {}


def _linted(folder: Path) -> str:
    """What ruff's default rules say of all files there, but of an import that such modules are expected to have."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--output-format", "concise", folder]
    done = subprocess.run(
        [*map(str, command), "--ignore", "PLR0402"], capture_output=True, text=True, check=False, cwd=folder
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
