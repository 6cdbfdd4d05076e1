"""What an op's own members raise is told with the op's and the member's name."""

from __future__ import annotations

import functools
from typing import Any, Final

from fusetune.core.brief import brief
from fusetune.errors import FusetuneError, UsageError

TOLD_BY_NAME: Final = frozenset(
    {
        *("problem", "check", "operands", "tolerance", "kind", "flops", "bytes", "baseline", "candidates", "reject"),
        *("estimate", "parse_config", "unlaunchable", "references", "signature", "source_hash"),
    }
)
"""Members that compute with numbers and words alone. What launches or calls PyTorch may meet trouble of the machine."""


def told_by_name(member: Any) -> Any:
    """The member of a KernelSpec, such that what it raises names the op and the member."""
    if not callable(member):
        return member

    @functools.wraps(member)
    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return member(self, *arguments, **named)
        except (FusetuneError, OSError, MemoryError):
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {brief(error)}"
            raise UsageError(f"op {self.name}: its {member.__name__}() fails: {what}") from error

    return called
