"""Which configs of a list cannot be launched here: `@triton.autotune` finds such out by timing, and takes another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fusetune.ops.refusals import told

_MOST: Final = 4096
"""So many kinds of launches are kept; then all is found out anew."""


class LeftOut:
    """The defaults of one kernel that were refused, by what tells its launches apart."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, ...]] = {}
        self._told: list[Any] = []

    def of(self, kind: Callable[[], Any]) -> tuple[Any, ...]:
        """Those of a kind of launches, which is asked for only where something was refused."""
        return self._known.get(kind(), ()) if self._known else ()

    def add(self, kind: Any, config: Any) -> None:
        """Leave one out from now on."""
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[kind] = (*self._known.get(kind, ()), config)

    def forget(self, kind: Any) -> None:
        """Nothing of the list is left for a kind of launches: the next one begins anew."""
        self._known.pop(kind, None)

    def warning(
        self, refused: Sequence[tuple[Any, Exception]], taken: Any, kernel: str, label: Callable[[Any], str]
    ) -> str | None:
        """What there is to say once another one runs; None where each was told before."""
        new = [one for one in refused if one[0] not in self._told]
        if not new:
            return None
        self._told += [config for config, _ in new]
        (config, error), *others = new
        more = f" and {len(others)} more of its list" if others else ""
        return (
            f"fusetune runs {label(taken)} for {kernel}, since {label(config)}{more} cannot be launched here "
            f"({told(error)})"
        )
