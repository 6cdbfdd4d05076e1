"""All that the compiler's output tells of a config: one set of facts for each kernel that it launches."""

from __future__ import annotations

import contextlib
import io

import msgspec

from fusetune.compiler.build import abstract_launches, read_kernel
from fusetune.compiler.sass import InstructionCounts, count_instructions, sass_of_cubin
from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.ops.spec import KernelSpec, Launch

_RESERVED_BYTES = 1024
"""Static shared memory that the toolchain reports on sm_90 and later, whatever a kernel declares."""


class KernelFacts(msgspec.Struct, frozen=True):
    """One kernel as compiled: its name, grid, warps a CTA, Resources, static shared memory and instructions.

    `ptx` and `sass` are its code.
    """

    name: str
    grid: tuple[int, ...]
    num_warps: int
    resources: Resources
    static_shared_bytes: int
    instructions: InstructionCounts
    ptx: str
    sass: str


def kernel_facts(spec: KernelSpec, problem: Problem, config: Config, target: Target) -> tuple[KernelFacts, ...]:
    """The kernels that a config launches, in order, compiled for `target`; none where a library does it all.

    Raises as `compiler.build.compile_config` does.
    """
    # Where ptxas fails, Triton prints the whole kernel; what of it is of use comes with the error.
    with contextlib.redirect_stdout(io.StringIO()):
        return tuple(_facts(launch, target) for launch in abstract_launches(spec, problem, config, target))


def reject_resources(resources: Resources, target: Target, *, may_spill: bool) -> Rejection | None:
    """Why a compiled config is not tried: it spills, or asks for more shared memory than a CTA can have.

    BASELINE and Before may spill: they are what everything is compared with, and what calls fall back to, whatever they
    are like. So may every config of an op that rejects none for it (`KernelSpec.rejects_spills`).
    """
    if resources.spills and not may_spill:
        return Rejection("spills", f"{resources.stack_bytes} bytes of stack a thread")
    if resources.shared_bytes > target.shared_bytes_per_cta:
        return Rejection(
            "shared_memory", f"compiled to {resources.shared_bytes} bytes, {target.shared_bytes_per_cta} are there"
        )
    return None


def _facts(launch: Launch, target: Target) -> KernelFacts:
    kernel = read_kernel(launch, target)
    sass = sass_of_cubin(kernel.compiled.asm["cubin"])
    static = kernel.static_shared_bytes - (_RESERVED_BYTES if target.sm >= 90 else 0)
    return KernelFacts(
        name=kernel.compiled.metadata.name,
        grid=launch.grid,
        num_warps=kernel.compiled.metadata.num_warps,
        resources=kernel.resources,
        static_shared_bytes=max(0, static),
        instructions=count_instructions(sass),
        ptx=str(kernel.compiled.asm["ptx"]),
        sass=sass,
    )
