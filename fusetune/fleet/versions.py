"""Whether a worker runs what the client runs: compared before it is given anything, each difference by name."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import fusetune
from fusetune.compiler.processes import usable_cores
from fusetune.fleet.gpus import GpuHere
from fusetune.fleet.words import Seen

MUST_BE_EQUAL: Final = ("fusetune", "torch", "triton")
"""Another one of these compiles, checks or decides differently: results of both are not of one run."""
MAY_DIFFER: Final = ("driver", "python")
"""An entry names its driver, and a kernel is compiled by Triton's own ptxas: told, and used."""


def versions_here() -> dict[str, str | None]:
    """What is installed here, by name; torch and triton are not loaded for it. The driver is not asked."""
    installed = {name: _installed(name) for name in ("torch", "triton")}
    return {"fusetune": fusetune.__version__, **installed, "python": platform.python_version()}


def why_unlike(seen: Seen, ours: dict[str, str | None]) -> str | None:
    """Why a worker's results would not be of this run, with every version that differs; None where they would."""
    told = [text for name in MUST_BE_EQUAL if (text := _differs(name, getattr(seen, name), ours.get(name))) is not None]
    return f"{', '.join(told)}; install the same there" if told else None


def differences(seen: Seen, others: Sequence[Seen], ours: dict[str, str | None]) -> list[str]:
    """What of a worker that is used is unlike: of its driver the others of its model, of Python the client."""
    told = []
    beside = next((one for one in others if one.model == seen.model and one.driver is not None), None)
    if beside is not None and seen.driver is not None and beside.driver != seen.driver:
        told.append(f"driver {seen.driver}, where {beside.worker} has {beside.driver}")
    minor = [None if text is None else text.rpartition(".")[0] for text in (seen.python, ours.get("python"))]
    if minor[0] is not None and minor[0] != minor[1]:
        told.append(f"Python {seen.python}, here {ours.get('python')}")
    return told


def seen_here(worker: str, gpu: GpuHere) -> Seen:
    """A worker of this machine and its GPU, with the versions that are here."""
    return Seen(
        worker=worker,
        card=gpu.uuid,
        gpu=gpu.name,
        capability=gpu.capability,
        host=platform.node(),
        cores=usable_cores(),
        driver=gpu.driver,
        **versions_here(),
    )


def _differs(name: str, theirs: str | None, ours: str | None) -> str | None:
    if theirs == ours:
        return None
    return f"{name} {theirs or 'not installed'}, here {ours or 'not installed'}"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
