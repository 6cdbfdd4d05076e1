"""What a spec that brings its own tensors gives to be measured on, in the place of tensors drawn by its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol


class Wrong(NamedTuple):
    """Why a result is not right: a Failure's code, and what was seen."""

    reason: str
    detail: str


class OwnData(Protocol):
    """The tensors of one problem on one GPU, and what says that a result in them is right.

    `set_bytes` is what one set holds on the GPU. `changes_inputs`: a launch changes what the next would read, so that
    inputs have to be put back before each that counts.
    """

    set_bytes: int
    changes_inputs: bool

    def make(self) -> dict[str, Any]:
        """One more set of tensors by name, in memory of its own, as they were before the launch."""

    def put_back(self, tensors: Mapping[str, Any]) -> None:
        """What launches change of a set is as before, when what is queued on the current stream is done."""

    def check(self, tensors: Mapping[str, Any], run: Callable[[], None]) -> float | Wrong:
        """Run once on a set, the first that was made, and compare; returns the relative error. It is put back after.

        The first one to be checked is what all others are compared with.
        """
