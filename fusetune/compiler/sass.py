"""Counts of a cubin's instructions by what they are for, read from its SASS."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from fusetune.compiler.build import run_on_cubin
from fusetune.errors import CompileError

_INSTRUCTION: Final = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+\{?\s*(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_]*)(?P<suffix>[.\w]*)", re.MULTILINE
)
"""A line such as `/*0a30*/  @!P0 LDL.LU.64 R4, [R1+0x8] ;`: an address, perhaps a predicate, opcode and modifiers."""

_KINDS: Final[dict[str, str]] = {
    **dict.fromkeys(("HMMA", "IMMA", "DMMA", "QMMA", "OMMA", "BMMA"), "mma"),
    **dict.fromkeys(("HGMMA", "IGMMA", "QGMMA", "BGMMA"), "wgmma"),
    **dict.fromkeys(("UTCHMMA", "UTCIMMA", "UTCQMMA", "UTCOMMA"), "tcgen05_mma"),
    "LDSM": "ldmatrix",
    "STSM": "stmatrix",
    "LDGSTS": "cp_async",
    "UTMALDG": "tma_load",
    "UTMASTG": "tma_store",
    "LDG": "global_load",
    "STG": "global_store",
    "LDS": "shared_load",
    "STS": "shared_store",
    "LDL": "local_load",
    "STL": "local_store",
    "BAR": "barrier",
    **dict.fromkeys(("ATOM", "ATOMG", "ATOMS", "RED", "REDG"), "atomic"),
}
"""Which field of InstructionCounts counts an opcode; the names are those of NVIDIA's cuda-binary-utilities manual."""

_WIDTH: Final = re.compile(r"\.(U8|S8|U16|S16|64|128)(?:\.|$)")
_WIDTH_BYTES: Final = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
_WORD_BYTES: Final = 4


class InstructionCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many instructions of each kind a kernel's code holds; a loop's body counts once, unless it was unrolled.

    mma: tensor-core products from registers (mma.sync); wgmma and tcgen05_mma: those of sm_90 and sm_100 from shared
    memory. ldmatrix and stmatrix move tiles between shared memory and registers. cp_async copies from global to shared
    memory past the registers; tma_load and tma_store are the copy engine's. local_load and local_store are what a spill
    costs, spill_load_bytes and spill_store_bytes the bytes a thread that those move. total: all instructions, the
    padding (NOP) after the last one left out.
    """

    total: int = 0
    mma: int = 0
    wgmma: int = 0
    tcgen05_mma: int = 0
    ldmatrix: int = 0
    stmatrix: int = 0
    cp_async: int = 0
    tma_load: int = 0
    tma_store: int = 0
    global_load: int = 0
    global_store: int = 0
    shared_load: int = 0
    shared_store: int = 0
    local_load: int = 0
    local_store: int = 0
    spill_load_bytes: int = 0
    spill_store_bytes: int = 0
    barrier: int = 0
    atomic: int = 0

    @property
    def tensor_core(self) -> int:
        """Tensor-core instructions of any generation."""
        return self.mma + self.wgmma + self.tcgen05_mma

    @property
    def spill_bytes(self) -> int:
        """Bytes a thread that spills store and load, as far as the code tells."""
        return self.spill_store_bytes + self.spill_load_bytes


def instructions_of_cubin(cubin: bytes) -> InstructionCounts:
    """The instructions of the one kernel in a cubin.

    Raises CompileError where cuobjdump finds no code, MachineError where it cannot do its work.
    """
    return count_instructions(sass_of_cubin(cubin))


def sass_of_cubin(cubin: bytes) -> str:
    """The machine code of a cubin as cuobjdump prints it.

    Raises CompileError where cuobjdump cannot read it, MachineError where it cannot do its work.
    """
    done = run_on_cubin("-sass", cubin)
    if done.returncode != 0 or "Function :" not in done.stdout:
        raise CompileError(f"cuobjdump could not disassemble the kernel: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def count_instructions(sass: str) -> InstructionCounts:
    """The counts of a listing by cuobjdump or nvdisasm."""
    counts: Counter[str] = Counter()
    for found in _INSTRUCTION.finditer(sass):
        opcode, suffix = found["opcode"], found["suffix"]
        if opcode == "NOP":
            continue
        counts["total"] += 1
        kind = _KINDS.get(opcode)
        if kind is not None:
            counts[kind] += 1
        if kind in {"local_load", "local_store"}:
            counts[f"spill_{kind.removeprefix('local_')}_bytes"] += _bytes_moved(suffix)
    return InstructionCounts(**counts)


def sum_counts(counts: Iterable[InstructionCounts]) -> InstructionCounts:
    """The counts of several kernels together, as those of one config's launches."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(msgspec.structs.asdict(one))
    return InstructionCounts(**total)


def _bytes_moved(suffix: str) -> int:
    """What a load or store with these modifiers moves a thread: 4 bytes unless one of them says otherwise."""
    width = _WIDTH.search(suffix)
    return _WIDTH_BYTES[width[1]] if width else _WORD_BYTES
