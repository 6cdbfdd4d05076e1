"""How fast the command is there. Measured here, since these tests run with no other beside them."""

import resource
import subprocess
import sys
import time

import pytest

from fusetune.measure.nvml import gpu_present

HELP_LIMIT_S = 0.3
SLOW_INTERPRETER_S = 0.1


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


def test_help_is_there_in_under_300_ms() -> None:
    """By the clock; by the CPU's where a busy machine takes long to start even an empty interpreter."""
    empty_s, _ = fastest_of_5_s("-c", "pass")
    wall_s, cpu_s = fastest_of_5_s("-m", "fusetune", "--help")
    assert (cpu_s if empty_s > SLOW_INTERPRETER_S else wall_s) < HELP_LIMIT_S


def test_env_takes_under_300_ms_without_a_gpu() -> None:
    """By the CPU's clock: nothing is waited for, and a busy machine does not lengthen it."""
    if gpu_present():
        pytest.skip("with a GPU, its driver is asked in a process of its own")
    _, cpu_s = fastest_of_5_s("-m", "fusetune", "env")
    assert cpu_s < HELP_LIMIT_S
