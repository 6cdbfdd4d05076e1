"""Which configs an exported module gets, and what its header says of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import cast

import msgspec

import fusetune
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import Target
from fusetune.core.text import printable
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.spec import KernelSpec, rounds_in_descriptor
from fusetune.runtime.believed import read_believed_file
from fusetune.store.lookup import Lookup, lookup
from fusetune.store.paths import config_paths
from fusetune.store.schema import ConfigFile
from fusetune.units import format_gain, format_interval, format_us

MAX_CONFIGS = 3
"""What an autotuned module may try at most: a reader of its list should take it in at once."""


class Choice(msgspec.Struct, frozen=True):
    """The config of one problem, how it was found, and all that an autotuned module tries (BASELINE among them)."""

    problem: Problem
    found: Lookup
    tried: tuple[Config, ...]

    @property
    def config(self) -> Config:
        """The config that the module launches."""
        return cast("Config", self.found.config)


def choose_config(spec: KernelSpec, problem: Problem, target: Target, roots: Sequence[Path]) -> Choice:
    """The config that the files under `roots` hold for a problem on `target`, predicted ones too; else BASELINE.

    Raises ConfigFileError for a damaged file, UsageError where a library won: then there is no kernel to export.
    """
    files: list[tuple[Path, ConfigFile]] = [(path, read_believed_file(path)) for path in config_paths(roots)]
    identity = TargetIdentity(target.name, target.capability, target.sms)
    here = Environment(triton=version("triton"), kernel_hash=spec.source_hash())
    found = lookup(
        files,
        spec.name,
        problem,
        identity,
        here,
        allow_predicted=True,
        baseline=lambda: BASELINE,
        source_hash=spec.source_hash,
    )
    if found.config.is_library:
        raise UsageError(
            f"{found.file}: a library won for {problem.describe()}, so there is no kernel to export; "
            "sweep without --allow-library"
        )
    over = found.entry.gain_over_conservative if found.entry else None
    chosen = cast("Config", found.config)
    beside = cast("Config", over.config) if over else chosen
    conservative = [beside] if beside.variant == chosen.variant else []
    return Choice(problem, found, tuple(dict.fromkeys([chosen, *conservative, BASELINE]))[:MAX_CONFIGS])


def header(spec: KernelSpec, choices: Sequence[Choice], target: Target, *, autotune: bool) -> list[str]:
    """What a reader should know of the module, a line each: where its numbers come from and what it does not do."""
    of = {"gemm_scale": "y = (x @ W.T + bias) * scale", "gemm_scale_bn": "BatchNorm1d((x @ W.T + bias) * scale)"}
    first = choices[0].problem
    lines = [
        f"{of.get(spec.name, spec.name)}, x [M, K], W [N, K]. For {target.name}, "
        f"M={first.M} K={first.K} N={first.N} {first.dtype}{f' {first.precision}' if first.precision else ''}.",
        f"Made by fusetune {fusetune.__version__} from its kernels (source {spec.source_hash()}).",
    ]
    for choice in choices:
        mode = f"{choice.problem.mode}: " if choice.problem.mode else ""
        lines.append(f"{mode}{_evidence(choice.found)}")
    if autotune:
        lines.append("Where a kernel is autotuned, its first launch for new sizes tries the configs listed above it.")
    if any(choice.config.is_walking for choice in choices) and first.precision == "tf32":
        lines.append(
            "Needs triton 3.7 or later, whose descriptors round float32 to the nearest TF32 value."
            if rounds_in_descriptor()
            else "With triton 3.6 descriptors cannot round: TF32 inputs are cut off, which the library's are not."
        )
    lines.append("Forward pass only: there is no gradient through the kernels.")
    return [printable(line) for line in lines]


def _evidence(found: Lookup) -> str:
    label, entry = found.config.label(), found.entry
    if entry is None:
        return f"{label}, the 4-warp / 2-stage baseline: no tuned config fits this problem on this GPU."
    where = f"run {entry.run}, {entry.date}"
    nearest = "" if found.rung == "exact" else f"tuned for M={entry.problem.sizes()['M']}, the nearest size; "
    if entry.time_us is None or entry.gain is None:
        predicted = f"{format_us(entry.predicted_us.config)} predicted" if entry.predicted_us else "predicted"
        return f"{label}: {nearest}{predicted}, nothing was timed ({where}; triton {entry.environment.triton})."
    times = f"{format_us(entry.time_us.config)}, the 4-warp / 2-stage baseline {format_us(entry.time_us.baseline)}"
    interval = format_interval(entry.gain.low, entry.gain.high)
    gain = f"gain {format_gain(entry.gain.median)} in {interval} at {entry.gain.confidence * 100:g} %"
    software = f"torch {entry.environment.torch}, triton {entry.environment.triton}"
    return f"{label}: {nearest}{times}; {gain}, {entry.verdict} ({where}; {software})."
