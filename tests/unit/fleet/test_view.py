"""What is shown of a fleet: a line for each of a few workers, and one for all others."""

from __future__ import annotations

import io

from fusetune.cli.progress import PlainProgress
from fusetune.fleet.view import MOST_LINES, View


def shown(*steps: dict[str, tuple[str, str]]) -> list[str]:
    stream, times = io.StringIO(), iter(float(11 * number) for number in range(1000))
    progress = PlainProgress(stream, lambda: next(times))
    with progress.phase("2 problems", 2) as whole, View(progress, whole) as view:
        for step in steps:
            view.show(step)
    return stream.getvalue().splitlines()


def test_each_worker_has_a_line_with_its_problem_and_where_it_is() -> None:
    lines = shown({"GPU 0": ("n=1", "Screening 3/9"), "GPU 1": ("n=2", "Loading")}, {"GPU 1": ("n=2", "Confirming")})
    assert any(line.startswith("GPU 0: ") and line.endswith("n=1, Screening 3/9") for line in lines)
    assert any(line.startswith("GPU 1: ") and line.endswith("n=2, Confirming") for line in lines)
    assert any(line.startswith("GPU 0: ") and line.endswith("nothing to do") for line in lines)


def test_of_many_workers_those_beyond_a_few_share_a_line() -> None:
    at = {f"w{number}": (f"n={number}", "Screening") for number in range(MOST_LINES + 2)}
    lines = shown(at)
    own = {line.partition(":")[0] for line in lines if line.endswith("started")}
    assert len(own) == MOST_LINES
    (rest,) = [line for line in lines if line.startswith("2 problems: ") and "Screening" in line]
    assert all(f"{worker}: Screening" in rest for worker in at.keys() - own)
