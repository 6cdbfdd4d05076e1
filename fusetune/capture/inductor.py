"""Launches of what torch.compile has made, which do not pass Triton's JIT: they are counted by name.

Private part of torch that this relies on, the same in 2.9 to 2.13: `CachingAutotuner.run` of
torch._inductor.runtime.triton_heuristics makes each of inductor's launches, the program's own kernels among them where
torch.compile has taken them in. The module is watched once the program has it imported.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Final

from fusetune.capture.patching import Patches

MODULE: Final = "torch._inductor.runtime.triton_heuristics"


def when_imported(name: str, then: Callable[[ModuleType], None]) -> Callable[[], None]:
    """Call `then` with a module: now, or as soon as it is imported. What is returned ends the waiting."""
    module = sys.modules.get(name)
    if module is not None:
        then(module)
        return lambda: None
    finder = _Finder(name, then)
    sys.meta_path.insert(0, finder)

    def end() -> None:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)

    return end


def around_launchers(patches: Patches, around: Callable[[str], AbstractContextManager[Any]]) -> None:
    """Have inductor's launchers, as soon as there are any, launch within `around(name)` until `patches` are closed."""

    def watch(module: Any) -> None:
        maker = getattr(module, "CachingAutotuner", None)
        if maker is None or not callable(getattr(maker, "run", None)):
            return
        own: Callable[..., Any] = maker.run

        @functools.wraps(own)
        def run(launcher: Any, /, *args: Any, **named: Any) -> Any:
            with around(name_of(launcher)):
                return own(launcher, *args, **named)

        patches.put(maker, "run", run)

    patches.callback(when_imported(MODULE, watch))


def name_of(launcher: Any) -> str:
    """What inductor calls the kernel of one of its launchers."""
    about = getattr(launcher, "inductor_meta", None) or {}
    return str(about.get("kernel_name") or getattr(getattr(launcher, "fn", None), "__name__", "a kernel"))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as the others do, with a loader that tells when it is there."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then, self._asked = name, then, False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name or self._asked:
            return None
        self._asked = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asked = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._then)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads as another does, which the module then has as its own."""

    def __init__(self, own: importlib.abc.Loader, then: Callable[[ModuleType], None]) -> None:
        self._own, self._then = own, then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        self._then(module)
