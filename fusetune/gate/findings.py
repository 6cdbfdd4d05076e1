"""What the gate finds about each entry, and the exit code that all findings add up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusetune.capture.from_source import NoKernel
from fusetune.core.decision import Gain
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION, EXIT_WRONG_RESULT
from fusetune.store.schema import ConfigFile, Entry

Status = Literal[
    "holds",
    "better",
    "slower",
    "other_toolchain",
    "not_gated",
    "no_reference",
    "inconclusive",
    "regression",
    "wrong_result",
]
"""better: other machine code than pinned, and none of it worse. slower: surely slower than the other revision, by less
than what fails. no_reference: others are pinned, and this one is not."""

Outcome = tuple[Status, str]
"""A status, and the sentence that says why."""

Check = Literal["static", "baseline", "against"]
"""What an entry was held against: its pins, BASELINE, or another revision's kernels."""

_EXIT_CODES: Final[dict[Status, int]] = {
    "wrong_result": EXIT_WRONG_RESULT,
    "regression": EXIT_REGRESSION,
    "inconclusive": EXIT_INCONCLUSIVE,
    "no_reference": EXIT_INCONCLUSIVE,
    "holds": EXIT_OK,
    "better": EXIT_OK,
    "slower": EXIT_OK,
    "other_toolchain": EXIT_OK,
    "not_gated": EXIT_OK,
}

SIGNS: Final[dict[Status, str]] = {
    "holds": "ok",
    "better": "re-pin",
    "slower": "slower",
    "other_toolchain": "other tools",
    "not_gated": "not gated",
    "no_reference": "NOT PINNED",
    "inconclusive": "INCONCLUSIVE",
    "regression": "REGRESSION",
    "wrong_result": "WRONG RESULT",
}
"""A status as people read it; capitals for what does not exit with 0."""


class Finding(msgspec.Struct, frozen=True):
    """What the gate says of one entry; `detail` is a sentence with the figures.

    `gain` is that over BASELINE, or the other revision's over this one (above 0: this one is slower); the times, in
    microseconds, are those of the two. `journal` is where the blocks were recorded.
    """

    file: Path
    op: str
    entry: Entry
    status: Status
    detail: str
    check: Check = "baseline"
    gain: Gain | None = None
    baseline_us: float | None = None
    config_us: float | None = None
    journal: str | None = None


def exit_code(findings: Sequence[Finding]) -> int:
    """The code of the worst finding: wrong results, then regressions, then what could not be decided."""
    statuses = {finding.status for finding in findings}
    return next((code for status, code in _EXIT_CODES.items() if status in statuses), EXIT_OK)


def summary(findings: Sequence[Finding]) -> str:
    """How many ended how: `3 ok, 1 REGRESSION`."""
    counts = {sign: sum(finding.status == status for finding in findings) for status, sign in SIGNS.items()}
    return ", ".join(f"{count} {sign}" for sign, count in counts.items() if count) or "no entries"


def without_kernel(why: NoKernel, entry: Entry) -> Outcome:
    """What it comes to that a captured kernel could not be had."""
    if why.gone and entry.verdict == "keep":
        return "regression", f"{why.why}, so that nothing uses this entry: remove it, or tune again"
    return "not_gated" if why.gone or why.never else "inconclusive", why.why


def as_used(found: Outcome, entry: Entry, source_hash: str) -> Outcome:
    """What was found of an entry of a captured kernel, with what comes of its source by now: that of `source_hash`.

    A kept config of another source is used by nothing.
    """
    if entry.verdict != "keep" or source_hash == entry.environment.kernel_hash or found[0] in _WORSE:
        return found
    told = "the kernel's source has changed since it was tuned, so that nothing uses this entry: tune again"
    return "regression", f"{told}; {found[1]}"


_WORSE: Final[frozenset[Status]] = frozenset({"regression", "wrong_result"})

LoadedFile = tuple[Path, ConfigFile]
