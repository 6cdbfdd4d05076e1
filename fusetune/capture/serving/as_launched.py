"""What a launch gives back whose tile was another one than the program's.

Private parts of Triton that this relies on, the same in 3.6 to 3.9: a launch gives the compiled kernel, an object that
`compiled[grid](...)` launches, or whoever calls its `run` with its `function`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_TO_LAUNCH: Final = frozenset({"function", "launch_metadata", "module", "packed_metadata", "run"})


class _Seen:
    """What Triton's JIT asks of a tensor; it holds no memory."""

    __slots__ = ("_at", "dtype")

    def __init__(self, tensor: Any) -> None:
        self.dtype, self._at = tensor.dtype, tensor.data_ptr()

    def data_ptr(self) -> int:
        """Where it began."""
        return int(self._at)


def seen(value: Any) -> Any:
    """An argument of a launch as it can be kept: of a tensor what a kernel is compiled by."""
    return _Seen(value) if hasattr(value, "untyped_storage") else value


class AsLaunched:
    """The compiled kernel that ran; whoever launches it by himself gets that of the program's own tile.

    Programs keep compiled kernels to launch them past Triton's JIT, with a grid that goes with the tile that they gave.
    `own` compiles that one, when it is asked for.
    """

    def __init__(self, ran: Any, own: Callable[[], Any]) -> None:
        self._ran, self._own = ran, own

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Triton's, to whoever asks what it is."""
        return type(self._ran)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launched() if name in _TO_LAUNCH else self._ran, name)

    def __getitem__(self, grid: Any) -> Any:
        return self._launched()[grid]

    def _launched(self) -> Any:
        made = self._own()
        self._own = lambda: made
        return made
