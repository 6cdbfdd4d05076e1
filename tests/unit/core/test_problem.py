"""Problems of named values: how they are told, and where they stand in a file."""

from __future__ import annotations

from fusetune.core.problem import NamedProblem


def test_problems_with_a_size_of_one_a_word_and_a_number_stand_in_one_order() -> None:
    """1 is no size, and a name may hold a word in one problem and a number in another."""
    problems = [
        NamedProblem(n=4096),
        NamedProblem(n=1),
        NamedProblem(n="many"),
        NamedProblem(n=1.5),
        NamedProblem(n=True),
    ]
    ordered = sorted(problems, key=NamedProblem.order)
    assert ordered[-1] == NamedProblem(n=4096)
    problems.reverse()
    assert sorted(problems, key=NamedProblem.order) == ordered


def test_a_problem_says_how_a_command_asks_for_it() -> None:
    assert NamedProblem(n=4096, dtype="float16").options() == "--size n=4096 --size dtype=float16"
