"""What the gate finds about each entry, and the exit code that all findings add up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusetune.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION, EXIT_WRONG_RESULT
from fusetune.store.schema import ConfigFile, Entry

Status = Literal["holds", "regression", "inconclusive", "wrong_result", "not_gated"]

_EXIT_CODES: Final[dict[Status, int]] = {
    "wrong_result": EXIT_WRONG_RESULT,
    "regression": EXIT_REGRESSION,
    "inconclusive": EXIT_INCONCLUSIVE,
    "holds": EXIT_OK,
    "not_gated": EXIT_OK,
}


class Finding(msgspec.Struct, frozen=True):
    """What the gate says of one entry; `detail` is a sentence with the figures."""

    file: Path
    op: str
    entry: Entry
    status: Status
    detail: str


def exit_code(findings: Sequence[Finding]) -> int:
    """The code of the worst finding: wrong results, then regressions, then what could not be decided."""
    statuses = {finding.status for finding in findings}
    return next((code for status, code in _EXIT_CODES.items() if status in statuses), EXIT_OK)


LoadedFile = tuple[Path, ConfigFile]
