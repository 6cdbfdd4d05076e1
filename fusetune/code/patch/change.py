"""What is wanted of one launch: where it stands, what runs, and what is to run instead."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Final

import msgspec

OPTIONS: Final = {"num_warps": 4, "num_stages": 3, "num_ctas": 1, "maxnreg": None}
"""What a launch may be given beside constants, with what Triton takes where it is not."""


class Launched(msgspec.Struct, frozen=True, omit_defaults=True):
    """A launch by where it stands in the program's source. Lines count from 1, `column` in bytes from 0; -1: not known.

    `kernel` is the kernel's name, `kernel_line` that of its first decorator or `def`, `parameters` its parameters in
    order, `given` the options that it was given. `names` are the plain values that names had where it was launched.
    `listed` are the constants and options that an autotune list gives, `computed` those that heuristics do, `follows`
    the constants that the grid follows. `following` has, by each argument that the source computes from constants or
    gives the value of one, the expression over these. `hooked`: a config of that list has a pre_hook. `modules` has the
    files of the program's own modules by name.
    """

    file: str
    line: int
    kernel: str
    kernel_file: str
    kernel_line: int
    parameters: tuple[str, ...] = ()
    column: int = -1
    given: tuple[str, ...] = ()
    names: Mapping[str, Any] = {}
    listed: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    following: Mapping[str, str] = {}
    hooked: bool = False
    modules: Mapping[str, str] = {}

    def leads(self, name: str) -> frozenset[str]:
        """The names that an argument which follows is computed from; none of any other."""
        text = self.following.get(name)
        nodes = ast.walk(ast.parse(text)) if text else ()
        return frozenset(one.id for one in nodes if isinstance(one, ast.Name))

    def goes_with(self, name: str) -> str | None:
        """The constant whose very value an argument has; None of any other."""
        text = self.following.get(name)
        return text if text and text.isidentifier() else None


class Accepted(msgspec.Struct, frozen=True):
    """Constants and options that a case was found right and no slower with; `share` is the time, over what runs."""

    values: Mapping[str, Any]
    share: float = 1.0


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """Constants and options of one case of a launch: `before` as it runs, `wanted` as it is to run; both are whole.

    `tried` are the configs that `@triton.autotune` is left with, the chosen one first; none: the launch is fixed.
    `key` and `restored` are what a new decorator is given: parameters that say which launches are alike, and pointers
    whose tensors each trial has to get back; it cannot give back `unrestored`, which are no parameters or no tensors.
    `accepts` are what else is right for this case, and `wanted` with its time; `choice` is what it is to have in a list
    that all cases of its kernel choose from, and BASELINE. `us` is the case's time in the program. `comment` is written
    above what is changed. With `looks_up` an autotune list stays as it is, and its decorator looks the config up. Of an
    `untuned` case nobody knows what else is right. One that `stays` is predicted to have nothing to try: the safe
    config is the code that runs.
    """

    launch: Launched
    before: Mapping[str, Any]
    wanted: Mapping[str, Any]
    tried: tuple[Mapping[str, Any], ...] = ()
    key: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    unrestored: tuple[str, ...] = ()
    accepts: tuple[Accepted, ...] = ()
    choice: tuple[Mapping[str, Any], ...] = ()
    us: float = 0.0
    comment: tuple[str, ...] = ()
    looks_up: bool = False
    untuned: bool = False
    stays: bool = False

    def changed(self) -> dict[str, Any]:
        """The constants and options that are to be other than they are."""
        return {name: value for name, value in self.wanted.items() if value != self.before.get(name, OPTIONS.get(name))}

    def chosen(self) -> dict[str, Any]:
        """The same without what the source computes from these: that is another value in each case."""
        following = self.launch.following
        return {name: value for name, value in self.changed().items() if name not in following}

    def describe(self) -> str:
        """`BLOCK 1024 -> 2048, num_warps 4 -> 8`."""
        return ", ".join(
            f"{name} {self.before.get(name, OPTIONS.get(name))} -> {value}" for name, value in self.changed().items()
        )
