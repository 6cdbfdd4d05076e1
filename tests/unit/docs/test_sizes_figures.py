"""What the page of benchmarks says of sizes that nobody chose is what was measured, of all that was."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
FOUND = json.loads((ROOT / "benchmarks" / "results" / "sizes-nvidia-h200.json").read_bytes())
DRAWN = FOUND["summary"]["groups"]["drawn"]


def test_the_figures_of_the_drawn_sizes_are_on_the_page() -> None:
    assert f"{DRAWN['at_most_1.00']} of {DRAWN['cells']}" in PAGE
    assert f"So far {DRAWN['cells']} of the 30 are timed" in PAGE or DRAWN["cells"] == 30
    assert f"geometric mean | {DRAWN['over_best_peer']:.2f} |" in PAGE
    eager, autotuned, library = (DRAWN["over"][peer] for peer in ("eager", "max-autotune", "library"))
    assert f"| {eager:.2f}, {autotuned:.2f}, {library:.2f} |" in PAGE
    assert f"| {DRAWN['sweep_s_median']:.1f} s, {DRAWN['sweep_s_worst']:.1f} s |" in PAGE
    assert f"| {DRAWN['regret_median']:.0%} longer, {DRAWN['regret_worst']:.0%} longer |".replace("%", " %") in PAGE


def test_each_size_at_which_ours_is_behind_is_on_the_page() -> None:
    rows = {row["key"]: row for row in FOUND["cells"]}
    names = {"max-autotune": "max-autotune", "eager": "eager", "library": "cuBLAS with our finishing kernel"}
    for key, ratio in DRAWN["behind"].items():
        row = rows[key]
        size = f"{row['M']}, {row['K']}, {row['N']}; {row['dtype']}"
        assert f"| {size} | **{ratio:.3f}** | {names[row['best_peer']]} |" in PAGE
    named = sorted(row["over_best_peer"] for row in FOUND["cells"] if row["group"] == "named")
    *ahead, behind = named
    assert f"{', '.join(f'{ratio:.2f}' for ratio in ahead)} and **{behind:.3f}**" in PAGE
    assert max(ahead) <= 1.0
