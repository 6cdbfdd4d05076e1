"""A profile of a program's kernels: which of its metrics are of which case, and what they say limits it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fusetune.capture.cases import Case
from fusetune.capture.spec import CapturedSpec
from fusetune.compiler.build import compile_config
from fusetune.core.brief import brief
from fusetune.core.diagnosis import GRID, NEEDED, REGISTERS, Diagnosis, averaged, diagnose
from fusetune.core.resources import occupancy
from fusetune.core.target import Target
from fusetune.core.text import shortened
from fusetune.errors import UsageError
from fusetune.ops.before import reference_of
from fusetune.store.ncu_files import UNNAMED, read_metrics

Launches = Sequence[Mapping[str, float]]
_SPECIALIZED: Final = re.compile(r"(?:_\d[\ddec]*)?")
"""What early versions of Triton wrote behind a kernel's name: how its arguments were specialized."""
_MOST_NAMED: Final = 8
_LONGEST_NAME: Final = 60
_AGAIN: Final = f"`ncu --csv --page raw --metrics {','.join((*NEEDED, GRID))} PROGRAM`"


class Profile(msgspec.Struct, frozen=True):
    """A file of metrics, by the kernels that it names."""

    path: Path
    metrics: Mapping[str, Launches]


class Applied(msgspec.Struct, frozen=True):
    """The launches of a profile that are of one case, and what is to be said of how they were found."""

    path: Path
    launches: Launches
    told: str | None = None


def read_profile(path: Path) -> Profile:
    """Read a file of metrics. Raises UsageError, which names it and what to do."""
    return Profile(path, read_metrics(path))


def applied(profile: Profile, cases: Sequence[Case], seen: Sequence[Case]) -> dict[int, Applied]:
    """What of a profile is of which of `cases`, by their places; `seen` are all that the program launched.

    A kernel is found by its name. Metrics that name none are those of the heaviest case. Raises UsageError where the
    profile is of other kernels alone, or lacks what says what limits a kernel.
    """
    if UNNAMED in profile.metrics:
        found = _of_unnamed(profile, cases)
    else:
        found = {place: one for name in profile.metrics for place, one in _of_name(profile, name, cases)}
    if not found:
        raise UsageError(_of_others(profile, cases, seen))
    for place, one in found.items():
        missing = [name for name in NEEDED if name not in averaged(one.launches)[0]]
        if missing:
            raise UsageError(
                f"{brief(profile.path)} has no {' and no '.join(missing)} of {cases[place].kernel.name}, without which "
                f"nothing says what limits it; profile again, as with {_AGAIN}"
            )
    return found


def _of_unnamed(profile: Profile, cases: Sequence[Case]) -> dict[int, Applied]:
    if not cases:
        return {}
    place = max(range(len(cases)), key=lambda number: _weight(cases[number]))
    which = "the only one" if len(cases) == 1 else f"the heaviest {_by_what(cases)}"
    told = f"The profile names no kernel: it is taken for that of {cases[place].kernel.name}, {which}"
    return {place: Applied(profile.path, profile.metrics[UNNAMED], told)}


def _weight(case: Case) -> tuple[float, float]:
    """Time, or where nothing is timed the bytes of tensors in all launches."""
    moved = sum(math.prod(one.shape) for one in case.tensors.values())
    return case.us or 0.0, float(case.launches * moved)


def _by_what(cases: Sequence[Case]) -> str:
    return "by its time" if any(case.us for case in cases) else "by the elements of its tensors in all launches"


def _of_name(profile: Profile, name: str, cases: Sequence[Case]) -> Iterator[tuple[int, Applied]]:
    """The cases of a kernel: those whose grids were profiled, or else the heaviest of them."""
    launches = [launch for launch in profile.metrics[name] if launch]
    places = [place for place, case in enumerate(cases) if is_called(case, name)]
    by_grid = {place: [one for one in launches if one.get(GRID) == math.prod(cases[place].grid)] for place in places}
    if any(by_grid.values()):
        yield from ((place, Applied(profile.path, tuple(own))) for place, own in by_grid.items() if own)
    elif places and launches:
        heaviest = max(places, key=lambda place: _weight(cases[place]))
        told = (
            f"Of {len(places)} cases of {name} the heaviest is taken for the profiled one" if len(places) > 1 else None
        )
        yield heaviest, Applied(profile.path, tuple(launches), told)


def is_called(case: Case, name: str) -> bool:
    """Whether a profiler's name of a kernel is that of a case's."""
    own = case.kernel.name.rpartition(".")[2]
    return name.startswith(own) and _SPECIALIZED.fullmatch(name, len(own)) is not None


def _of_others(profile: Profile, cases: Sequence[Case], seen: Sequence[Case]) -> str:
    known = {name for name in profile.metrics if any(is_called(case, name) for case in seen)}
    tuned = _listed({case.kernel.name for case in cases})
    if known:
        return (
            f"{brief(profile.path)} is of {_listed(known)}, which the program launches, but only {tuned} is tuned: "
            "name the kernel by --kernel, or raise --share"
        )
    return (
        f"{brief(profile.path)} is of {_listed(set(profile.metrics))}, and the program launches {tuned}: give the "
        f"profile of this program, as by {_AGAIN}"
    )


def _listed(names: set[str]) -> str:
    told = [shortened(name, _LONGEST_NAME) for name in sorted(names)]
    more = len(told) - _MOST_NAMED
    return ", ".join(told[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def limit_of(spec: CapturedSpec, one: Applied, target: Target) -> Diagnosis:
    """What limits a case's kernel as it runs today, which is compiled for its occupancy.

    Raises CompileError and MachineError as `compile_config` does.
    """
    problem = spec.captured_problem()
    before = reference_of(spec, problem)
    resources = compile_config(spec, problem, before, target)
    held = occupancy(resources.registers, resources.shared_bytes, before.num_warps, target)
    metrics, doubts = averaged(one.launches)
    case = spec.kept.case
    found = diagnose(case.kernel.name, metrics, held, spec.kind(problem), target, grid=math.prod(case.grid))
    told = [f"{one.told}."] if one.told is not None else []
    registers = metrics.get(REGISTERS)
    if registers is not None and registers != resources.registers:
        told.append(
            f"The profiled launch took {registers:.0f} registers a thread, and as compiled here it takes "
            f"{resources.registers}: of another compiler, or of another config."
        )
    return msgspec.structs.replace(found, notes=(*told, *doubts, *found.notes))
