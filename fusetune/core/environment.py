"""Which GPU, and with what software: what must agree before a figure means the same elsewhere."""

from __future__ import annotations

from typing import Annotated

import msgspec


class TargetIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which GPU a file is for; all three must agree with the GPU at hand before an entry is used."""

    name: str
    """As the driver names it: NVIDIA H200."""
    capability: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+\.[0-9]+\Z")]
    """Its compute capability, as 9.0."""
    sms: Annotated[int, msgspec.Meta(ge=1)]
    """Its streaming multiprocessors."""


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a measurement or a compilation ran with. None where it does not apply, as a driver for a prediction."""

    triton: str
    """Version of Triton."""
    kernel_hash: str
    """Hash of the code of the kernels and of all that they call: another one, and the entry is not used."""
    ptxas: str | None = None
    """Version of the assembler."""
    torch: str | None = None
    """Version of PyTorch."""
    cuda: str | None = None
    """The CUDA that PyTorch was built for."""
    driver: str | None = None
    """Version of the driver."""
    clocks: str | None = None
    """Whether the clocks were locked, and where."""
