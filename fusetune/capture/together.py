"""The configs of a program's autotuner are compiled on all cores at once, and then timed by it as ever.

It would compile one after the other, which for a hundred configs takes a minute, and is waited for before anything can
be tuned. Copies of the process compile into Triton's cache, from which the process itself then takes them. Private
parts of Triton, as in 3.6 to 3.9: `Autotuner.prune_configs` is called once for each key, behind `nargs`;
`AsyncCompileMode` lets `JITFunction.run` with `warmup=True` hand its compilation to an executor, and waits at its end
for its `raw_futures`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from fusetune.capture.forked import done_by_copies
from fusetune.capture.patching import Patches
from fusetune.compiler.processes import usable_cores


@contextlib.contextmanager
def compiled_together() -> Iterator[None]:
    """While it lasts, what an autotuner is about to time is compiled before its first trial."""
    from triton.runtime.autotuner import Autotuner

    with Patches() as patches:
        patches.wrap(Autotuner, "prune_configs", _with_compilation)
        yield


def _with_compilation(prune: Callable[..., Any]) -> Callable[..., Any]:
    def pruned(tuner: Any, named: Mapping[str, Any], *more: Any) -> Any:
        configs = prune(tuner, named, *more)
        if len(configs) > 1:
            compile_all(tuner.fn, tuner.nargs or {}, named, list(configs))
        return configs

    return pruned


def compile_all(kernel: Any, nargs: Mapping[str, Any], named: Mapping[str, Any], configs: Sequence[Any]) -> None:
    """Compile a launch for each of the configs. What fails here fails again where the autotuner times it.

    A config's hook has run before, as in a trial: it may give a tensor descriptor the shape of a block.
    """
    try:
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:  # It compiles one after the other, as ever.
        return
    given = {name: value for name, value in named.items() if name != "warmup"}
    waiting = _Waiting()
    with (
        contextlib.suppress(RuntimeError, TypeError),  # The program compiles so itself, or a Triton that cannot skip.
        AsyncCompileMode(waiting, ignore_errors=True) as mode,
    ):
        try:
            for config in sorted(configs, key=_elements_a_warp, reverse=True):
                with contextlib.suppress(Exception):  # the trial itself tells the program
                    options = {**given, **config.all_kwargs()}
                    if config.pre_hook is not None:
                        config.pre_hook({**nargs, **options})
                    kernel.run(*nargs.values(), **options, warmup=True)
            done_by_copies([one.job for one in waiting.given], usable_cores())
            for one in waiting.given:
                one.do()
        finally:  # What ends this early, as a test's time that is up, leaves some undone, and Triton waits for each.
            mode.raw_futures[:] = [one for one in mode.raw_futures if one.done()]


def _elements_a_warp(config: Any) -> float:
    """About how much a config has the compiler unroll: what takes it longest comes first, and ends with the others."""
    sizes = [value for value in config.kwargs.values() if type(value) is int and value > 0]
    return float(math.prod(sizes) / config.num_warps)


class _Waiting(Executor):
    """An executor that does nothing of what it is given until that is asked for."""

    def __init__(self) -> None:
        self.given: list[_Later] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        self.given.append(_Later(functools.partial(fn, *args, **named)))
        return self.given[-1]


class _Later(Future[Any]):
    """What is done once, by whoever asks for the result first."""

    def __init__(self, job: Callable[[], Any]) -> None:
        super().__init__()
        self.job = job
        self._once = threading.Lock()

    def do(self) -> None:
        with self._once:
            if self.done():
                return
            try:
                self.set_result(self.job())
            except Exception as error:  # noqa: BLE001 - what a compiler raises is for who asks for the result
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        self.do()
        return super().result(timeout)
