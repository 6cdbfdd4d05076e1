"""Functions of `tl` that not every version of Triton has: what can be is written out, the rest is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import libcst as cst

from fusetune.code.patch.chunks import Chunk
from fusetune.code.patch.edits import Finding, distinct, spliced
from fusetune.code.patch.source_file import SourceFile

LACKING: Final = frozenset({"tanh", "sigmoid", "gelu", "silu", "softmax", "mish"})


def without_lacking(source: SourceFile) -> SourceFile:
    """`tl.sigmoid(x)` written out, as Triton itself defines it, so that the result is the same to the bit."""
    while True:
        calls = [one for one in source.all(cst.Call) if _lacking(source, one.func) == "sigmoid" and len(one.args) == 1]
        inner = [one for one in calls if not any(two is not one and source.inside(two, one) for two in calls)]
        if not inner:
            return source
        edits = [
            source.replaced(one, f"(1 / (1 + tl.exp(-({source.text(one.args[0].value)}))))", "sigmoid") for one in inner
        ]
        source = SourceFile(source.file, spliced(source.data, distinct(edits)))


def _lacking(source: SourceFile, node: cst.CSTNode) -> str:
    if isinstance(node, cst.Attribute) and source.text(node.value) == "tl" and node.attr.value in LACKING:
        return node.attr.value
    return ""


def left_over(chunks: Sequence[Chunk]) -> list[Finding]:
    """Those that statements still call, each with its line."""
    return [
        Finding(chunk.source.file, chunk.source.line(one), f"tl.{name} is not in every Triton; write it out")
        for chunk in chunks
        for one in chunk.source.all(cst.Attribute, chunk.node)
        if (name := _lacking(chunk.source, one))
    ]
