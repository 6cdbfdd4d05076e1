"""A function or a model of a program that is called again and again, each time on the same inputs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from fusetune.capture.programs import Program, arguments_of, as_command, function_of, loaded_model, made_alike, on_cuda
from fusetune.capture.results import Results, difference, in_dtypes_of, results_of

_REFERENCE: Final = "Model"
_CYCLES_A_SECOND: Final = 2.0e9
"""Of a GPU's clock, at most: so long it is kept busy while the host queues a call."""
_LEAST_BUSY_S: Final = 5e-4
_MOST_BUSY_S: Final = 0.05


class Arguments(NamedTuple):
    """What a call is given."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class Repeated:
    """Something to call. Its inputs are made anew where a call changes them; random numbers begin alike each time."""

    def __init__(
        self,
        make: Callable[[], Arguments],
        called: Callable[..., Any],
        reference: Callable[[Arguments], Any] | None = None,
    ) -> None:
        self._make, self._called, self._reference = make, called, reference
        self._before = _random_state()
        self._inputs = make()
        self._after = _random_state()
        self._held = results_of(self._inputs)
        self.changes_inputs = False

    @property
    def has_reference(self) -> bool:
        """Whether the program comes with something that says what is right."""
        return self._reference is not None

    def call(self) -> Any:
        """Call it on fresh inputs."""
        return self._on(self.fresh())

    def first_call(self) -> Any:
        """The first one, which finds out whether it changes its inputs."""
        result = self._on(self.fresh())
        self.changes_inputs = not _equal(results_of(self._inputs), self._held)
        self._held = {}
        return result

    def results(self) -> Results:
        """What a call gives, and what its inputs then are where it changes them."""
        inputs = self.fresh()
        result = self._on(inputs)
        return results_of({"result": result, "inputs": inputs} if self.changes_inputs else {"result": result})

    def of_reference(self, results: Results) -> Results | None:
        """What the program's own reference gives for the same inputs, in the dtypes of the results; None without."""
        if self._reference is None:
            return None
        import torch

        with torch.no_grad():
            expected = results_of({"result": self._reference(self.fresh())})
        return in_dtypes_of(results, expected)

    def forward_ms(self, limit_s: float = 1.0, calls: int = 30) -> float | None:
        """The milliseconds of a call on the GPU, without gaps in which the host queues its work; None without calls.

        A call that waits for the GPU itself has its own gaps, and they count.
        """
        import statistics

        import torch

        inputs = self.fresh()
        torch.cuda.synchronize()
        began = time.perf_counter()
        self._on(inputs)
        busy_s = min(max(2.0 * (time.perf_counter() - began), _LEAST_BUSY_S), _MOST_BUSY_S)
        times: list[float] = []
        until = time.monotonic() + limit_s
        while len(times) < calls and (len(times) < 3 or time.monotonic() < until):
            inputs = self.fresh()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(int(busy_s * _CYCLES_A_SECOND))
            start.record()
            self._on(inputs)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times) if times else None

    def fresh(self) -> Arguments:
        """The inputs as they were at first."""
        if self.changes_inputs:
            _begin_alike(self._before)
            self._inputs = self._make()
        _begin_alike(self._after)
        return self._inputs

    def _on(self, inputs: Arguments) -> Any:
        return self._called(*inputs.positional, **inputs.named)


@contextlib.contextmanager
def repeated(program: Program) -> Iterator[Repeated]:
    """A function or a model, imported and made; while it is called, sys.argv and sys.path are as it expects."""
    if program.kind == "function":
        with as_command([program.what], Path.cwd()):
            yield Repeated(lambda: Arguments(*arguments_of(program)), function_of(program))
        return
    with loaded_model(program) as (model, inputs_of):

        def reference(inputs: Arguments) -> Any:
            return made_alike(getattr(inputs_of, _REFERENCE), inputs_of)(*inputs.positional)

        yield Repeated(
            lambda: Arguments(tuple(on_cuda(inputs_of.get_inputs())), {}),
            model,
            reference if program.reference is not None and hasattr(inputs_of, _REFERENCE) else None,
        )


def _equal(results: Results, others: Results) -> bool:
    return difference(results, others).is_none()


def _random_state() -> tuple[Any, Any]:
    import torch

    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _begin_alike(state: tuple[Any, Any]) -> None:
    import torch

    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
