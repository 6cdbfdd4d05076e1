"""The measurer's handling of its processes; the processes are stand-ins, and there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fusetune.core.config import BASELINE, Config
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import make_problem
from fusetune.core.target import find_target
from fusetune.errors import MeasurementError, NoUsableGpuError, WrongResultError
from fusetune.kernels.gemm_scale import SPEC
from fusetune.measure import cuda
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import Failure, GpuFacts, SamplingFacts
from fusetune.measure.worker import WorkerLostError

H200 = find_target("h200")
PROBLEM = make_problem(128, 512, 1024, "float32")
OTHER = Config(num_warps=8)
OPENED = SamplingFacts(input_sets=1, launches=1, touched_bytes=0, l2_bytes=0)
FACTS = GpuFacts(
    identity=TargetIdentity(name=H200.name, capability=H200.capability, sms=H200.sms),
    target=H200,
    environment=Environment(triton="0.0.0", kernel_hash="0" * 16),
)
CRASH = Failure("crash", "the worker died with exit code 1")


class StandIn:
    """A process that answers what a test says; all write what happens to them into one list."""

    def __init__(self, name: str, happened: list[str], answers: dict[str, Any]) -> None:
        self.name, self.happened, self.answers = name, happened, answers

    def _happens(self, what: str) -> None:
        self.happened.append(f"{self.name} {what}")

    def begin(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._happens(f"begins {work.__name__}")
        self._raise_or_return("begin")

    def wait(self, limit_s: float) -> None:
        self._happens("is waited for")
        self._raise_or_return("wait")

    def call(self, work: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        self._happens(work.__name__)
        return self._raise_or_return(work.__name__)

    def close(self) -> None:
        self._happens("ends")

    def _raise_or_return(self, name: str) -> Any:
        answer = self.answers.get(name)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A measurer over stand-ins named A, B, C in the order in which they start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.answers: dict[str, Any] = {"_open_session": OPENED, "_facts": FACTS, "_sample": 5.0, "_company": ()}
        names = iter("ABCDEF")

        def start_worker() -> StandIn:
            name = next(names)
            self.happened.append(f"{name} starts")
            return StandIn(name, self.happened, self.answers)

        monkeypatch.setattr(cuda, "start_worker", start_worker)
        self.measurer = CudaMeasurer(SPEC, PROBLEM)

    def since(self, number: int) -> list[str]:
        return self.happened[number:]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_process_starts_with_the_measurer_and_serves_up_to_the_first_session(bench: Bench) -> None:
    assert bench.happened == ["A starts"]
    assert bench.measurer.facts() == FACTS
    assert bench.measurer.prepare(0) == OPENED
    assert bench.since(1) == ["A _facts", "A _open_session"]


def test_a_process_that_was_started_earlier_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "start_worker", lambda: pytest.fail("a second process was started"))
    happened: list[str] = []
    worker = StandIn("early", happened, {"_facts": FACTS})
    assert CudaMeasurer(SPEC, PROBLEM, worker=worker).facts() == FACTS
    assert happened == ["early _facts"]


def test_a_gpu_that_torch_cannot_use_is_told_with_its_reason(bench: Bench) -> None:
    bench.answers["_facts"] = "torch sees no CUDA GPU; check the driver"
    with pytest.raises(NoUsableGpuError, match="torch sees no CUDA GPU; check the driver") as caught:
        bench.measurer.facts()
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("task", ["_facts", "_company", "_open_session"])
def test_a_process_that_dies_without_a_candidate_ends_the_sweep_with_one_message(bench: Bench, task: str) -> None:
    bench.answers[task] = WorkerLostError(CRASH)
    words = r"the measuring process was lost \(crash: the worker died with exit code 1\); run the command again"
    with pytest.raises(MeasurementError, match=words):
        {"_facts": bench.measurer.facts, "_company": bench.measurer.company}.get(
            task, lambda: bench.measurer.prepare(0)
        )()


def test_the_own_context_is_made_only_after_the_others_on_the_gpu_were_asked_for(bench: Bench) -> None:
    bench.answers["_company"] = ("pid 7 (python)",)
    bench.measurer.facts()
    assert bench.measurer.company() == ("pid 7 (python)",)
    assert bench.since(1) == ["A _facts", "A _company", "A begins _create_context"]


def test_the_process_that_stands_by_takes_over_once_the_old_one_is_gone(bench: Bench) -> None:
    bench.measurer.standby()
    bench.measurer.standby()
    bench.measurer.company()
    bench.measurer.prepare(0)
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.since(1) == [
        "B starts",
        "A _company",
        "A begins _create_context",
        "B begins _create_context",
        "A _open_session",
        "B is waited for",
        "A ends",
        "B _open_session",
    ]


def test_a_standby_that_is_dead_before_the_first_session_is_open_does_no_harm(bench: Bench) -> None:
    bench.measurer.standby()
    bench.answers["begin"] = bench.answers["wait"] = WorkerLostError(CRASH)
    assert bench.measurer.company() == ()
    assert bench.measurer.prepare(0) == OPENED
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.happened[-3:] == ["A ends", "C starts", "C _open_session"]


def test_a_second_session_without_a_standby_starts_its_own_process(bench: Bench) -> None:
    bench.measurer.prepare(0)
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.since(2) == ["A ends", "B starts", "B _open_session"]


def test_a_standby_that_dies_is_replaced_by_the_next_session(bench: Bench) -> None:
    bench.answers["wait"] = WorkerLostError(CRASH)
    bench.measurer.standby()
    bench.measurer.prepare(0)
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.happened[-3:] == ["A ends", "C starts", "C _open_session"]


def test_a_candidate_that_kills_the_process_is_an_outcome_and_the_next_call_opens_another_session(bench: Bench) -> None:
    bench.measurer.prepare(0)
    bench.answers["_sample"] = [WorkerLostError(CRASH), 5.0]
    assert bench.measurer.sample(OTHER) == CRASH
    assert bench.measurer.sample(BASELINE) == 5.0
    assert bench.since(2) == ["A _sample", "A ends", "B starts", "B _open_session", "B _sample"]


def test_a_failure_that_the_context_does_not_survive_ends_the_process(bench: Bench) -> None:
    bench.measurer.prepare(0)
    wild, mild = Failure("launch_error", "wild", fatal=True), Failure("nan", "mild")
    bench.answers["_check"] = [mild, wild, mild]
    assert [bench.measurer.check(OTHER) for _ in range(3)] == [mild, wild, mild]
    assert bench.since(2) == ["A _check", "A _check", "A ends", "B starts", "B _open_session", "B _check"]


def test_baseline_that_fails_as_the_session_opens_is_told_by_what_it_failed_of(bench: Bench) -> None:
    bench.answers["_open_session"] = Failure("nan", "planted")
    with pytest.raises(WrongResultError, match=r"BASELINE itself failed at .*nan: planted"):
        bench.measurer.prepare(0)
    bench.answers["_open_session"] = Failure("out_of_memory", "planted")
    with pytest.raises(MeasurementError, match="free the GPU's memory"):
        bench.measurer.prepare(0)


def test_closing_ends_every_process(bench: Bench) -> None:
    bench.measurer.prepare(0)
    bench.measurer.standby()
    bench.measurer.close()
    assert set(bench.happened[-2:]) == {"A ends", "B ends"}
