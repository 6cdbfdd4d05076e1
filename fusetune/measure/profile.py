"""One config under Nsight Compute, which runs a process of ours that launches it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.errors import MeasurementError, NoUsableGpuError, UsageError

WARM_UPS = 3
"""Launches before the one that is profiled: what is loaded once must not be in it."""
TIME_LIMIT_S = 300.0
_PLACES = ("/usr/local/cuda/bin/ncu", "/usr/local/cuda/nsight-compute/ncu")
_OPT_FOLDER = Path("/opt/nvidia/nsight-compute")
_NO_PERMISSION = "ERR_NVGPUCTRPERM"


def find_ncu(given: Path | None = None) -> Path:
    """Nsight Compute's command: the one given, on PATH, or where CUDA's installer puts it.

    Raises NoUsableGpuError, which says how to get it.
    """
    if given is not None:
        found = shutil.which(str(given))
        if found is None:
            raise NoUsableGpuError(f"--ncu {given}: there is no such command; name Nsight Compute's ncu")
        return Path(found)
    newest = sorted(_OPT_FOLDER.glob("*/ncu"), reverse=True) if _OPT_FOLDER.is_dir() else []
    for place in ("ncu", *_PLACES, *map(str, newest)):
        found = shutil.which(place)
        if found is not None:
            return Path(found)
    raise NoUsableGpuError(
        "Nsight Compute's ncu is not on PATH; install it (package nsight-compute, or CUDA's toolkit) or name it with "
        "--ncu. `fusetune inspect` reports what is known without it"
    )


def ncu_command(
    ncu: Path, op: str, problem: Problem, config: Config, kernels: Sequence[str], metrics: Sequence[str]
) -> list[str]:
    """The command that profiles the last launch of each kernel of a config, clocks as they are, as raw CSV."""
    names = "|".join(re.escape(name) for name in dict.fromkeys(kernels))
    job = json.dumps({"op": op, "problem": problem.to_builtins(), "config": config.to_builtins()})
    return [
        str(ncu),
        *("--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base"),
        *("--metrics", ",".join(metrics), "--kernel-name-base", "function", "--kernel-name", f"regex:^({names})$"),
        *("--launch-skip", str(WARM_UPS * len(kernels)), "--launch-count", str(len(kernels))),
        *(sys.executable, "-m", "fusetune.measure.profiled", job),
    ]


def run_ncu(command: Sequence[str]) -> str:
    """Run it and return what it wrote.

    Raises NoUsableGpuError where the driver forbids profiling or shows no GPU, MeasurementError where it fails
    otherwise; both say what to do.
    """
    try:
        # In every language ncu's numbers have a point, and what a program prints need not be UTF-8.
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=TIME_LIMIT_S,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"ncu did not end within {TIME_LIMIT_S:.0f} s; is another process holding the GPU?"
        ) from error
    except OSError as error:
        raise NoUsableGpuError(f"cannot run {command[0]}: {error.strerror}; name another ncu with --ncu") from error
    text = done.stdout + done.stderr
    if _NO_PERMISSION in text:
        raise NoUsableGpuError(
            "the driver lets administrators alone read the GPU's counters (ERR_NVGPUCTRPERM): run as root, or set the "
            "module option NVreg_RestrictProfilingToAdminUsers=0 and load the driver again"
        )
    if done.returncode != 0 or '"Kernel Name"' not in done.stdout:
        raise MeasurementError(f"ncu profiled nothing (exit code {done.returncode}): {_last_words(text)}")
    return done.stdout


def profile_config(command: Sequence[str]) -> dict[str, dict[str, float]]:
    """The metrics of each kernel, as `inspect --ncu` reads them.

    Raises what `run_ncu` raises, and MeasurementError where what ncu wrote holds no metrics.
    """
    from fusetune.store.ncu_files import parse_metrics

    try:
        found = parse_metrics(run_ncu(command).replace("\0", ""), Path("ncu's output"))
    except UsageError as error:
        raise MeasurementError(str(error)) from error
    return {kernel: dict(launches[-1]) for kernel, launches in found.items()}


def _last_words(text: str) -> str:
    """The last lines in which something was said, ncu's own first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("==ERROR==", "==WARNING=="))] or lines
    return " ".join(said[-3:])[:600] or "it said nothing"
