"""The rules by which problems go to GPUs, with a clock and workers that are numbers."""

from __future__ import annotations

import pytest

from fusetune.fleet.schedule import Item, Rules, Schedule, Told
from fusetune.fleet.words import Answer, How, Seen

MODEL = Seen("", "", "NVIDIA H200", "9.0").model


def gpu(number: int, *, model: str = "NVIDIA H200", worker: str | None = None) -> Seen:
    return Seen(worker or f"w{number}", f"GPU-{number}", model, "9.0")


class Run:
    """A schedule and a clock, with what is told."""

    def __init__(self, items: int | list[Item], gpus: int, **rules: float) -> None:
        listed = [Item(key, MODEL) for key in range(items)] if isinstance(items, int) else items
        self.schedule, self.now = Schedule(listed, Rules(**rules)), 0.0
        self.told: list[Told] = []
        for number in range(gpus):
            assert self.schedule.join(gpu(number), self.now) is None

    def given(self) -> dict[str, int]:
        return {worker: key for worker, key, _ in self.schedule.assign(self.now)}

    def end(self, worker: str, how: How = "done", why: str = "") -> None:
        self.told += self.schedule.ended(worker, Answer(self.schedule.busy[worker], how, why), self.now)

    def lose(self, worker: str, how: How = "lost", *, returns: bool = True) -> None:
        self.schedule.heard(worker, self.now)
        self.told += self.schedule.gone(worker, how, how, self.now, returns=returns)

    @property
    def ends(self) -> dict[int, str | None]:
        return {one.item.key: None if one.answer is None else one.answer.how for one in self.told}


def test_problems_go_out_in_their_order_as_gpus_become_free() -> None:
    run = Run(3, 2)
    assert run.given() == {"w0": 0, "w1": 1}
    run.end("w1")
    assert run.given() == {"w1": 2}
    assert run.given() == {}
    run.end("w0")
    run.end("w1")
    assert run.ends == {0: "done", 1: "done", 2: "done"}
    assert run.schedule.left == 0


@pytest.mark.parametrize("how", ["noisy", "threw"])
def test_a_gpu_that_fails_loses_its_problem_to_another(how: How) -> None:
    run = Run(1, 2)
    assert run.given() == {"w0": 0}
    run.end("w0", how)
    assert run.given() == {"w1": 0}
    run.end("w1")
    (told,) = run.told
    assert [(one.worker, one.how) for one in told.attempts] == [("w0", how), ("w1", "done")]


def test_a_problem_that_three_gpus_fail_on_is_told_and_held_against_none_of_them() -> None:
    run = Run(1, 4, strikes=1)
    for worker in ("w0", "w1", "w2"):
        assert run.given() == {worker: 0}
        run.end(worker, "threw", f"by {worker}")
    assert run.ends == {0: "threw"}
    assert run.told[0].why == "by w2"
    assert run.schedule.retired == {}


def test_where_no_other_gpu_is_left_a_failure_is_told_at_once() -> None:
    run = Run(2, 1)
    run.given()
    run.end("w0", "noisy")
    assert run.ends == {0: "noisy"}
    assert run.given() == {"w0": 1}


def test_a_gpu_that_loses_three_problems_in_a_row_gets_no_more() -> None:
    run = Run(8, 2)
    run.given()
    for _ in range(3):
        run.end("w0", "noisy", "A/A")
        run.given()
    assert run.schedule.retired == {"GPU-0": "it lost 3 problems one after another, the last: A/A"}
    while run.schedule.busy:
        assert set(run.schedule.busy) == {"w1"}
        run.end("w1")
        run.given()
    assert len(run.told) == 8
    assert "no more problems" in (run.schedule.join(gpu(0, worker="again"), 0.0) or "")


def test_the_only_gpu_goes_on_where_nobody_can_say_whether_a_problem_is_at_fault() -> None:
    run = Run(5, 1)
    for _ in range(4):
        run.given()
        run.end("w0", "threw", "wrong results")
    assert run.schedule.retired == {}
    assert run.given() == {"w0": 4}
    run.end("w0")
    assert run.ends == {0: "threw", 1: "threw", 2: "threw", 3: "threw", 4: "done"}


def test_the_only_gpu_gets_no_more_where_three_problems_hang_since_each_costs_minutes() -> None:
    run = Run(5, 1)
    for _ in range(3):
        run.given()
        run.lose("w0", "hung")
        run.schedule.join(gpu(0), run.now)
    assert run.schedule.retired == {"GPU-0": "it lost 3 problems one after another, the last: hung"}


def test_a_gpu_that_ends_a_problem_between_keeps_its_place() -> None:
    run = Run(8, 2)
    for how in ("noisy", "noisy", "done", "noisy", "noisy"):
        run.given()
        run.end("w0", how)
    assert run.schedule.retired == {}


def test_a_killed_process_costs_nothing_and_its_problem_waits_for_it() -> None:
    run = Run(2, 2)
    assert run.given() == {"w0": 0, "w1": 1}
    run.lose("w0")
    run.end("w1")
    assert run.given() == {}, "its journal lies with the GPU that began it"
    run.schedule.join(gpu(0), run.now)
    assert list(run.schedule.assign(run.now)) == [("w0", 0, 1)]
    run.end("w0")
    assert run.ends == {0: "done", 1: "done"}


def test_a_process_that_does_not_come_back_loses_its_problem_after_a_minute() -> None:
    run = Run(1, 2)
    run.given()
    run.lose("w0")
    assert run.given() == {}
    run.now = 61.0
    assert run.given() == {"w1": 0}


def test_a_problem_whose_process_is_lost_six_times_is_told() -> None:
    run = Run(1, 1)
    for _ in range(6):
        assert run.given() == {"w0": 0}
        run.lose("w0")
        run.schedule.join(gpu(0), run.now)
    assert run.ends == {0: "lost"}
    assert "lost 6 times" in run.told[0].why


def test_a_process_that_goes_before_a_word_had_not_begun() -> None:
    run = Run(1, 1)
    run.given()
    assert run.schedule.gone("w0", "lost", "exit code 1", run.now, returns=True) == []
    run.schedule.join(gpu(0), run.now)
    assert list(run.schedule.assign(run.now)) == [("w0", 0, 0)]


def test_a_worker_that_says_nothing_hangs_and_one_that_does_not() -> None:
    run = Run(2, 2, silent_s=10)
    run.given()
    run.now = 8.0
    run.schedule.heard("w1", run.now)
    run.now = 12.0
    assert run.schedule.silent(run.now) == ["w0"]
    run.lose("w0", "hung")
    run.end("w1")
    assert run.given() == {"w1": 0}


def test_the_answer_of_a_worker_that_was_given_up_counts_for_nothing() -> None:
    run = Run(1, 2)
    run.given()
    run.lose("w0", "hung")
    assert run.given() == {"w1": 0}
    run.schedule.join(gpu(0), run.now)
    assert run.schedule.ended("w0", Answer(0, "done"), run.now) == []
    run.end("w1")
    assert len(run.told) == 1


def test_two_workers_on_one_gpu_are_refused() -> None:
    run = Run(1, 1)
    why = run.schedule.join(gpu(0, worker="second"), 0.0)
    assert why is not None
    assert "GPU-0 has the worker w0 already" in why


def test_a_problem_of_one_model_never_goes_to_another() -> None:
    other = gpu(7, model="NVIDIA H100")
    run = Run([Item(0, MODEL), Item(1, other.model)], 1)
    run.schedule.join(other, 0.0)
    assert run.given() == {"w0": 0, "w7": 1}
    run.end("w0", "noisy")
    run.end("w7")
    assert run.given() == {}
    assert run.ends == {0: "noisy", 1: "done"}


def test_the_cases_of_a_kernel_wait_for_its_first() -> None:
    run = Run([Item(0, MODEL, "a"), Item(1, MODEL, "a"), Item(2, MODEL, "b"), Item(3, MODEL, "a")], 3)
    assert run.given() == {"w0": 0, "w1": 2}
    run.end("w0")
    assert run.given() == {"w0": 1, "w2": 3}


def test_a_worker_with_another_source_is_dismissed_and_its_problem_begun_elsewhere() -> None:
    run = Run(1, 2)
    run.given()
    run.end("w0", "unfit", "another source")
    assert run.schedule.retired == {"GPU-0": "another source"}
    assert run.given() == {"w1": 0}


def test_what_nobody_is_left_for_is_told_with_why() -> None:
    run = Run(3, 2, strikes=1, empty_s=0.0)
    run.given()
    run.end("w0", "threw", "gone mad")
    run.lose("w1", returns=False)
    told = run.schedule.give_up(run.now)
    assert [one.item.key for one in told] == [0, 1, 2]
    assert all("gone mad" in one.why for one in told)
    assert run.schedule.left == 0


def test_of_a_cluster_without_workers_others_are_waited_for() -> None:
    run = Run(1, 1, empty_s=30.0, away_s=0.0)
    run.given()
    run.lose("w0", returns=False)
    assert run.schedule.give_up(run.now) == []
    run.now = 29.0
    assert run.schedule.give_up(run.now) == []
    run.schedule.join(gpu(3), run.now)
    assert run.given() == {"w3": 0}
    run.lose("w3", returns=False)
    run.now = 60.0
    assert run.schedule.give_up(run.now) == []
    run.now = 91.0
    assert [one.item.key for one in run.schedule.give_up(run.now)] == [0]
