"""Words of our own op where only what is true of any op may stand: each with its file and line; exit 1 if any.

`python .ci/words.py [PACKAGE]`. All that our op alone knows lives in ops/gemm_scale and nn, which are not read.
ModelNew is none of them: KernelBench calls every faster model so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

OWN = ("ops/gemm_scale", "nn")
"""The folders of the package that are our op's."""
SUFFIXES = {".py", ".j2", ".js", ".css", ".yaml"}
WORDS = re.compile(
    r"""
      (?i:gemm|split_k|library_folded|batch_?norm|num_batches_tracked|running_(?:mean|var)|linear_?scale|fused_?linear)
    | \b(?:BLOCK_[MNK]|GROUP_M|deferred|gamma|beta|bias)\b
    | \bW\.T\b
    | ["'`](?:owner|persistent|tiled)\b             # a variant, or a label that begins with one
    | ["'`]train["'`]
    | ^(?!.*\b(?:ast\.parse|compile)\().*["'`]eval["'`]  # the mode, not Python's own kind of source
    | --[MNK]\b                                     # the sizes as options,
    | \.[MNK]\b                                     # and as fields
    """,
    re.VERBOSE,
)


def leaks(package: Path) -> Iterator[str]:
    """`file:line: word: the line` for each of the words in a package."""
    own = [package / folder for folder in OWN]
    for path in sorted(package.rglob("*")):
        if path.suffix not in SUFFIXES or any(path.is_relative_to(folder) for folder in own):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if found := WORDS.search(line):
                yield f"{path.relative_to(package)}:{number}: {found[0].strip()[-40:]!r} in: {line.strip()}"


def main() -> int:
    """Tell them all."""
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "fusetune"
    found = list(leaks(package))
    for leak in found:
        print(leak)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
