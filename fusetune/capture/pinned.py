"""A launch as pins have it: what it takes to compile a kernel of a program again, without the program or a capture.

No data is in it: of a tensor its dtype and alignment, of all else the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec

from fusetune.capture.from_source import KernelSource
from fusetune.capture.kept import TypeKept
from fusetune.capture.restore import type_of
from fusetune.core.config import OPTIONS, Config
from fusetune.core.dtypes import element_type
from fusetune.core.problem import Problem
from fusetune.errors import UsageError
from fusetune.ops.parameters import completed, unfit
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import AbstractTensor, KernelSpec, Launch, Operand, TileDescriptor

_PLAIN: Final = (bool, int, float, str, type(None))
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class NotPinnedError(Exception):
    """A launch that cannot be pinned, with the reason as half a sentence."""


class ArgumentPinned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An argument that is no plain value: a tensor by its dtype, a dtype that was given, or the items of a tuple.

    `aligned`: the tensor begins on 16 bytes. `block` is the tile that a descriptor of it moves, of a tensor of `shape`;
    `rounds`: it rounds float32 to TF32.
    """

    tensor: Name | None = None
    aligned: bool = True
    shape: tuple[int, ...] = ()
    block: tuple[int, ...] | None = None
    rounds: bool = False
    type: Name | None = None
    items: tuple[Pinned, ...] | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.tensor, self.type, self.items)) != 1:
            raise ValueError("an argument has one of `tensor`, `type` and `items`")
        if self.tensor is not None:
            _known_dtype(self.tensor)


def _known_dtype(name: str) -> None:
    """Raise ValueError, to which msgspec adds the place, for a dtype that no kernel can be given."""
    try:
        element_type(name)
    except UsageError as error:
        raise ValueError(str(error)) from None


Pinned = bool | int | float | str | None | ArgumentPinned


class LaunchPinned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The arguments of one config's launch by name, constants too, and its options beside those of the config."""

    arguments: dict[str, Pinned]
    options: dict[str, bool | int | float | str | None] = {}


def launch_pinned(launch: Launch) -> LaunchPinned:
    """What of a launch is pinned. Raises NotPinnedError for an argument that has no place in a file."""
    given = completed(launch)
    try:
        arguments = {name: _pinned(name, value) for name, value in {**given.arguments, **given.constants}.items()}
    except ValueError as error:
        raise NotPinnedError(str(error)) from error
    options = {name: value for name, value in launch.options.items() if name not in OPTIONS}
    for name, value in options.items():
        if type(value) not in _PLAIN:
            raise NotPinnedError(f"it is launched with the option {name}, which no file can hold")
    return LaunchPinned({name: arguments[name] for name in given.kernel.arg_names if name in arguments}, options)


def _pinned(name: str, value: Any) -> Pinned:
    if type(value) in _PLAIN:
        found: Pinned = value
    elif isinstance(value, AbstractTensor):
        found = ArgumentPinned(tensor=value.dtype, aligned=value.aligned)
    elif isinstance(value, TileDescriptor):
        of, block = value.tensor, tuple(value.block_shape)
        found = ArgumentPinned(
            tensor=of.dtype, aligned=of.aligned, shape=tuple(of.shape), block=block, rounds=value.rounds
        )
    elif type(value) is tuple:
        items = (_pinned(f"{name}.{number}", one) for number, one in enumerate(value))
        found = ArgumentPinned(items=tuple(items))
    elif type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        found = ArgumentPinned(type=str(value))
    elif type(value).__name__ == "dtype" and hasattr(value, "name"):
        found = ArgumentPinned(type=value.name)
    else:
        raise NotPinnedError(f"its argument {name} is {type(value).__name__}, which no file can hold")
    return found


class PinnedSpec(KernelSpec):
    """A kernel of a program as its file has it now, launched as pins say: to be compiled, and not to be run.

    `launches` has them by problem and config.
    """

    rejects_spills = False

    def __init__(
        self, name: str, source: KernelSource, launches: Mapping[tuple[Problem, Config], LaunchPinned]
    ) -> None:
        self.name, self._source, self._launches = name, source, dict(launches)

    def pinned(self, problem: Problem, config: Config) -> LaunchPinned:
        """The launch as it is pinned."""
        return self._launches[problem, config]

    def with_launches(self, launches: Mapping[tuple[Problem, Config], LaunchPinned]) -> PinnedSpec:
        """The same with these launches in the place of its own, or beside them."""
        return PinnedSpec(self.name, self._source, {**self._launches, **launches})

    def operands(self, problem: Any) -> tuple[Operand, ...]:
        """See KernelSpec: none, as its launches bring their own."""
        return ()

    def baseline(self, problem: Any) -> Config:
        """See KernelSpec: not known here."""
        raise CannotLaunchError(f"pins of {self.name} do not say its BASELINE")

    def source_hash(self, config: Any = None) -> str:
        """See KernelSpec: of the file as it is now."""
        return self._source.source_hash

    def unfit(self, problem: Problem, config: Config) -> str | None:
        """Why the kernel, as it is now, cannot be launched as that config is pinned; None where it can.

        Raises CaptureError where the kernel cannot be loaded.
        """
        found = self._launches.get((problem, config))
        if found is None:
            return f"no pin says how {self.name} is launched with {config.label()}"
        return unfit(self._source.load(), found.arguments)

    def launches(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        """See KernelSpec. Raises CannotLaunchError where the kernel has other parameters by now."""
        why = self.unfit(problem, config)
        if why is not None:
            raise CannotLaunchError(why)
        found, kernel = self._launches[problem, config], self._source.load()
        constexprs = {one.name for one in kernel.params if one.is_constexpr}
        arguments: dict[str, Any] = {}
        constants: dict[str, Any] = {}
        for name, one in found.arguments.items():
            (constants if name in constexprs else arguments)[name] = _argument(one)
        options = {**found.options, **config.options()}
        return (completed(Launch(kernel, (1,), arguments, constants, options, by_jit=True)),)


def _argument(pinned: Pinned) -> Any:
    if not isinstance(pinned, ArgumentPinned):
        return pinned
    if pinned.items is not None:
        return tuple(_argument(one) for one in pinned.items)
    if pinned.type is not None:
        return _type_of(pinned.type)
    tensor = AbstractTensor(pinned.shape, str(pinned.tensor), aligned=pinned.aligned)
    return tensor if pinned.block is None else TileDescriptor(tensor, pinned.block, pinned.rounds)


def _type_of(name: str) -> Any:
    """The dtype of that name, of torch or of Triton; a file names nothing else there."""
    try:
        made = type_of(TypeKept(name))
    except (AttributeError, AssertionError, ValueError, RuntimeError) as error:
        raise CannotLaunchError(f"there is no dtype {name!r}") from error
    if type(made).__name__ != "dtype":
        raise CannotLaunchError(f"{name!r} is no dtype")
    return made
