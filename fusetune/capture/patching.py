"""Put something in another's place for a while, and give back exactly what stood there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

_NOTHING = object()


class Patches(contextlib.ExitStack):
    """What was put in the places of others; when it is closed, each has its own object back, the last one first."""

    def put(self, holder: Any, name: str, value: Any) -> Any:
        """Set `holder.name`, and return what stood there, or None: of a class what it holds itself, unbound."""
        own = vars(holder).get(name, _NOTHING)
        held = getattr(holder, name, None)
        setattr(holder, name, value)
        self.callback(_give_back, holder, name, own)
        return held

    def wrap(self, holder: Any, name: str, made: Callable[[Any], Any]) -> None:
        """Set `holder.name` to what `made` makes of it, where there is such a name."""
        if hasattr(holder, name):
            self.put(holder, name, made(getattr(holder, name)))


def _give_back(holder: Any, name: str, own: Any) -> None:
    if own is _NOTHING:
        delattr(holder, name)
    else:
        setattr(holder, name, own)
