"""What the compiler made of every kernel of a config, in more detail than a sweep needs: for pins and inspection."""

from __future__ import annotations

import hashlib

import msgspec

from fusetune.compiler.build import resources_of_cubin, specialize
from fusetune.compiler.sass import InstructionCounts, count_instructions, sass_of_cubin
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.target import Target
from fusetune.errors import CompileError
from fusetune.kernels.spec import KernelSpec, Launch, abstract_tensors


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

    Compiles in this process, or takes what Triton's cache holds. Raises CompileError with the compiler's own message.
    """
    launches = spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
    return tuple(_record(launch, target) for launch in launches if isinstance(launch, Launch))


def _record(launch: Launch, target: Target) -> KernelRecord:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    try:
        compiled = compile(
            ASTSource(launch.kernel, *specialize(launch)),
            target=GPUTarget("cuda", target.sm, 32),
            options=dict(launch.options),
        )
    except Exception as error:
        raise CompileError(f"{launch.kernel.__name__}: {error}") from error
    cubin = compiled.asm["cubin"]
    sass = sass_of_cubin(cubin)
    resources = resources_of_cubin(cubin, compiled.metadata.shared)
    return KernelRecord(
        kernel=launch.kernel.__name__,
        registers=resources.registers,
        stack_bytes=resources.stack_bytes,
        shared_bytes=resources.shared_bytes,
        cubin=hashlib.sha256(sass.encode()).hexdigest()[:16],
        instructions=count_instructions(sass),
    )
