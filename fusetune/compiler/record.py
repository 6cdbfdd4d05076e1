"""What the compiler made of every kernel of a config, in more detail than a sweep needs: for pins and inspection."""

from __future__ import annotations

import hashlib

import msgspec

from fusetune.compiler.build import abstract_launches, read_kernel
from fusetune.compiler.sass import InstructionCounts, count_instructions, sass_of_cubin
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.target import Target
from fusetune.errors import CompileError
from fusetune.ops.spec import KernelSpec, Launch


class KernelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One compiled kernel: its Resources, its instructions, and sixteen hex digits of the SHA-256 of its machine code.

    `registers` and `stack_bytes` are a thread's, `shared_bytes` a CTA's. `cubin` is the hash of the instructions as
    disassembled: beside them a cubin holds the path and the lines of the source, which mean nothing elsewhere.
    """

    kernel: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    cubin: str
    instructions: InstructionCounts

    @property
    def spill_bytes(self) -> int:
        """Bytes a thread that spills store and load."""
        return self.instructions.spill_bytes


def kernel_records(spec: KernelSpec, problem: Problem, config: Config, target: Target) -> tuple[KernelRecord, ...]:
    """A record for each kernel that a config launches, in order; none for a library's.

    Compiles in this process, or takes what Triton's cache holds. Raises as `compiler.build.compile_config` does.
    """
    return tuple(_record(launch, target) for launch in abstract_launches(spec, problem, config, target))


def _record(launch: Launch, target: Target) -> KernelRecord:
    name = launch.kernel.__name__
    try:
        kernel = read_kernel(launch, target)
        sass = sass_of_cubin(kernel.compiled.asm["cubin"])
    except CompileError as error:
        raise CompileError(f"{name}: {error}") from error
    return KernelRecord(
        kernel=name,
        registers=kernel.resources.registers,
        stack_bytes=kernel.resources.stack_bytes,
        shared_bytes=kernel.resources.shared_bytes,
        cubin=hashlib.sha256(sass.encode()).hexdigest()[:16],
        instructions=count_instructions(sass),
    )
