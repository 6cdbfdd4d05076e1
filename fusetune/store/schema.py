"""The YAML file of tuned configs, schema 2, as types.

History of the format:
    1   first version
    2   `spec`, where an op of a user's own is; `kernel` and `file`, where a captured one is; `before` in an entry, what
        ran before where that was not BASELINE, with `before` in its times and `gain_over_baseline`

Where an entry has no `before`, BASELINE is what everything was held against: `gain` is over BASELINE. Where it has one,
`gain` is over Before; `gain_over_baseline` is that over BASELINE, which every other config has to gain on as well, and
`gain_over_conservative` that over the fastest 4-warp / 2-stage config, of one with other warps or stages. Those gains
are of the entry's config, or where it is Before that stays, of the best that was tried and gained too little. BASELINE
may not run where another ran before: then it has no time and no gain is over it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from fusetune.core.config import Config
from fusetune.core.decision import TIE, BlockCount, Evidence, Gain, HighGain, LowGain, MedianGain, Reason, VerdictName
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import Problem
from fusetune.core.text import OP_NAME
from fusetune.units import format_slower, format_us

SCHEMA_VERSION: Final = 2

__all__ = [
    "SCHEMA_VERSION",
    "ConfigFile",
    "ConservativeGain",
    "Entry",
    "Environment",
    "GainOver",
    "Library",
    "LibraryGain",
    "TargetIdentity",
    "Times",
]

PositiveTime = Annotated[float, msgspec.Meta(gt=0.0, lt=1e12)]
"""Microseconds: something, and less than twelve days."""


class Times(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Microseconds of one launch: Before, BASELINE, the fastest 4-warp / 2-stage config, and the entry's config.

    `before` is there where another config than BASELINE ran before; only then may BASELINE, or all of them that have 4
    warps and 2 stages, be without a time: they did not run.
    """

    before: PositiveTime | None = None
    """What the program ran before; left out where that was BASELINE."""
    baseline: PositiveTime | None = None
    """BASELINE."""
    conservative: PositiveTime | None = None
    """The fastest config of any tile with 4 warps and 2 stages."""
    config: PositiveTime
    """The config of the entry."""

    @property
    def reference(self) -> float | None:
        """The time of what everything was held against: Before's, or BASELINE's."""
        return self.baseline if self.before is None else self.before


class GainOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gain over a config other than the one that `gain` is over, and which config that was."""

    median: MedianGain
    """The share of time that is saved: 0.5 is twice as fast."""
    low: LowGain
    """The lower end of the interval of the median."""
    high: HighGain
    """Its upper end."""
    blocks: BlockCount
    """How many paired blocks it rests on."""
    config: Config
    """What it is over."""


ConservativeGain = GainOver
"""That over the fastest 4-warp / 2-stage config."""


class LibraryGain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gain of the entry's config over the library: below 0 the library is faster."""

    median: MedianGain
    """The share of time that is saved, below 0 where the library takes less."""
    low: LowGain
    """The lower end of the interval of the median."""
    high: HighGain
    """Its upper end."""
    blocks: BlockCount
    """How many paired blocks it rests on."""


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fastest way to leave the work to a library: its config, its microseconds and what ours gains on it."""

    config: Config
    """Which of the ways to leave the work to the library."""
    us: PositiveTime
    """Its microseconds."""
    gain: LibraryGain
    """What the config of the entry gains on it."""

    @property
    def ratio(self) -> float:
        """The library's time over that of the entry's config, in turns: above 1 it is slower."""
        return 1.0 / (1.0 - self.gain.median)

    def describe(self) -> str:
        """One line for people: the library's name, then `: 8.72 us, 34 % slower`."""
        return f"{self.config.library_name}: {format_us(self.us)}, {format_slower(self.ratio)}"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One problem and the config to use for it, with its evidence.

    `before` is the config that ran before anything was tuned, None where that was the op's BASELINE.

    A measured entry has `gain` and `time_us`; a predicted one has `predicted_us` instead, so that a prediction is
    never read as a measurement. A measured one has `library` where a library was timed beside its config. `run` names
    the journal that every figure comes from, `date` (ISO 8601) its day.
    """

    problem: Problem
    """What is computed."""
    before: Config | None = None
    """What ran before anything was tuned; left out where that was BASELINE."""
    config: Config
    """What to launch with: the winner where the verdict is keep, else what is safer."""
    evidence: Evidence
    """Whether it was timed."""
    verdict: VerdictName
    """What was decided; a prediction is always unverified."""
    reason: Reason
    """Why, in a word: see Reasons."""
    environment: Environment
    """What it was found out with."""
    run: str
    """The id of the run whose journal has all the figures."""
    date: str
    """The day of the run, as 2026-11-26."""
    gain: Gain | None = None
    """The gain over Before, or over BASELINE where nothing else ran before."""
    gain_over_baseline: GainOver | None = None
    """The gain over BASELINE, where something else ran before."""
    gain_over_conservative: GainOver | None = None
    """The gain over the fastest 4-warp / 2-stage config."""
    time_us: Times | None = None
    """Microseconds that were measured."""
    predicted_us: Times | None = None
    """Microseconds that the cost model predicts."""
    library: Library | None = None
    """A library that computes the same, timed beside the config."""

    def __post_init__(self) -> None:
        if self.evidence == "measured":
            if self.verdict == "unverified":
                raise ValueError("a measured entry cannot be unverified")
            if self.time_us is None or self.gain is None:
                raise ValueError("a measured entry needs `gain` and `time_us`")
            if self.predicted_us is not None:
                raise ValueError("a measured entry has no `predicted_us`; evidence is never mixed")
        else:
            if self.verdict != "unverified":
                raise ValueError(f"a predicted entry is unverified, not {self.verdict!r}")
            gains = (self.gain, self.gain_over_baseline, self.gain_over_conservative)
            if self.time_us is not None or any(gain is not None for gain in gains):
                raise ValueError("a predicted entry has no `gain` or `time_us`; evidence is never mixed")
            if self.predicted_us is None:
                raise ValueError("a predicted entry needs `predicted_us`")
            if self.library is not None:
                raise ValueError("a predicted entry has no `library`; nothing was timed")
        self._check_before()
        if self.library is not None and (not self.library.config.is_library or self.config.is_library):
            raise ValueError("`library` holds a library's config, beside an entry's that is none")

    def _check_before(self) -> None:
        """Raise ValueError for what only an entry with `before` may have, or leave out."""
        times = self.time_us or self.predicted_us
        if self.before is not None or times is None:
            return
        if times.before is not None or self.gain_over_baseline is not None:
            raise ValueError("a time of `before` or a `gain_over_baseline` needs the config that ran, `before`")
        if times.baseline is None or times.conservative is None:
            raise ValueError("the times need `baseline` and `conservative` where there is no `before`")

    def library_text(self) -> str | None:
        """What a reader should know of the library: `... 3.1 % faster: --allow-library lets it win`."""
        if self.library is None or self.gain is None:
            return None
        needed = 0.0 if self.verdict == "keep" else self.gain.min_gain
        wins = 1 - self.library.ratio > max(needed, TIE)
        return self.library.describe() + (": --allow-library lets it win" if wins else "")


class ConfigFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One file: the tuned configs of one op on one GPU.

    `spec` says where an op of a user's own is, `module:attribute` or `file.py:attribute`; a file's path is relative to
    the folder that holds the folder of configs, where it lies in it. `kernel` says which kernel of a program a captured
    op is, `module:qualname`, and `file` which file that stands in, named likewise.
    """

    schema: Annotated[int, msgspec.Meta(ge=1, le=SCHEMA_VERSION)]
    """The version of the format; older ones are read, too."""
    op: Annotated[str, msgspec.Meta(pattern=OP_NAME)]
    """The name of the op, which is that of the file."""
    spec: (
        Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f:]+:[A-Za-z_][A-Za-z0-9_.]*\Z", max_length=1000)] | None
    ) = None
    """Where an op of your own is."""
    kernel: (
        Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f:]+:[^\x00-\x1f\x7f:]+\Z", max_length=1000)] | None
    ) = None
    """Which kernel of a program it is."""
    file: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]+\Z", max_length=4000)] | None = None
    """The file that this kernel stands in."""
    target: TargetIdentity
    """The GPU that the entries are for."""
    entries: tuple[Entry, ...] = ()
    """One for each problem."""

    def __post_init__(self) -> None:
        if self.file is not None and self.kernel is None:
            raise ValueError("`file` says where the kernel of `kernel` stands, and there is none")
