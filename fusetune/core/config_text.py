"""Configs as people write them on a command line."""

from __future__ import annotations

import re

import msgspec

from fusetune.core.config import Config
from fusetune.errors import UsageError

_LABEL = re.compile(
    r"(?:(?P<variant>[a-z_]+) )?(?P<BLOCK_M>\d+)x(?P<BLOCK_N>\d+)x(?P<BLOCK_K>\d+)"
    r"(?: w(?P<num_warps>\d+))?(?: s(?P<num_stages>\d+))?(?: g(?P<GROUP_M>\d+))?(?: k(?P<SPLIT_K>\d+))?"
)
_ORDER = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "GROUP_M", "SPLIT_K")
_FORMS = "write 64,64,32,4,3 (BLOCK_M,BLOCK_N,BLOCK_K,num_warps,num_stages[,GROUP_M[,SPLIT_K]]) or '64x64x32 w4 s3 g8'"


def parse_config(text: str) -> Config:
    """A config from its figures or from its label, the variant before either: `persistent 128x256x32 w8 s3 g8`.

    `baseline` is BASELINE. SPLIT_K above 1 without a variant means split_k. Raises UsageError for anything else, and
    for a figure that no config can have.
    """
    words = " ".join(text.split())
    if words.lower() == "baseline":
        return Config()
    fields = _from_label(words) or _from_figures(words)
    if fields is None:
        raise UsageError(f"config {text!r} cannot be read: {_FORMS}")
    if int(fields.get("SPLIT_K", 1)) > 1 and "variant" not in fields:
        fields["variant"] = "split_k"
    try:
        return msgspec.convert(fields, Config)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"config {text!r}: {error}") from error


def _from_label(words: str) -> dict[str, int | str] | None:
    found = _LABEL.fullmatch(words)
    if found is None:
        return None
    given = {name: value for name, value in found.groupdict().items() if value is not None}
    return {name: value if name == "variant" else int(value) for name, value in given.items()}


def _from_figures(words: str) -> dict[str, int | str] | None:
    variant, _, figures = words.rpartition(" ") if re.match(r"[a-z_]+ ", words) else ("", "", words)
    parts = re.split(r"\s*,\s*", figures)
    if not 3 <= len(parts) <= len(_ORDER) or not all(part.isdecimal() for part in parts):
        return None
    fields: dict[str, int | str] = {name: int(part) for name, part in zip(_ORDER, parts, strict=False)}
    if variant:
        fields["variant"] = variant
    return fields
