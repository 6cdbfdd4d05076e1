"""The measurer's handling of its processes; the processes are stand-ins, and there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest

from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import find_target
from fusetune.errors import MeasurementError, NoUsableGpuError, WrongResultError
from fusetune.measure import cuda
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import Failure, GpuFacts, SamplingFacts
from fusetune.measure.session import loaded_bytes
from fusetune.measure.worker import WorkerLostError
from fusetune.ops.refusals import CannotLaunchError
from tests.support.sample import BASELINE, SPEC, Config, Problem, make_problem

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
        self.given: list[tuple[str, tuple[Any, ...]]] = []

    def _happens(self, what: str) -> None:
        self.happened.append(f"{self.name} {what}")

    def begin(self, work: Callable[..., Any], *arguments: Any) -> None:
        self._happens(f"begins {work.__name__}")
        self.given.append((work.__name__, arguments))
        self._raise_or_return("begin")

    def call(self, work: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        self._happens(work.__name__)
        self.given.append((work.__name__, arguments))
        return self._raise_or_return(work.__name__)

    def kill(self) -> None:
        self._happens("is killed")

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
        self.workers: dict[str, StandIn] = {}
        self.answers: dict[str, Any] = {"_open_session": OPENED, "_facts": FACTS, "_sample": 5.0, "_company": ()}
        names = iter("ABCDEF")

        def start_worker(_: StandIn) -> StandIn:
            name = next(names)
            self.happened.append(f"{name} starts")
            self.workers[name] = StandIn(name, self.happened, self.answers)
            return self.workers[name]

        monkeypatch.setattr(cuda, "start_worker", start_worker)
        monkeypatch.setattr(cuda, "start_server", lambda: StandIn("server", self.happened, {}))
        self.measurer = CudaMeasurer(SPEC, PROBLEM)

    def since(self, number: int) -> list[str]:
        return self.happened[number:]

    def sessions(self) -> list[tuple[str, int, SamplingFacts | None]]:
        """Which processes were to open a session, with which seed and like which other."""
        opened = []
        for name, worker in self.workers.items():
            for task, arguments in worker.given:
                if task == "_open_session":
                    spec, problem, seed, cold, like = arguments
                    assert (spec, problem, cold) == (SPEC, PROBLEM, True)
                    opened.append((name, seed, like))
        return opened


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_process_starts_with_the_measurer_and_serves_up_to_the_first_session(bench: Bench) -> None:
    assert bench.happened == ["A starts"]
    assert bench.measurer.facts() == FACTS
    assert bench.measurer.prepare(0) == OPENED
    assert bench.since(1) == ["A _facts", "A _open_session"]


def test_a_server_of_the_caller_s_own_is_used_and_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "start_server", lambda: pytest.fail("a second server was started"))
    happened: list[str] = []
    server = StandIn("early", happened, {})
    asked = []

    def start_worker(given: StandIn) -> StandIn:
        asked.append(given)
        return StandIn("A", happened, {"_facts": FACTS})

    monkeypatch.setattr(cuda, "start_worker", start_worker)
    measurer = CudaMeasurer(SPEC, PROBLEM, server=server)
    assert measurer.facts() == FACTS
    measurer.close()
    assert asked == [server]
    assert happened == ["A _facts", "A is killed", "A ends"]


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
    bench.measurer.standby(1)
    bench.measurer.standby(1)
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
        "B _opened_ahead",
        "B _opened_ahead",
        "A ends",
        "B _opened_ahead",
        "B _open_session",
    ]


def test_a_later_session_samples_as_the_first_one_did(bench: Bench) -> None:
    later = msgspec.structs.replace(OPENED, launches=99)
    bench.answers["_open_session"] = [OPENED, later, later]
    for seed in (0, 1, 2):
        bench.measurer.prepare(seed)
    assert bench.sessions() == [("A", 0, None), ("B", 1, OPENED), ("C", 2, OPENED)]


def test_a_session_that_was_opened_ahead_is_taken_over_while_the_old_process_ends(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.measurer.prepare(0)
    begun = len(bench.happened)
    bench.measurer.open_ahead()
    bench.answers["_opened_ahead"] = 1
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.since(begun) == [
        "B begins _open_ahead",
        "B _opened_ahead",
        "B _opened_ahead",
        "A is killed",
        "B _open_session",
        "A ends",
    ]
    assert ("_open_ahead", (SPEC, PROBLEM, 1, True, OPENED.input_sets)) in bench.workers["B"].given
    assert bench.sessions() == [("A", 0, None), ("B", 1, OPENED)]


def test_the_old_process_is_gone_even_where_what_was_opened_ahead_fails(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.measurer.prepare(0)
    bench.answers |= {"_opened_ahead": 1, "_open_session": Failure("nan", "planted")}
    with pytest.raises(WrongResultError):
        bench.measurer.prepare(1)
    assert bench.happened[-1] == "A ends"


def test_nothing_is_opened_ahead_before_the_first_session_or_without_a_standby(bench: Bench) -> None:
    bench.measurer.open_ahead()
    bench.measurer.prepare(0)
    bench.measurer.open_ahead()
    assert bench.since(1) == ["A _open_session"]


def test_a_session_of_another_seed_than_announced_waits_for_the_old_process_and_opens_anew(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.measurer.prepare(0)
    bench.measurer.open_ahead()
    bench.answers["_opened_ahead"] = 1
    bench.measurer.prepare(7)
    assert bench.happened[-4:] == ["B _opened_ahead", "A ends", "B _opened_ahead", "B _open_session"]
    assert bench.sessions()[-1] == ("B", 7, OPENED)


def test_a_candidate_that_kills_the_process_never_gets_the_session_that_was_opened_ahead(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.measurer.prepare(0)
    bench.measurer.open_ahead()
    bench.answers |= {"_opened_ahead": 1, "_sample": [WorkerLostError(CRASH), 5.0]}
    assert bench.measurer.sample(OTHER) == CRASH
    assert bench.measurer.sample(BASELINE) == 5.0
    bench.answers["_opened_ahead"] = 0
    bench.measurer.prepare(1)
    # B has to draw anew for seed 0, and the next seed gets a process that has held no session.
    assert bench.sessions() == [("A", 0, None), ("B", 0, OPENED), ("C", 1, OPENED)]


@pytest.mark.parametrize("how", ["it failed", "it died"])
def test_a_session_that_could_not_be_opened_ahead_is_forgotten_with_its_process(bench: Bench, how: str) -> None:
    bench.measurer.standby(1)
    bench.measurer.prepare(0)
    bench.measurer.open_ahead()
    failed = how == "it failed"
    bench.answers["_opened_ahead"] = Failure("out_of_memory", "planted") if failed else WorkerLostError(CRASH)
    bench.measurer.settle()
    assert bench.happened[-1] == ("B ends" if failed else "B _opened_ahead")
    assert bench.measurer.prepare(1) == OPENED
    assert bench.happened[-3:] == ["A ends", "C starts", "C _open_session"]


def test_a_broken_session_ahead_is_not_what_replaces_a_process_that_a_candidate_broke(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.measurer.prepare(0)
    bench.measurer.open_ahead()
    bench.answers |= {"_opened_ahead": Failure("launch_error", "planted"), "_sample": [WorkerLostError(CRASH), 5.0]}
    bench.measurer.sample(OTHER)
    assert bench.measurer.sample(BASELINE) == 5.0
    assert bench.sessions() == [("A", 0, None), ("C", 0, OPENED)]


def test_a_standby_that_is_dead_before_the_first_session_is_open_does_no_harm(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.answers["begin"] = bench.answers["_opened_ahead"] = WorkerLostError(CRASH)
    assert bench.measurer.company() == ()
    assert bench.measurer.prepare(0) == OPENED
    bench.measurer.open_ahead()
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.happened[-3:] == ["A ends", "C starts", "C _open_session"]


def test_a_second_session_without_a_standby_starts_its_own_process(bench: Bench) -> None:
    bench.measurer.prepare(0)
    bench.measurer.settle()
    bench.measurer.prepare(1)
    assert bench.since(2) == ["A ends", "B starts", "B _open_session"]


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


def test_processes_that_are_asked_nothing_more_begin_to_end_without_being_waited_for(bench: Bench) -> None:
    bench.measurer.standby(1)
    bench.happened.clear()
    bench.measurer.end()
    assert bench.happened == ["B is killed", "A is killed"]
    bench.measurer.close()
    assert bench.happened[-3:] == ["B ends", "A ends", "server ends"]


def test_closing_ends_every_process_and_all_at_once(bench: Bench) -> None:
    bench.measurer.prepare(0)
    bench.measurer.standby(1)
    bench.measurer.close()
    assert bench.happened[-5:] == ["B is killed", "A is killed", "B ends", "A ends", "server ends"]


# --- inside the process, with a stand-in for the session


class FakeSession:
    """Remembers how it was opened; `planted` is what loading it comes to."""

    opened: ClassVar[list[FakeSession]] = []
    planted: ClassVar[Failure | Exception | None] = None

    def __init__(self, spec: Any, problem: Any, seed: int, monitor: Any, *, cold: bool) -> None:
        self.seed, self.cold = seed, cold
        self.happened: list[str] = []
        self.opened.append(self)

    def load(self) -> Failure | None:
        self.happened.append("load")
        if isinstance(self.planted, Exception):
            raise self.planted
        return self.planted

    def begin(self, like: SamplingFacts | None) -> SamplingFacts:
        self.happened.append(f"begin like {like}")
        return OPENED


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """The sessions that are opened in this process, as if it were a worker on a GPU with 80 GB free."""
    monkeypatch.setattr(FakeSession, "opened", [])
    monkeypatch.setattr(FakeSession, "planted", None)
    monkeypatch.setattr("fusetune.measure.session.GpuSession", FakeSession)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (80e9, 80e9))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr(cuda, "_monitor", lambda: None)
    monkeypatch.setattr(cuda, "_context_survives", lambda: True)
    monkeypatch.setattr(cuda, "_session", None)
    monkeypatch.setattr(cuda, "_broken", None)
    return FakeSession.opened


def open_ahead(seed: int = 1, problem: Problem = PROBLEM) -> None:
    cuda._open_ahead(SPEC, problem, seed, cold=True, input_sets=60)


def open_session(seed: int, like: SamplingFacts | None = None) -> SamplingFacts | Failure:
    return cuda._open_session(SPEC, PROBLEM, seed, True, like)


def test_what_was_opened_ahead_is_the_session_of_its_seed_and_is_not_opened_twice(inside: list[FakeSession]) -> None:
    assert cuda._opened_ahead() is None
    open_ahead()
    assert cuda._opened_ahead() == 1
    assert open_session(1, OPENED) == OPENED
    (session,) = inside
    assert session.happened == ["load", f"begin like {OPENED}"]


def test_another_seed_gets_inputs_of_its_own(inside: list[FakeSession]) -> None:
    open_ahead(1)
    assert open_session(0) == OPENED
    assert [session.seed for session in inside] == [1, 0]
    assert cuda._live() is inside[1]
    assert inside[1].happened == ["begin like None"]


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (Failure("out_of_memory", "planted"), "out_of_memory"),
        (RuntimeError("x"), "launch_error"),
        (CannotLaunchError("x"), "unsupported"),
    ],
)
def test_what_goes_wrong_ahead_is_told_and_leaves_no_session(
    inside: list[FakeSession], monkeypatch: pytest.MonkeyPatch, planted: Failure | Exception, reason: str
) -> None:
    monkeypatch.setattr(FakeSession, "planted", planted)
    open_ahead()
    broken = cuda._opened_ahead()
    assert isinstance(broken, Failure)
    assert broken.reason == reason
    assert cuda._session is None


def test_an_error_of_the_machine_ahead_leaves_nothing_that_could_be_taken_over(
    inside: list[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "planted", MeasurementError("planted"))
    with pytest.raises(MeasurementError):
        open_ahead()
    assert isinstance(cuda._opened_ahead(), Failure)


def test_a_session_that_takes_more_than_a_quarter_of_the_free_memory_is_not_opened_ahead(
    inside: list[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes = loaded_bytes(SPEC, PROBLEM, 60)
    sets = 60 * 4 * (128 * 1024 + 512 * 1024 + 2 * 512 + 128 * 512)
    assert sets < takes < 1.2 * sets
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (4 * takes - 1, 80e9))
    open_ahead()
    assert inside == []
    assert cuda._opened_ahead() is None
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (4 * takes, 80e9))
    open_ahead()
    assert cuda._opened_ahead() == 1
