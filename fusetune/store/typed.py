"""Problems and configs in files: read as the types of the op that the file names, and written as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.ops.types import NAMED, OpTypes, types_of

_PLACES = re.compile(r" - at `\$([^`]*)` - at `(\$[^`]*)`")


def decoding(types: OpTypes) -> Callable[[type, Any], Any]:
    """Msgspec's `dec_hook` for an op's types. What it refuses is a ValidationError, as for any other field."""

    def hook(kind: type, raw: Any) -> Any:
        if kind not in {Problem, Config}:
            raise NotImplementedError(f"{kind.__name__} is in no file")
        try:
            return types.problem.from_builtins(raw) if kind is Problem else types.config.from_builtins(raw)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None  # to which msgspec adds the place

    return hook


def decoding_of(op: Any) -> Callable[[type, Any], Any]:
    """The same for the op that a file names; what is no name at all is refused with the rest of the file."""
    return decoding(types_of(op) if isinstance(op, str) else NAMED)


def one_place(error: msgspec.ValidationError) -> str:
    """Msgspec's message with one place: it tells that of a config's field, and then that of the config."""
    return _PLACES.sub(r" - at `\2\1`", str(error))
