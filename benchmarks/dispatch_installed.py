"""The arms of `benchmarks/dispatch_user.py` under `fusetune.install`, in a process of their own, batch by batch.

What is installed holds for a whole process. So that arms with it and without take turns all the same, this process
makes a batch of calls whenever it is told to, and clocks it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("user/run_autotune", "user/run_kernel_grid", "user/run_fusetune", "user/run_missed")


class Installed:
    """The process; its arms are calls as all others are, with a `batch` that is clocked there."""

    def __init__(self, configs: Path) -> None:
        paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import dispatch_installed; dispatch_installed.work()", str(configs)],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def arms(self) -> dict[str, Callable[[], Elsewhere]]:
        """What makes the arms."""
        return {name: lambda name=name: Elsewhere(self, name) for name in NAMES}

    def batch(self, name: str, count: int) -> float:
        """Microseconds a call, in that process. Raises RuntimeError with what went wrong there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, count]) + "\n")
        self._process.stdin.flush()
        us, failed = json.loads(self._process.stdout.readline() or '[0.0, "the process is gone"]')
        if failed:
            raise RuntimeError(failed)
        return float(us)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class Elsewhere:
    """One arm of the process."""

    def __init__(self, process: Installed, name: str) -> None:
        self._process, self._name = process, name

    def __call__(self) -> None:
        """Make one call."""
        self.batch(1)

    def batch(self, count: int) -> float:
        """Make so many calls; microseconds a call."""
        return self._process.batch(self._name, count)


def work() -> None:
    """Make batches of the arms that are asked for, until there are no more."""
    import torch

    import fusetune

    fusetune.install(sys.argv[1], children=False)
    arms: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name, count = json.loads(line)
        try:
            if name not in arms:
                arms[name] = made(name)
            call = arms[name]
            call()
            torch.cuda.synchronize()
            began = time.perf_counter_ns()
            for _ in range(count):
                call()
            took = (time.perf_counter_ns() - began) / count / 1e3
            torch.cuda.synchronize()
            print(json.dumps([took, ""]), flush=True)
        except Exception as error:  # noqa: BLE001 - an arm that fails is a result
            print(json.dumps([0.0, f"{type(error).__name__}: {error}"]), flush=True)


def made(name: str) -> Callable[[], Any]:
    """An arm that was called, and became of it what it is there for."""
    import dispatch_user

    import fusetune

    before = outcomes()
    call = dispatch_user.installed_arms()[name]()
    for _ in range(3):
        call()
    after = outcomes()
    wanted = "missed" if name.endswith("missed") else "applied"
    other = {one for one in after if after[one] > before.get(one, 0)} - {wanted}
    if other or after.get(wanted, 0) <= before.get(wanted, 0):
        raise RuntimeError(f"{name} is to be {wanted}: {fusetune.served()}")
    return call


def outcomes() -> Mapping[str, int]:
    """Launches so far by what became of them."""
    import fusetune

    found: dict[str, int] = {}
    for kernel in fusetune.served().kernels:
        for kind in ("applied", "missed", "left"):
            found[kind] = found.get(kind, 0) + sum(one.launches for one in getattr(kernel, kind))
    return found
