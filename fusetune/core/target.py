"""Target: a GPU model's limits, from the table in targets.yaml."""

from __future__ import annotations

import functools
from importlib.resources import files

import msgspec
import yaml

from fusetune.core.near import did_you_mean
from fusetune.core.text import slugify
from fusetune.errors import UnknownTargetError


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU model's limits. Bytes are bytes; bandwidth is in 1e9 bytes a second, peaks in 1e12 dense FLOP a second.

    A figure that no document states is None, never guessed. `sources` says where each figure comes from.
    `aliases` are the short names that the command line takes.
    """

    name: str
    capability: str
    sms: int
    registers_per_sm: int
    max_warps_per_sm: int
    max_ctas_per_sm: int
    shared_bytes_per_sm: int
    shared_bytes_per_cta: int
    aliases: tuple[str, ...] = ()
    l2_bytes: int | None = None
    dram_gb_s: float | None = None
    boost_mhz: float | None = None
    tf32_tflops: float | None = None
    fp16_tflops: float | None = None
    bf16_tflops: float | None = None
    fp32_tflops: float | None = None
    memory_gib: float | None = None
    sources: dict[str, str] = {}

    @property
    def sm(self) -> int:
        """The capability as compilers write it: 89 for "8.9"."""
        return int(self.capability.replace(".", ""))

    @property
    def slug(self) -> str:
        """The folder under configs/ that belongs to this GPU: `nvidia-geforce-rtx-4090`."""
        return slugify(self.name)


DEFAULT_TARGET = "rtx4090"
_SHOWN = 80
"""Letters of a name that is not known."""


@functools.cache
def known_targets() -> tuple[Target, ...]:
    """Every target of targets.yaml, in the file's order."""
    text = files("fusetune.core").joinpath("targets.yaml").read_text(encoding="utf-8")
    # libyaml is ten times as fast, which each command waits for; PyYAML may be built without it.
    raw = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return tuple(msgspec.convert(item, Target) for item in raw["targets"])


def find_target(name: str) -> Target:
    """The target with this name, alias or folder name, whatever its case.

    Raises UnknownTargetError, which lists the short names.
    """
    wanted = slugify(name)
    for target in known_targets():
        if wanted in {target.slug, *map(slugify, target.aliases)}:
            return target
    known = ", ".join(target.aliases[0] for target in known_targets() if target.aliases)
    names = [alias for target in known_targets() for alias in (*target.aliases, target.slug)]
    near = did_you_mean(wanted, names)
    raise UnknownTargetError(f"target {name[:_SHOWN]!r} is not known; use one of: {known}{near}")


def match_target(gpu_name: str, capability: str, sms: int) -> Target | None:
    """The table's row for a GPU that a driver named, or None: name, capability and SM count must all agree.

    A GeForce RTX 4090 D is not a GeForce RTX 4090, so the name is compared whole.
    """
    for target in known_targets():
        same_name = slugify(target.name) == slugify(gpu_name)
        if same_name and target.capability == capability and target.sms == sms:
            return target
    return None
