"""Element types by PyTorch's names: their size, and what Triton's signatures call them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from fusetune.core.near import nearest
from fusetune.errors import UsageError


class ElementType(NamedTuple):
    """Bytes of an element, and Triton's word for a pointer to it."""

    size_bytes: int
    triton: str


ELEMENT_TYPES: Final[dict[str, ElementType]] = {
    "float64": ElementType(8, "fp64"),
    "float32": ElementType(4, "fp32"),
    "float16": ElementType(2, "fp16"),
    "bfloat16": ElementType(2, "bf16"),
    "float8_e4m3fn": ElementType(1, "fp8e4nv"),
    "float8_e5m2": ElementType(1, "fp8e5"),
    "int64": ElementType(8, "i64"),
    "int32": ElementType(4, "i32"),
    "int16": ElementType(2, "i16"),
    "int8": ElementType(1, "i8"),
    "uint64": ElementType(8, "u64"),
    "uint32": ElementType(4, "u32"),
    "uint16": ElementType(2, "u16"),
    "uint8": ElementType(1, "u8"),
    "bool": ElementType(1, "i1"),
}
"""PyTorch's name: as `torch.dtype` has it after the dot."""


_ALSO: Final[dict[str, str]] = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "bfloat": "bfloat16",
    "fp8": "float8_e4m3fn",
    "float8": "float8_e4m3fn",
    "e4m3": "float8_e4m3fn",
    "e4m3fn": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
    "fp8_e5m2": "float8_e5m2",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "char": "int8",
    "byte": "uint8",
    **{f"f{bits}": f"float{bits}" for bits in (64, 32, 16)},
    **{element.triton: name for name, element in ELEMENT_TYPES.items()},
}
"""What else people call them: PyTorch's and C's short names, and Triton's."""


def dtype_name(word: str) -> str:
    """PyTorch's name for what somebody calls a dtype: `fp16`, `half`, `torch.float16`. Any other word as it is."""
    plain = word.strip().lower().removeprefix("torch.").replace("-", "_")
    found = _ALSO.get(plain, plain)
    return found if found in ELEMENT_TYPES else word


def unknown_dtype(word: str, known: Collection[str] = ELEMENT_TYPES.keys()) -> str:
    """What is said of a dtype that is none of `known`, with the one that may have been meant."""
    near = None
    if dtype_name(word) not in ELEMENT_TYPES:  # Else it is no slip, but what cannot be used here.
        near = nearest(
            word.lower().removeprefix("torch."), [*known, *(also for also, of in _ALSO.items() if of in known)]
        )
    meant = f"; did you mean {dtype_name(near)}?" if near else ""
    return f"dtype {word!r} is not known; use one of {', '.join(known)}{meant}"


def element_type(dtype: str) -> ElementType:
    """Raises UsageError, which lists the names, for a dtype that is not known by PyTorch's name."""
    found = ELEMENT_TYPES.get(dtype)
    if found is None:
        raise UsageError(unknown_dtype(dtype))
    return found
