"""Configs as people write them on a command line."""

from __future__ import annotations

import re

import msgspec

from fusetune.core.near import did_you_mean
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import Config

_FIGURE = r"[0-9]{1,9}"
_LABEL = re.compile(
    rf"(?:(?P<variant>[a-z][a-z0-9_]*) )?(?P<BLOCK_M>{_FIGURE})x(?P<BLOCK_N>{_FIGURE})x(?P<BLOCK_K>{_FIGURE})"
    rf"(?: w(?P<num_warps>{_FIGURE}))?(?: s(?P<num_stages>{_FIGURE}))?"
    rf"(?: g(?P<GROUP_M>{_FIGURE}))?(?: k(?P<SPLIT_K>{_FIGURE}))?"
)
_ORDER = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "GROUP_M", "SPLIT_K")
_SHOWN = 80
"""Letters of a text that cannot be read."""
_FORMS = "write 64,64,32,4,3 (BLOCK_M,BLOCK_N,BLOCK_K,num_warps,num_stages[,GROUP_M[,SPLIT_K]]) or '64x64x32 w4 s3 g8'"


def parse_config(text: str) -> Config:
    """A config from its figures or from its label, the variant before either: `persistent 128x256x32 w8 s3 g8`.

    `baseline` is BASELINE. SPLIT_K above 1 without a variant means split_k. Capitals do not matter. Raises UsageError
    for anything else, and for a figure that no config can have; whether an op has the variant is for `kernels.typed` to
    say.
    """
    words = " ".join(text.lower().split())
    if words == "baseline":
        return Config()
    fields = _from_label(words) or _from_figures(words)
    if fields is None:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise UsageError(f"config {shown!r} cannot be read{did_you_mean(words, ('baseline',)) or ':'} {_FORMS}")
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
    variant, _, figures = words.partition(" ") if re.match(r"[a-z][a-z0-9_]* ", words) else ("", "", words)
    parts = re.split(r"\s*,\s*", figures)
    if not 3 <= len(parts) <= len(_ORDER) or not all(re.fullmatch(_FIGURE, part) for part in parts):
        return None
    fields: dict[str, int | str] = {name: int(part) for name, part in zip(_ORDER, parts, strict=False)}
    if variant:
        fields["variant"] = variant
    return fields
