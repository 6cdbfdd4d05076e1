"""The comment above what was changed: what was measured, where, and against what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import libcst as cst

from fusetune.code.patch.edits import Edit
from fusetune.code.patch.source_file import SourceFile

MARK: Final = "# fusetune: "
COMMENT: Final = "comment"
"""What an edit is called that writes one, and nothing else."""


def comment_edit(source: SourceFile, node: cst.CSTNode, lines: Sequence[str]) -> Edit:
    """The edit that puts a comment above the statement of a part; one that was put there before goes."""
    statement = node
    for above in source.above(node):
        if isinstance(above, cst.BaseSuite | cst.Module) and not isinstance(above, cst.SimpleStatementSuite):
            break
        if isinstance(above, cst.FunctionDef | cst.ClassDef) and isinstance(node, cst.Decorator):
            break
        statement = above
    at = source.start(statement)
    begin = source.line_start(at)
    indent = source.between(begin, at)
    start = begin
    while start > 0:
        above_it = source.line_start(start - 1)
        if not source.between(above_it, start).lstrip().startswith(MARK.strip()):
            break
        start = above_it
    text = "".join(f"{indent}{MARK}{line}{source.newline}" for line in lines)
    return Edit(source.file, start, begin - start, text, source.line_at(begin), COMMENT)
