"""Processes that compile, kept for many runs: what they keep, and what of one run must not reach the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fusetune.capture.spec import CapturedSpec
from fusetune.compiler import processes as module
from fusetune.compiler.build import compile_config
from fusetune.compiler.pool import Job, compile_jobs
from fusetune.compiler.processes import CompileProcesses
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.core.trouble import Trouble
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest
from tests.support import compile_faults
from tests.support.sample import BASELINE, SPEC, Config, make_problem
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
TARGET = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")
SAME_NAMES = """import sys

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, {what}, mask=at < n)


x = torch.ones(5000, device="cuda")
kernel[(triton.cdiv(5000, 1024),)](x, 5000, BLOCK=1024)
"""


def pid_of(processes: CompileProcesses) -> int:
    """That of the one process which there is."""
    return int(processes.schedule(os.getpid, (), 30.0).result())


def pid_in_use(processes: CompileProcesses) -> int:
    (worker,) = processes._pool._pool_manager.worker_manager.workers
    return int(worker)


def compiled(processes: CompileProcesses, spec: Any, *configs: Any, limit_s: float = 60.0) -> dict[Any, Any]:
    jobs = [Job(PROBLEM, config) for config in configs]
    run = compile_jobs(spec, jobs, TARGET, time_limit_s=limit_s, processes=processes)
    return {job.config: result for job, result in run}


def test_runs_that_come_after_each_other_are_served_by_the_same_process() -> None:
    with CompileProcesses(1) as processes:
        first = compiled(processes, SPEC, BASELINE)
        pid = pid_of(processes)
        second = compiled(processes, compile_faults.SPEC, BASELINE, Config(num_warps=8))
        assert pid_of(processes) == pid
    assert first[BASELINE] == second[BASELINE] == compile_config(SPEC, PROBLEM, BASELINE, TARGET)


def test_a_crash_or_a_hang_is_told_of_its_own_run_and_the_next_one_compiles() -> None:
    with CompileProcesses(1) as processes:
        crashed = compiled(processes, compile_faults.SPEC, compile_faults.CRASH)[compile_faults.CRASH]
        hung = compiled(processes, compile_faults.SPEC, compile_faults.HANG, limit_s=2.0)[compile_faults.HANG]
        assert isinstance(crashed, Rejection)
        assert crashed.reason == "compiler_crash"
        assert isinstance(hung, Trouble)
        assert compiled(processes, SPEC, BASELINE)[BASELINE] == compile_config(SPEC, PROBLEM, BASELINE, TARGET)


def test_a_process_that_is_killed_while_it_rests_costs_nothing() -> None:
    with CompileProcesses(2) as processes:
        os.kill(pid_of(processes), signal.SIGKILL)
        time.sleep(0.5)  # For that to be noticed.
        made = compiled(processes, SPEC, BASELINE, Config(num_warps=8), Config(num_stages=3))
        assert all(isinstance(result, Resources) for result in made.values())


def test_a_run_that_ends_early_leaves_nothing_running_in_the_way_of_the_next() -> None:
    with CompileProcesses(1) as processes:
        jobs = [Job(PROBLEM, compile_faults.HANG), Job(PROBLEM, BASELINE)]
        run = compile_jobs(compile_faults.SPEC, jobs, TARGET, processes=processes)
        began = time.monotonic()
        run.close()
        assert compiled(processes, SPEC, BASELINE)[BASELINE] == compile_config(SPEC, PROBLEM, BASELINE, TARGET)
        assert time.monotonic() - began < 20
        # What was dropped is told as the machine's, and does not end the processes that came after it.
        pid = pid_of(processes)
        assert all(isinstance(result, Trouble) for _, result in run)
        run.close()
        assert pid_of(processes) == pid


def test_what_is_still_at_something_is_not_waited_for_at_the_end() -> None:
    began = time.monotonic()
    with CompileProcesses(1) as processes:
        compile_jobs(compile_faults.SPEC, [Job(PROBLEM, compile_faults.HANG)] * 3, TARGET, processes=processes)
        pid = pid_in_use(processes)
    assert time.monotonic() - began < 20
    assert not Path("/proc", str(pid)).exists()


def test_several_requests_and_the_rounds_of_each_start_processes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, make = [], module._pool_of

    def noting(*arguments: Any) -> Any:
        started.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(module, "_pool_of", noting)

    def asked(size: int, processes: CompileProcesses | None) -> None:
        # By the rules: BASELINE is compiled, and what they leave to try then.
        request = SweepRequest(
            spec=SPEC,
            problem=make_problem(size, 512, 1024, "float32"),
            output=tmp_path / "out",
            runs=tmp_path / "runs",
            space="rules",
            processes=processes,
        )
        assert predict(request, TARGET, SilentProgress()).entry.evidence == "predicted"

    with CompileProcesses(2) as processes:
        asked(64, processes)
        asked(128, processes)
    assert len(started) == 1
    asked(256, None)
    assert len(started) == 2


def captured(folder: Path, what: str) -> CapturedSpec:
    folder.mkdir()
    (folder / "program.py").write_text(SAME_NAMES.format(what=what), encoding="utf-8")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", "capture", "--keep", "--json", "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return CapturedSpec(Path(json.loads(done.stdout)["cases"][0]["kept"]))


def test_kernels_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    one = captured(tmp_path / "one", "1.0")
    other = captured(tmp_path / "other", "tl.exp(tl.sin(tl.load(x_ptr + at, mask=at < n)))")
    assert one.kept.kernel == other.kept.kernel
    assert one.kept.module == other.kept.module
    with CompileProcesses(1) as processes:
        for spec in (one, other, one):
            problem = spec.captured_problem()
            job = Job(problem, spec.baseline(problem))
            ((_, result),) = compile_jobs(spec, [job], TARGET, processes=processes)
            assert result == compile_config(spec, problem, job.config, TARGET)
    registers = [
        compile_config(x, x.captured_problem(), x.baseline(x.captured_problem()), TARGET) for x in (one, other)
    ]
    assert registers[0] != registers[1]
