"""Many compilations in processes that may hang or die."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from fusetune.compiler.build import compile_config
from fusetune.compiler.pool import Job, compile_jobs
from fusetune.compiler.processes import usable_cores
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.core.trouble import Trouble
from tests.support import compile_faults
from tests.support.sample import BASELINE, SEED_SPACE, SPEC, Config, make_problem

ROOT = Path(__file__).parents[2]
TARGET = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")


def test_every_job_comes_out_once_with_the_resources_of_its_own_config():
    small = make_problem(64, 64, 64, "float16")
    jobs = [Job(problem, config) for problem in (PROBLEM, small) for config in SEED_SPACE.configs()]
    done = list(compile_jobs(SPEC, jobs, TARGET, workers=2))
    assert Counter(job for job, _ in done) == Counter(jobs)
    for (problem, config), result in done:
        assert result == compile_config(SPEC, problem, config, TARGET), config.label()


def test_no_jobs_give_nothing():
    assert list(compile_jobs(SPEC, [], TARGET)) == []


def test_a_job_that_crashes_raises_or_does_not_compile_is_rejected_one_that_hangs_is_not_and_the_rest_come_through():
    faults = [
        compile_faults.CRASH,
        compile_faults.HANG,
        compile_faults.RAISE,
        compile_faults.DOES_NOT_COMPILE,
    ]
    # Faults first: what comes after runs in workers that were replaced.
    configs = [*faults, *SEED_SPACE.configs()]
    jobs = [Job(PROBLEM, config) for config in configs]
    done = {job.config: result for job, result in compile_jobs(compile_faults.SPEC, jobs, TARGET, time_limit_s=8.0)}
    assert set(done) == set(configs)
    rejected = {config: result for config, result in done.items() if isinstance(result, Rejection)}
    assert {config: rejection.reason for config, rejection in rejected.items()} == {
        compile_faults.CRASH: "compiler_crash",
        compile_faults.RAISE: "compile_error",
        compile_faults.DOES_NOT_COMPILE: "compile_error",
    }
    assert f"exit code {compile_faults.EXIT_CODE}" in rejected[compile_faults.CRASH].detail
    # A slow machine looks the same, so that this says nothing of the config.
    assert isinstance(done[compile_faults.HANG], Trouble)
    assert "more than 8 s" in done[compile_faults.HANG].detail
    assert "an op's own mistake" in rejected[compile_faults.RAISE].detail
    assert "make_shape_compatible" in rejected[compile_faults.DOES_NOT_COMPILE].detail
    assert all(isinstance(done[config], Resources) for config in SEED_SPACE.configs())


def test_a_caller_that_stops_early_waits_for_nothing():
    jobs = [Job(PROBLEM, BASELINE), Job(PROBLEM, compile_faults.HANG), Job(PROBLEM, Config(num_stages=3))]
    results = iter(compile_jobs(compile_faults.SPEC, jobs, TARGET, workers=2))
    assert next(results).job.config != compile_faults.HANG
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 10


def test_a_run_that_nobody_iterates_can_be_closed():
    run = compile_jobs(compile_faults.SPEC, [Job(PROBLEM, compile_faults.HANG)] * 3, TARGET, workers=2)
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 10


def test_what_has_not_begun_can_be_dropped_and_the_rest_comes_out():
    configs = SEED_SPACE.configs()
    assert len(configs) > 3
    run = compile_jobs(SPEC, [Job(PROBLEM, config) for config in configs], TARGET, workers=1)
    results = iter(run)
    first = next(results).job.config
    kept = configs[-1]
    run.keep([kept])
    rest = [done.job.config for done in results]
    assert kept in rest
    # Beside what one process was at, one was ready for it.
    assert len([first, *rest]) <= 4
    assert len({first, *rest}) == len([first, *rest])


# A process of its own: the workers take the environment of the server that forks them, which started earlier here.
_TWICE = textwrap.dedent(
    """
    import triton

    from fusetune.compiler.build import compile_config
    from fusetune.compiler.pool import Job, compile_jobs
    from fusetune.core.target import find_target
    from tests.support.sample import SEED_SPACE, SPEC, make_problem

    def listen(*, src, metadata, metadata_group, times, cache_hit):
        hits.append(cache_hit)

    if __name__ == "__main__":
        problem, target = make_problem(128, 512, 1024, "float32"), find_target("h200")
        triton.knobs.compilation.listener = listen
        hits = []
        first, *others = SEED_SPACE.configs()
        compile_config(SPEC, problem, first, target)
        assert hits == [False], hits
        made = dict(compile_jobs(SPEC, [Job(problem, config) for config in others], target, workers=2))
        assert hits == [False], "the workers compile, not this process"
        hits.clear()
        for config in SEED_SPACE.configs():
            again = compile_config(SPEC, problem, config, target)
            assert config == first or again == made[Job(problem, config)]
        print(hits)
    """
)


def test_what_the_workers_compiled_is_in_triton_s_cache_afterwards(tmp_path):
    script = tmp_path / "twice.py"
    script.write_text(_TWICE)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([True] * len(SEED_SPACE.configs()))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity mask, which Linux has")
def test_usable_cores_are_those_that_this_process_may_run_on():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)
