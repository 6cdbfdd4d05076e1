"""Findings: what a check says, to everybody and to this user alone, and the exit code that they come to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from fusetune.doctor.shareable import shareable
from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_NO_GPU, EXIT_OK, EXIT_WRONG_RESULT
from fusetune.store.doctor_file import Finding, Level

_CODES: Final[tuple[tuple[Level, int], ...]] = (
    ("wrong", EXIT_WRONG_RESULT),
    ("no_gpu", EXIT_NO_GPU),
    ("unfit", EXIT_INCONCLUSIVE),
)
"""The gravest first."""


class Found(NamedTuple):
    """A finding, and what of it only this user's screen shows: folders, and names of processes."""

    finding: Finding
    private: str = ""


def found(check: str, level: Level, told: str, do: str = "", private: str = "") -> Found:
    """What one check found. What of `told` names somebody is left out of it, and this user's screen has it all."""
    for_all = shareable(told)
    return Found(Finding(check, level, for_all, do), private or (told if for_all != told else ""))


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where the machine is fit; 3, 4 or 5 by the gravest finding."""
    levels = {finding.level for finding in findings}
    return next((code for level, code in _CODES if level in levels), EXIT_OK)
