"""Cases: the distinct launches of a program, as any process can read them."""

from __future__ import annotations

from typing import Any

import msgspec

from fusetune.capture.gpu_share import GpuTime


class TensorSeen(msgspec.Struct, frozen=True):
    """A tensor that a launch was given.

    `storage` numbers the storages of a launch in order of their first tensor, so that two of one number share memory;
    `offset` is in elements from its begin, `storage_bytes` its whole size. `aligned`: it begins on 16 bytes. `block` is
    the tile of a descriptor that the tensor was given by; None for a pointer.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage: int
    offset: int
    storage_bytes: int
    aligned: bool
    block: tuple[int, ...] | None = None

    def describe(self) -> str:
        """`float16 [4096, 1024]`, with what is unusual about it."""
        sizes = ", ".join(map(str, self.shape))
        tile = "" if self.block is None else f" in tiles of {list(self.block)}"
        return f"{self.dtype} [{sizes}]{tile}"


class KernelSeen(msgspec.Struct, frozen=True):
    """A kernel by where it stands. `source_hash` is that of its code and of what it calls."""

    name: str
    module: str
    file: str
    line: int
    source_hash: str | None = None

    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


class KnobSeen(msgspec.Struct, frozen=True):
    """A parameter of a launch: whether it may vary, and why.

    `again`: it may not at the launch alone, and running the program with another value in its source may say more.
    """

    name: str
    value: Any
    varies: bool
    reason: str
    values: tuple[Any, ...] = ()
    again: bool = False


class WorkSeen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a kernel computes, by its intermediate code.

    `multiplies`: it multiplies matrices. `kind` is how (core/peaks.py), None where it does so in several ways or in one
    that no peak is stated of; `flops` the operations of that in all programs of the launch, None where it is not known
    how often its loops turn. `staged_loads` are the loads in the one of its loops that has most.
    """

    multiplies: bool
    kind: str | None = None
    flops: float | None = None
    staged_loads: int = 0


class Site(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a launch stands in the program's source, and what its constants come from.

    `line` counts from 1, `column` in bytes from 0. `parameters` are the kernel's in order. `names` are the plain values
    that names of the launching function had. `listed` are the constants and options of an autotune list, `computed`
    those of heuristics, `follows` the constants that the grid follows. `following` has, by each argument that the
    caller computes from constants or gives the value of one, the source of that over these. `modules` has the files of
    the program's own modules that names are imported from. `files` has the SHA-256 of each file as it was then.
    """

    file: str
    line: int
    column: int
    parameters: tuple[str, ...] = ()
    names: dict[str, Any] = {}
    listed: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    following: dict[str, str] = {}
    modules: dict[str, str] = {}
    files: dict[str, str] = {}


class Case(msgspec.Struct, frozen=True, omit_defaults=True):
    """One distinct launch of a program, and how often it came.

    `values` are the run-time arguments that are no tensors, `constants` the constexprs, both by name; what is neither a
    number nor a word is told as one. `options` are those that the launch was given, `before` those that its compiled
    kernel has. `us` are the microseconds of all launches, by those of the first few. `grid_kind` and `grid_why` say
    what the grid follows. `roles` say what the kernel does to each tensor: read, written, both, atomic or unused;
    `tables` are the tensors whose integers it takes for addresses, with what it does to the memory there, and `unsure`
    those of which some access may have been another tensor's.
    `differing` are the run-time numbers that were others in later launches of this case: `values` has those of the
    first. `proposals` counts the configs of an autotune list above it. `findings` are sentences on what the source asks
    for and does not get. `work` is None where it could not be told. `kept` is the folder that it was kept in. `site` is
    where it was launched, where that is clear.
    """

    kernel: KernelSeen
    grid: tuple[int, ...]
    grid_kind: str
    tensors: dict[str, TensorSeen]
    values: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, Any]
    before: dict[str, Any]
    launches: int = 1
    us: float | None = None
    grid_why: str = ""
    knobs: tuple[KnobSeen, ...] = ()
    roles: dict[str, str] = {}
    tables: dict[str, str] = {}
    unsure: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    proposals: int = 0
    findings: tuple[str, ...] = ()
    work: WorkSeen | None = None
    kept: str | None = None
    site: Site | None = None

    def config_text(self) -> str:
        """What runs, for people: `BLOCK=1024 w4 s3`."""
        constants = [f"{name}={value}" for name, value in self.constants.items() if type(value) is int]
        letters = {"num_warps": "w", "num_stages": "s", "num_ctas": "c", "maxnreg": "r"}
        usual = {"num_ctas": 1, "maxnreg": None}
        options = [
            f"{letter}{self.before[name]}"
            for name, letter in letters.items()
            if self.before.get(name) is not None and self.before[name] != usual.get(name, "")
        ]
        return " ".join([*constants, *options])


class NotCaptured(msgspec.Struct, frozen=True):
    """Launches of a kernel that are no case, and why: a clause that follows "as"."""

    kernel: KernelSeen
    why: str
    launches: int


class Looked(msgspec.Struct, frozen=True):
    """What one run of a program showed.

    `compiled_for` names the GPU that launches were compiled for where none was run. Launches that are no case are
    counted: in `bypassed` those past Triton's JIT, by the kernel's name, in `by_inductor` those of what torch.compile
    made, in `in_graphs` those while a CUDA graph was captured, and in `not_captured` those that cannot be written down.
    `trials` counts launches of autotuners that only timed. `failed` says how the program ended, where it failed. `kept`
    is the folder of the run, where cases were kept. `gpu_time` is that of all kernels of the program, where it was run
    once more for that; `no_gpu_time` says why not.
    """

    cases: tuple[Case, ...]
    compiled_for: str | None = None
    gpu: str | None = None
    seconds: float = 0.0
    trials: int = 0
    in_graphs: int = 0
    bypassed: dict[str, int] = {}
    by_inductor: dict[str, int] = {}
    not_captured: tuple[NotCaptured, ...] = ()
    failed: str | None = None
    kept: str | None = None
    gpu_time: GpuTime | None = None
    no_gpu_time: str | None = None
