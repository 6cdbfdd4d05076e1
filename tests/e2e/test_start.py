"""How fast the command is there, beside an interpreter that does nothing, started in the same minute."""

import resource
import subprocess
import sys
import time

import pytest

from fusetune.measure.nvml import gpu_present

LIMIT_S = 0.3
EMPTY_S = 0.02
"""What a Python process that does nothing takes on a quick machine."""


def fastest_of_5_s(*arguments: str) -> tuple[float, float]:
    """The least wall time and the least CPU time of a Python process, of five runs."""
    wall, cpu = [], []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        wall.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(wall), min(cpu)


def allowed_s(empty_s: float) -> float:
    """300 ms; more on a slow or busy machine, on which an empty interpreter takes longer than it should.

    What must not be loaded, such as torch, takes a hundred times as long as that.
    """
    return LIMIT_S * max(1.0, empty_s / EMPTY_S)


def test_help_is_there_in_under_300_ms() -> None:
    empty_s, _ = fastest_of_5_s("-c", "pass")
    wall_s, _ = fastest_of_5_s("-m", "fusetune", "--help")
    assert wall_s < allowed_s(empty_s)


def test_env_takes_under_300_ms_without_a_gpu() -> None:
    """By the CPU's clock: nothing is waited for."""
    if gpu_present():
        pytest.skip("with a GPU, its driver is asked in a process of its own")
    _, empty_s = fastest_of_5_s("-c", "pass")
    _, cpu_s = fastest_of_5_s("-m", "fusetune", "env")
    assert cpu_s < allowed_s(empty_s)
