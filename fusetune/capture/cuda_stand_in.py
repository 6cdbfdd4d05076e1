"""torch.cuda as a program sees it on a Target that is not there. Only a process that captures imports this.

Relies on names of torch.cuda and torch.accelerator of 2.11 to 2.13; a name that a version lacks is added, and taken
away again.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, NoReturn

import torch

from fusetune.capture.patching import Patches
from fusetune.core.target import Target

DEVICE = torch.device("cuda", 0)
ELAPSED_MS = 1.0
"""What every timing tells."""
_MEMORY_GIB = 16
"""Told of a Target whose memory no document states."""
_MEMORY_QUESTIONS = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
_DONE_WITHOUT = (
    "_lazy_init", "init", "set_device", "synchronize", "empty_cache", "ipc_collect", "set_stream", "seed",
    "seed_all", "reset_peak_memory_stats", "reset_max_memory_allocated",
    "reset_accumulated_memory_stats", "set_per_process_memory_fraction", "_sleep", "set_sync_debug_mode",
)  # fmt: skip
_NVTX = ("range_push", "range_pop", "mark", "range_start", "range_end")


def nothing(*_arguments: Any, **_keywords: Any) -> None:
    """What is done where there is no GPU to do it."""


class Stream:
    """torch.cuda.Stream: the order in which a CPU does things anyway."""

    cuda_stream = 0
    stream_id = 0
    device_index = 0
    device = DEVICE
    priority = 0

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None: ...

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream)

    def __hash__(self) -> int:
        return 0

    synchronize = wait_stream = wait_event = nothing

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is made of what it is given: none can be."""
        return False

    def record_event(self, event: Event | None = None) -> Event:
        """An event behind what was done so far."""
        return event or Event()


class Event:
    """torch.cuda.Event: each pair is ELAPSED_MS apart."""

    cuda_event = 0
    device = DEVICE

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None: ...

    record = wait = synchronize = nothing

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def elapsed_time(self, _end: Any) -> float:
        """Milliseconds, the same always."""
        return ELAPSED_MS


class _Context(contextlib.ContextDecorator):
    """torch.cuda.device, device_of and stream: a `with` that changes nothing, as there is one device."""

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None:
        self.idx, self.prev_idx = 0, 0

    def __enter__(self) -> None: ...

    def __exit__(self, *_error: object) -> None: ...


class Philox:
    """The GPU's own generator, as programs read it that count random numbers themselves: a seed, and an offset.

    Nothing draws from it: where PyTorch draws for a tensor, the CPU's generator does.
    """

    device = DEVICE

    def __init__(self) -> None:
        self._seed, self._offset = 0, 0

    def get_state(self) -> torch.Tensor:
        """16 bytes, as CUDAGeneratorImpl writes them."""
        signed = [(value + 2**63) % 2**64 - 2**63 for value in (self._seed, self._offset)]
        return torch.tensor(signed, dtype=torch.int64, device="cpu").view(torch.uint8)

    def set_state(self, state: torch.Tensor) -> Philox:
        """What get_state gave."""
        self._seed, self._offset = map(int, state.cpu().view(torch.int64)[:2])
        return self

    def manual_seed(self, seed: int) -> Philox:
        """Begin anew."""
        self._seed, self._offset = seed, 0
        return self

    def seed(self) -> int:
        """A seed that is the same in each run."""
        return self.manual_seed(0).initial_seed()

    def initial_seed(self) -> int:
        """The seed that it began with."""
        return self._seed

    def get_offset(self) -> int:
        """How far it is."""
        return self._offset

    def set_offset(self, offset: int) -> None:
        """Be so far."""
        self._offset = offset


class Refused:
    """A CUDA graph, which would hold launches that are only compiled here."""

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None:
        refuse()


def refuse(*_arguments: Any, **_keywords: Any) -> NoReturn:
    """Raise RuntimeError, as PyTorch does where a CUDA graph cannot be made."""
    raise RuntimeError("CUDA graphs cannot be captured without a GPU; run the program without them, or on a GPU")


def properties_of(target: Target) -> SimpleNamespace:
    """What torch.cuda.get_device_properties gives, with the Target's figures."""
    return SimpleNamespace(
        name=target.name,
        major=target.sm // 10,
        minor=target.sm % 10,
        total_memory=int((target.memory_gib or _MEMORY_GIB) * 2**30),
        multi_processor_count=target.sms,
        warp_size=32,
        max_threads_per_block=1024,
        max_threads_per_multi_processor=32 * target.max_warps_per_sm,
        regs_per_multiprocessor=target.registers_per_sm,
        shared_memory_per_block=48 * 1024,
        shared_memory_per_block_optin=target.shared_bytes_per_cta,
        shared_memory_per_multiprocessor=target.shared_bytes_per_sm,
        L2_cache_size=target.l2_bytes or 0,
        clock_rate=int((target.boost_mhz or 0) * 1000),
        is_integrated=0,
        is_multi_gpu_board=0,
        gcnArchName=target.name,
    )


def install(patches: Patches, target: Target) -> None:
    """Let torch.cuda answer for `target` until `patches` are closed.

    Each name gets an object of its own: Dynamo, which custom operators load, has a rule for each and no two for one.
    """
    cuda, properties = torch.cuda, properties_of(target)
    capability = (properties.major, properties.minor)
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "_is_compiled": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": properties,
        "get_device_capability": capability,
        "get_device_name": target.name,
        "get_arch_list": [f"sm_{target.sm}"],
        "current_stream": Stream(),
        "default_stream": Stream(),
        "is_bf16_supported": capability >= (8, 0),
        "is_tf32_supported": capability >= (8, 0),
        "is_current_stream_capturing": False,
        "can_device_access_peer": False,
        "mem_get_info": (properties.total_memory, properties.total_memory),
        "memory_stats": {},
        **dict.fromkeys(_MEMORY_QUESTIONS, 0),
    }
    for name, answer in answers.items():
        patches.put(cuda, name, _answering(answer))
    for name in _DONE_WITHOUT:
        patches.put(cuda, name, _answering(None))
    philox = Philox()
    patches.put(cuda, "default_generators", (philox,))
    patches.put(cuda, "get_rng_state", lambda *_arguments, **_keywords: philox.get_state())
    patches.put(cuda, "set_rng_state", lambda state, *_arguments, **_keywords: nothing(philox.set_state(state)))
    for name in ("manual_seed", "manual_seed_all"):
        patches.put(cuda, name, lambda seed: nothing(philox.manual_seed(seed)))
    patches.put(cuda, "initial_seed", philox.initial_seed)
    patches.put(cuda, "Stream", Stream)
    patches.put(cuda, "Event", Event)
    kinds = {"ExternalStream": Stream, "CUDAGraph": Refused, "graph": Refused}
    for name, kind in {**kinds, **dict.fromkeys(("device", "device_of", "stream", "StreamContext"), _Context)}.items():
        patches.put(cuda, name, type(name, (kind,), {}))
    patches.put(cuda, "make_graphed_callables", refuse)
    for module, names in ((cuda.nvtx, _NVTX), (cuda.profiler, ("start", "stop"))):
        for name in names:
            patches.put(module, name, _answering(None))
    patches.put(cuda.nvtx, "range", type("range", (_Context,), {}))
    patches.put(torch._C, "_cuda_getCurrentRawStream", _answering(0))
    if torch.version.cuda is None:
        patches.put(torch.version, "cuda", "12.8")
    _accelerator(patches)


def _accelerator(patches: Patches) -> None:
    accelerator = torch.accelerator
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_accelerator": torch.device("cuda"),
        "current_stream": Stream(),
    }
    for name in ("current_device_index", "current_device_idx"):
        answers[name] = 0
    for name, answer in answers.items():
        patches.wrap(accelerator, name, lambda _own, answer=answer: _answering(answer))  # type: ignore[misc]
    for name in ("synchronize", "set_device_index", "set_device_idx", "set_stream", "empty_cache"):
        patches.wrap(accelerator, name, lambda _own: _answering(None))


def _answering(answer: Any) -> Any:
    """A function of any arguments that gives always the same."""

    def answered(*_arguments: Any, **_keywords: Any) -> Any:
        return answer

    # torch.cuda.device_count and is_bf16_supported are held in caches, which programs clear.
    answered.cache_clear = nothing  # type: ignore[attr-defined]
    return answered
