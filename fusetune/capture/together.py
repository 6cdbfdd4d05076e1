"""The configs of a program's autotuner are compiled on all cores at once, and then timed by it as ever.

It would compile one after the other, which for a hundred configs takes a minute, and is waited for before anything can
be tuned. Copies of the process compile into Triton's cache, from which the process itself then takes them. Private
parts of Triton, as in 3.6 to 3.9: `Autotuner.prune_configs` is called once for each key, behind `nargs`;
`AsyncCompileMode` lets `JITFunction.run` with `warmup=True` hand its compilation to an executor.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from fusetune.capture.forked import done_by_copies
from fusetune.capture.patching import Patches


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
            compile_all(tuner.fn, tuple((tuner.nargs or {}).values()), named, list(configs))
        return configs

    return pruned


def compile_all(kernel: Any, arguments: Sequence[Any], named: Mapping[str, Any], configs: Sequence[Any]) -> None:
    """Compile a launch for each of the configs. What fails here fails again where the autotuner times it."""
    try:
        from triton.runtime._async_compile import AsyncCompileMode
    except ImportError:  # It compiles one after the other, as ever.
        return
    given = {name: value for name, value in named.items() if name != "warmup"}
    waiting = _Waiting()
    with (
        contextlib.suppress(RuntimeError, TypeError),  # The program compiles so itself, or a Triton that cannot skip.
        AsyncCompileMode(waiting, ignore_errors=True),
    ):
        try:
            for config in sorted(configs, key=_elements_a_warp, reverse=True):
                with contextlib.suppress(Exception):  # the trial itself tells the program
                    kernel.run(*arguments, **{**given, **config.all_kwargs()}, warmup=True)
            done_by_copies([job for job, _ in waiting.jobs], len(os.sched_getaffinity(0)))
        finally:  # Nobody waits for what is never done.
            waiting.do()


def _elements_a_warp(config: Any) -> float:
    """About how much a config has the compiler unroll: what takes it longest comes first, and ends with the others."""
    sizes = [value for value in config.kwargs.values() if type(value) is int and value > 0]
    return float(math.prod(sizes) / config.num_warps)


class _Waiting(Executor):
    """An executor that does nothing of what it is given until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], Any], Future[Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((functools.partial(fn, *args, **named), future))
        return future

    def do(self) -> None:
        for job, future in self.jobs:
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - what a compiler raises is for who asks for the result
                future.set_exception(error)
