"""Launches while tuned configs are served, and what reaches Triton of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fusetune.capture.serving.served import Notes, Served
from fusetune.capture.serving.serving import Serving
from fusetune.runtime.launch_configs import LaunchConfigs
from tests.support.launch_cases import Launch, launches_of


@contextlib.contextmanager
def serving(on_miss: Any = "default") -> Iterator[Serving]:
    made = Serving(LaunchConfigs(), Notes("fusetune tune --kernel {}".format), on_miss=on_miss)
    made.install()
    try:
        yield made
    finally:
        made.remove()


def launched(run: Any, on_miss: Any = "default") -> tuple[list[tuple[Any, ...]], Served]:
    """Kernel, grid, BLOCK and warps of what reaches Triton, and what is noted of it."""
    found: list[Served] = []

    def served() -> None:
        with serving(on_miss) as made:
            try:
                run()
            finally:
                found.append(made.notes.served())

    _, launches = launches_of(served)
    return [seen(one) for one in launches], found[0]


def seen(launch: Launch) -> tuple[Any, ...]:
    name, grid, named, options = launch
    return name, grid, named["BLOCK"], options.get("num_warps")
