"""What a fleet is made of, in types: its GPUs, what is sent to one, what comes back, and what happens meanwhile."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

How = Literal["done", "noisy", "threw", "hung", "lost", "unfit"]
"""How a problem ended on a GPU.

done: with a verdict, or a reason that is the problem's own. noisy, threw, hung: it may be the GPU's doing, and another
one is asked. lost: the process went, such as by a kill; nothing follows for either. unfit: the worker is not what this
run needs, as with another source of the kernel.
"""
SUSPECT: Final[frozenset[How]] = frozenset({"noisy", "threw", "hung"})
"""The ends that cost a GPU its problem."""


class Seen(msgspec.Struct, frozen=True):
    """A worker and its GPU. `worker` names it to people, `card` is the GPU's UUID, `model` its name and capability.

    `host` is the machine and `cores` what its workers may compile with. A version that is not installed is None.
    """

    worker: str
    card: str
    gpu: str
    capability: str
    host: str = ""
    cores: int = 1
    fusetune: str | None = None
    torch: str | None = None
    triton: str | None = None
    driver: str | None = None
    python: str | None = None

    @property
    def model(self) -> str:
        """What results are kept apart by."""
        return f"{self.gpu} (sm_{self.capability.replace('.', '')})"


class Work(msgspec.Struct, frozen=True):
    """One problem for one worker. `op` is how its op travels, `payload` the pickled request.

    `existing` is the client's YAML for this op and the worker's `gpu`, with this problem's entry alone; None where it
    has none. `workers` compile at once.
    `since` is when the run began, as runs are named by it, for a problem that is gone on with.
    """

    item: int
    op: Any
    payload: bytes
    gpu: str
    existing: bytes | None = None
    workers: int = 1
    since: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What a worker says at the end of a problem.

    `result` is a SweepResult, pickled where it comes from another process: what passes it on may not have its types.
    `file` is the text of the YAML that was written in a folder of the worker's own; `journal` has name and bytes where
    its disk is not the client's. `error` is what was raised, and `why` says it in a line.
    """

    item: int
    how: How
    why: str = ""
    result: Any = None
    file: str | None = None
    journal: tuple[str, bytes] | None = None
    error: Exception | None = None
    seconds: float = 0.0


class Joined(msgspec.Struct, frozen=True):
    """A worker can be given problems from here on."""

    seen: Seen


class Left(msgspec.Struct, frozen=True):
    """A worker is gone. `returns`: its executor is about to start it again."""

    worker: str
    why: str
    returns: bool = False


class Refused(msgspec.Struct, frozen=True):
    """A worker is not used, and why. `has_gpu`: it is one of those that a run waits for to begin."""

    worker: str
    why: str
    has_gpu: bool = True


class Said(msgspec.Struct, frozen=True):
    """A sign of life: where a worker is with its problem. A warning is for the user."""

    worker: str
    text: str
    warning: bool = False


class Ended(msgspec.Struct, frozen=True):
    """A worker's answer."""

    worker: str
    answer: Answer


Event = Joined | Left | Refused | Said | Ended
