"""What the pages say of applying configs and of gating them is what was measured, and what was measured is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}-nvidia-h200.json").read_bytes())
    return found


def test_a_launch_of_a_user_s_kernel_costs_the_host_no_more_than_was_promised() -> None:
    found = result("dispatch-user")
    ratios = found["user_ratios"]["user/fusetune"]
    assert ratios["user/kernel_grid"] <= 0.5
    assert ratios["user/autotune"] <= 0.35
    for arm, us in found["user_us"].items():
        assert f"{us:.1f} us" in PAGE, arm
    for ratio in ratios.values():
        assert f"(ours takes {ratio:.2f} of it)" in PAGE
    guide = (ROOT / "docs" / "guides" / "ship-configs.md").read_text(encoding="utf-8")
    assert f"{found['user_us']['user/fusetune']:.1f} us of the host's time a launch" in guide
    assert f"{ratios['user/kernel_grid']:.2f} of `kernel[grid]`, and {ratios['user/autotune']:.2f} of" in guide


def test_a_thousand_calls_of_fifty_shapes_compile_nothing_and_keep_nothing() -> None:
    growth = result("dispatch-user")["user_shapes"]["growth"]
    assert (growth["compiled"], growth["gpu_bytes"]) == (0, 0)
    assert growth["host_kib"] <= 1024


def test_a_program_starts_no_later_than_before_and_as_the_page_says() -> None:
    found = result("start_up")
    assert all(ratio >= 1.0 for ratio in found["ready_ratio"].values())
    for name, arm in found["arms"].items():
        assert f"| {arm['ready_s']['median']:.1f} s |" in PAGE, name
    assert f"{found['ready_ratio']['cold']:.2f}x as fast" in PAGE


def test_every_planted_regression_was_caught_and_fifty_unchanged_runs_gave_no_alarm() -> None:
    cases = result("gate-programs")["cases"]
    assert [one["status"] for one in cases["unchanged"]["gates"]] == ["holds"] * 50
    assert {one["gain"] for one in cases["unchanged"]["gates"]} == {"holds"}
    assert [one["status"] for one in cases["slower"]["gates"]] == ["regression"] * 50
    assert cases["slower"]["steps"] <= 1.04 * 2000
    assert (cases["spill"]["exit_code"], cases["wrong"]["exit_code"]) == (1, 5)
