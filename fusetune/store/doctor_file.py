"""The file that `fusetune doctor` writes: what a machine is like, and how the installed ops do on its GPU.

It is made to be sent to others: texts in it name no user, host, folder, process or serial number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from fusetune.core.decision import Evidence, VerdictName
from fusetune.core.environment import TargetIdentity
from fusetune.errors import ConfigFileError, NewerSchemaError
from fusetune.store.regular import read_regular, reason

DOCTOR_VERSION: Final = 1
"""History of the format: 1, the first version."""
MOST_BYTES: Final = 64 << 20
"""More than this is no such file."""

Level = Literal["ok", "note", "unfit", "no_gpu", "wrong"]
"""ok and note are fit to tune on; unfit: nothing measured here now could be trusted, or no run would come to its end;
no_gpu: nothing can be measured; wrong: a kernel gave wrong results."""
Outcome = Literal["right", "failed", "rejected", "not_tried"]
Source = Literal["baseline", "variant", "library", "entry"]
"""Why a config was launched: all are compared with BASELINE, and `entry` ones stand in a file of configs."""

Microseconds = Annotated[float, msgspec.Meta(ge=0.0, lt=1e12)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one check of the machine found, and what to do about it; nothing is to be done where `do` is empty."""

    check: str
    level: Level
    told: str
    do: str = ""


class Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of what a result depends on; None where it is not there. `settings` are the names of variables that are set."""

    fusetune: str
    python: str
    platform: str
    torch: str | None = None
    torch_cuda: str | None = None
    triton: str | None = None
    ptxas: str | None = None
    driver: str | None = None
    cuda: str | None = None
    settings: tuple[str, ...] = ()


class GpuFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the driver says of the GPU: bytes of memory, watts, MHz; None where it does not."""

    memory_bytes: Count | None = None
    memory_free_bytes: Count | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    sm_max_mhz: Count | None = None
    mig: bool = False
    persistence: bool | None = None
    utilization: Count | None = None


class GainFound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`1 - t / t_baseline`: the median of paired blocks with its interval, whose ends too few blocks leave open."""

    median: float
    low: float | None
    high: float | None
    confidence: float
    blocks: Count


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """BASELINE against itself, at a short or a long launch; what clocks and power were meanwhile."""

    what: Literal["short", "long"]
    op: str
    problem: str
    baseline_us: Microseconds
    gain: GainFound
    quiet: bool
    timer: str
    launches: Count
    tick_us: Microseconds
    discarded: Count = 0
    flags: tuple[str, ...] = ()
    sm_mhz: tuple[int, int] | None = None
    power_w: float | None = None
    temperature_c: int | None = None


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the file of configs says of an entry: microseconds that were measured or predicted, as `evidence` says.

    `stale`: its kernel has changed since, so that it is not used.
    """

    evidence: Evidence
    verdict: VerdictName
    date: str
    config_us: Microseconds
    baseline_us: Microseconds | None = None
    gain: float | None = None
    stale: bool = False


class Launched(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One config at one problem: whether it is right, and what it took beside BASELINE.

    `error` is the relative Frobenius error against float64. `predicted_us` is the cost model's, from what the compiler
    made of it. `sample_us` is the median of a few samples taken in turns with `baseline_sample_us`, which rank and
    prove nothing; `us`, `baseline_us` and `gain` come from paired blocks.
    """

    config: dict[str, Any]
    label: str
    source: Source
    outcome: Outcome
    reason: str = ""
    detail: str = ""
    error: float | None = None
    registers: Count | None = None
    shared_bytes: Count | None = None
    predicted_us: Microseconds | None = None
    sample_us: Microseconds | None = None
    baseline_sample_us: Microseconds | None = None
    us: Microseconds | None = None
    baseline_us: Microseconds | None = None
    gain: GainFound | None = None
    recorded: Recorded | None = None


class Examined(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One problem of an op, and every config that was tried at it, BASELINE first.

    `tolerance` is the relative error that is allowed. `trouble` says why nothing more is known of it.
    """

    op: str
    problem: dict[str, Any]
    described: str
    tolerance: float | None = None
    timer: str | None = None
    launched: tuple[Launched, ...] = ()
    trouble: str = ""


class NotReached(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A problem that there was no time for."""

    op: str
    described: str


class DoctorFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """All of it. `complete` is False where the work was cut off; `not_reached` then says what is missing.

    Without `kernels` it tells of the machine alone. `date` is the day, ISO 8601.
    """

    doctor: Annotated[int, msgspec.Meta(ge=1, le=DOCTOR_VERSION)]
    date: str
    complete: bool
    versions: Versions
    gpu: TargetIdentity | None = None
    figures: GpuFigures | None = None
    findings: tuple[Finding, ...] = ()
    noise: tuple[Noise, ...] = ()
    kernels: tuple[Examined, ...] = ()
    not_reached: tuple[NotReached, ...] = ()
    seconds: float | None = None


class _Version(msgspec.Struct):
    doctor: int | None = None


def doctor_text(file: DoctorFile) -> str:
    """The file as JSON that people can read: a line for each field, and for each item of a list."""
    fields: dict[str, Any] = msgspec.to_builtins(file)
    lines = [f'  "{name}": {_laid_out(value)}' for name, value in fields.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _laid_out(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(f"    {msgspec.json.encode(item).decode()}" for item in value) + "\n  ]"
    return msgspec.json.encode(value).decode()


def read_doctor_file(path: Path) -> DoctorFile:
    """What somebody's `fusetune doctor` wrote.

    Raises ConfigFileError, which names the file and what to do, where it cannot be read or is none; NewerSchemaError
    where a newer fusetune wrote it.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise ConfigFileError(
            f"cannot read {path}: {reason(error)}; name a file that `fusetune doctor` wrote"
        ) from error
    advice = "name a file that `fusetune doctor --kernels` wrote, whole and as it was"
    try:
        version = msgspec.json.decode(data, type=_Version).doctor
        if version is not None and version > DOCTOR_VERSION:
            raise NewerSchemaError(
                f"{path}: it is of version {version}, and this fusetune reads up to {DOCTOR_VERSION}; update fusetune"
            )
        return msgspec.json.decode(data, type=DoctorFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigFileError(f"{path}: {error}; {advice}") from error
