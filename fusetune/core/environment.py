"""Which GPU, and with what software: what must agree before a figure means the same elsewhere."""

from __future__ import annotations

from typing import Annotated

import msgspec


class TargetIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which GPU a file is for; all three must agree with the GPU at hand before an entry is used."""

    name: str
    capability: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+\.[0-9]+\Z")]
    sms: Annotated[int, msgspec.Meta(ge=1)]


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a measurement or a compilation ran with. None where it does not apply, as a driver for a prediction."""

    triton: str
    kernel_hash: str
    ptxas: str | None = None
    torch: str | None = None
    cuda: str | None = None
    driver: str | None = None
    clocks: str | None = None
