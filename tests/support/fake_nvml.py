"""The driver's library as a test wants it, in the place of pynvml."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


class FakeNvml(ModuleType):
    """Answers each question as `answers` has it, and knows no other.

    An exception is raised, and what can be called is called with the question's arguments. `asked` are the questions so
    far, with their arguments.
    """

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """What pynvml raises for an answer that is an error."""

    def __init__(self, **answers: Any) -> None:
        super().__init__("pynvml")
        self.answers: dict[str, Any] = {"nvmlInit": None, "nvmlShutdown": None, **answers}
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, question: str) -> Callable[..., Any]:
        if not question.startswith("nvml") or question not in self.answers:
            raise AttributeError(question)

        def ask(*arguments: Any) -> Any:
            self.asked.append((question, *arguments))
            answer = self.answers[question]
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return ask

    def names(self) -> list[str]:
        """The questions so far."""
        return [question for question, *_ in self.asked]
