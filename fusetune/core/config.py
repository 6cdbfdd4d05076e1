"""Config: how to launch. What every launch has; an op adds the constants that it lets vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from fusetune.core.values import NamedValues, Value

SAFE_WARPS: Final = 4
SAFE_STAGES: Final = 2
"""The warps and stages of BASELINE, and of every conservative config."""
OPTIONS: Final = ("num_warps", "num_stages", "num_ctas", "maxnreg")
"""What of a config goes to Triton as options of the launch; all else are constants of its kernels."""

ELSEWHERE: Final = "other_revision"
"""The constant that marks a config of another revision's kernels."""

LIBRARY: Final = "library"
"""The constant of a config that leaves the work to a library, and names it."""

C = TypeVar("C", bound="Config")


class VllmRow(msgspec.Struct, frozen=True):
    """A config as a row of a table in vLLM's form.

    `sizes` and `forms` belong to the table's name, before and after the GPU's; what is None there is left out. A reader
    takes the row of the nearest `size`, and finds `values` by vLLM's keys.
    """

    sizes: Mapping[str, Value]
    forms: Mapping[str, Value]
    size: int
    values: Mapping[str, int]


class Config:
    """Base of all configs, which are compared, hashed, ordered and never changed.

    An op's own type is a frozen, ordered msgspec.Struct beside this base, with fields num_warps, num_stages and its
    constants; NamedConfig serves every op that has none.
    """

    __slots__ = ()
    legend: ClassVar[str | None] = None
    """What the short words of `label` mean, for a reader of tables; None where labels explain themselves."""

    num_warps: int
    num_stages: int

    @property
    def num_ctas(self) -> int:
        """CTAs of a cluster."""
        return 1

    @property
    def maxnreg(self) -> int | None:
        """The most registers that a thread may have; None leaves that to the compiler."""
        return None

    @property
    def is_library(self) -> bool:
        """Whether somebody else's kernels compute, and warps and stages mean nothing."""
        return False

    @property
    def is_conservative(self) -> bool:
        """Whether it runs with the safe 4 warps and 2 stages, which are nothing of a library's."""
        return self.num_warps == SAFE_WARPS and self.num_stages == SAFE_STAGES and not self.is_library

    @property
    def library_name(self) -> str:
        """What a library's config does, for people."""
        return self.label()

    @property
    def is_elsewhere(self) -> bool:
        """Whether another revision's kernels are meant (`elsewhere`)."""
        return False

    def elsewhere(self: C) -> C:
        """The same config for another revision's kernels: equal to none of this one's."""
        raise NotImplementedError

    def here(self: C) -> C:
        """What `elsewhere` was called on."""
        raise NotImplementedError

    def constants(self) -> Mapping[str, Value]:
        """What varies beside the options of the launch, by name."""
        return {name: value for name, value in self.to_builtins().items() if name not in OPTIONS}

    def options(self) -> dict[str, int]:
        """What of it goes to Triton as options of the launch, by name."""
        asked = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        more = {"num_ctas": self.num_ctas if self.num_ctas != 1 else None, "maxnreg": self.maxnreg}
        return asked | {name: value for name, value in more.items() if value is not None}

    def label(self) -> str:
        """The config in one short word for tables: `BLOCK=1024 w4 s2`, with what differs from Triton's defaults."""
        parts = [f"{name}={value}" for name, value in self.constants().items()]
        parts += [f"w{self.num_warps}", f"s{self.num_stages}"]
        parts += [f"c{self.num_ctas}"] if self.num_ctas != 1 else []
        parts += [f"r{self.maxnreg}"] if self.maxnreg is not None else []
        return " ".join(parts)

    def vllm_row(self, problem: Any) -> VllmRow | None:
        """The config in vLLM's words, for a problem of its op; None, as here, where those have no place for it."""
        return None

    def to_builtins(self) -> dict[str, Any]:
        """The fields as YAML and JSON have them."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_builtins(cls: type[C], raw: Any) -> C:
        """A config of a mapping of YAML or JSON. Raises msgspec.ValidationError for what is none."""
        return msgspec.convert(raw, cls)


class NamedConfig(NamedValues, Config):
    """A config of an op without a type of its own: the options of a launch, and any named constants.

    Which values are admissible is the op's affair; here warps, stages and CTAs are at least 1.
    """

    __slots__ = ()
    _OWN: ClassVar[frozenset[str]] = frozenset(OPTIONS)

    def __init__(
        self,
        *,
        num_warps: int = SAFE_WARPS,
        num_stages: int = SAFE_STAGES,
        num_ctas: int = 1,
        maxnreg: int | None = None,
        **constants: Value,
    ) -> None:
        options = {"num_warps": num_warps, "num_stages": num_stages, "num_ctas": num_ctas, "maxnreg": maxnreg}
        for name, value in options.items():
            unset = name == "maxnreg" and value is None
            if not unset and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}, and has to be a whole number of at least 1")
        given = {name: value for name, value in options.items() if value != _UNSET.get(name, 0)}
        NamedValues.__init__(self, {**constants, **given})

    @property
    def num_ctas(self) -> int:
        """See Config."""
        return int(self._items.get("num_ctas", 1))  # type: ignore[arg-type]  # checked by the constructor

    @property
    def maxnreg(self) -> int | None:
        """See Config."""
        return self._items.get("maxnreg")  # type: ignore[return-value]  # checked by the constructor

    @classmethod
    def from_builtins(cls, raw: Any) -> NamedConfig:
        """See Config."""
        values = NamedValues.from_builtins(raw)
        try:
            return cls(**dict(values))  # type: ignore[arg-type]  # checked above and by the constructor
        except (TypeError, ValueError) as error:
            raise msgspec.ValidationError(str(error)) from error

    def constants(self) -> Mapping[str, Value]:
        """See Config."""
        return {name: value for name, value in self._items.items() if name not in OPTIONS}

    @property
    def is_library(self) -> bool:
        """Whether it has a constant `library`, which names somebody else's kernels."""
        return LIBRARY in self._items

    @property
    def library_name(self) -> str:
        """See Config."""
        return str(self._items.get(LIBRARY, self.label()))

    @property
    def is_elsewhere(self) -> bool:
        """See Config."""
        return ELSEWHERE in self._items

    def elsewhere(self) -> NamedConfig:
        """See Config."""
        return NamedConfig(**{**self._items, ELSEWHERE: True})  # type: ignore[arg-type]  # checked before

    def here(self) -> NamedConfig:
        """See Config."""
        return NamedConfig(**{name: value for name, value in self._items.items() if name != ELSEWHERE})  # type: ignore[arg-type]


_UNSET: Final[dict[str, int | None]] = {"num_ctas": 1, "maxnreg": None}
"""What is not written where a launch does not ask for it."""


def with_options(config: C, **options: int | None) -> C:
    """The config with other options of the launch."""
    if isinstance(config, NamedConfig):
        return type(config)(**{**dict(config), **options})  # type: ignore[arg-type]
    return msgspec.structs.replace(config, **options)  # type: ignore[type-var]
