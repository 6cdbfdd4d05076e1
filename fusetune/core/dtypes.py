"""Element types by PyTorch's names: their size, and what Triton's signatures call them."""

from __future__ import annotations

from typing import Final, NamedTuple

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


def element_type(dtype: str) -> ElementType:
    """Raises UsageError, which lists the names, for a dtype that is not known."""
    found = ELEMENT_TYPES.get(dtype)
    if found is None:
        raise UsageError(f"dtype {dtype!r} is not known; use one of {', '.join(ELEMENT_TYPES)}")
    return found
