"""Words of our own op where only what is true of any op may stand: each with its file and line; exit 1 if any.

`python .ci/words.py [ROOT]` reads the package, its tests, the benchmarks, the examples and this folder. All that our op
alone knows lives in the places of OWN, which are not read. ModelNew is no word of it: KernelBench calls every faster
model so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

READ = ("fusetune", "tests", "benchmarks", "examples", ".ci")
"""The folders that are read."""
OWN = (
    "fusetune/ops/gemm_scale",
    "fusetune/nn",
    # Its tests: of its kernels, space, cost model and modules, and of the engine where that is driven by it on purpose.
    "tests/unit/ops/gemm_scale",
    "tests/unit/nn",
    "tests/unit/benchmarks/gemm_scale",
    "tests/compile/gemm_scale",
    "tests/interpret/gemm_scale",
    "tests/e2e/gemm_scale",
    "tests/gpu/gemm_scale",
    "tests/support/gemm_scale",
    "tests/support/sample",  # what the other tests take as their sample: they know of no op whose it is
    "tests/unit/test_words.py",
    ".ci/words.py",
    # What measures it, or the engine by its example.
    "benchmarks/ada.py",
    "benchmarks/arm_times.py",
    "benchmarks/decision.py",
    "benchmarks/dispatch.py",
    "benchmarks/dispatch_against.py",
    "benchmarks/dispatch_arms.py",
    "benchmarks/dispatch_user.py",
    "benchmarks/exported.py",
    "benchmarks/family_sweeps.py",
    "benchmarks/faults.py",
    "benchmarks/fit.py",
    "benchmarks/gate.py",
    "benchmarks/joining.py",
    "benchmarks/kernelbench.py",
    "benchmarks/kills.py",
    "benchmarks/lookup_file.py",
    "benchmarks/overlap.py",
    "benchmarks/passes.py",
    "benchmarks/peer_arms.py",
    "benchmarks/peers.py",
    "benchmarks/prediction.py",
    "benchmarks/repeat.py",
    "benchmarks/resources.py",
    "benchmarks/sizes.py",
    "benchmarks/sizes_drawn.py",
    "benchmarks/sizes_found.py",
    "benchmarks/spaces.py",
    "benchmarks/sweeps.py",
    "benchmarks/training_parity.py",
    "benchmarks/tuning_space.py",
    "benchmarks/tuning_time.py",
    # Programs of others, or as others write them: their words are their authors'.
    "benchmarks/autotuned",
    "benchmarks/drivers",
    "benchmarks/planted.py",
    "examples/seed",
)
"""The folders and files that are our op's, and the few that need its words for another reason."""
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


def leaks(root: Path) -> Iterator[str]:
    """`file:line: word: the line` for each of the words in the folders that are read."""
    own = [root / place for place in OWN]
    for path in sorted(path for folder in READ for path in (root / folder).rglob("*")):
        if path.suffix not in SUFFIXES or any(path.is_relative_to(place) for place in own):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if found := WORDS.search(line):
                yield f"{path.relative_to(root)}:{number}: {found[0].strip()[-40:]!r} in: {line.strip()}"


def main() -> int:
    """Tell them all."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    found = list(leaks(root))
    for leak in found:
        print(leak)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
