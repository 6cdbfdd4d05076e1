"""What Triton's interpreter does again and again for nothing, done once. Needs nothing of the project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def spare(put: Callable[[Any, str, Any], None]) -> None:
    """Replace, by `put`, parts of the interpreter; of a Triton that has others, none."""
    _replace_language_once_a_launch(put)
    _find_overflow_at_once(put)


def _replace_language_once_a_launch(put: Callable[[Any, str, Any], None]) -> None:
    """The interpreter puts its own functions into `triton.language` at a launch, and takes them out after it.

    It does so again at each call that a kernel makes of a function, where they stand already: a third of its time.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    replace, scope_of = getattr(interpreter, "_patch_lang", None), getattr(interpreter, "_LangPatchScope", None)
    if replace is None or scope_of is None:
        return
    seen: set[frozenset[int]] = set()

    class Scope(scope_of):  # type: ignore[misc, valid-type]
        def restore(self) -> None:
            seen.clear()
            super().restore()

    def once(fn: Any) -> Any:
        # Which of both modules it reaches decides what is replaced.
        reached = frozenset(id(one) for one in fn.__globals__.values() if one is tl or one is tl.core)
        if reached in seen:
            return scope_of()
        made = replace(fn)
        seen.add(reached)
        return made

    put(interpreter, "_LangPatchScope", Scope)
    put(interpreter, "_patch_lang", once)


def _find_overflow_at_once(put: Callable[[Any, str, Any], None]) -> None:
    """The interpreter takes half its time to see whether sums and products of integers fit, and says nothing.

    Here it takes little, and is said.
    """
    from triton.language.semantic import TritonSemantic

    def check(self: Any, lhs: Any, rhs: Any, operation: Any) -> None:
        kind = lhs.type.scalar
        if kind.int_bitwidth >= 64 or not self.builder.options.sanitize_overflow:
            return
        exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[operation.__name__]
        made = exact(lhs.handle.data, rhs.handle.data, dtype=np.int64, casting="unsafe")
        fits = kind.get_int_min_value() <= made.min() and made.max() <= kind.get_int_max_value()
        assert fits, f"int{kind.int_bitwidth} overflow detected for operation {operation.__name__}"

    name = "binary_op_sanitize_overflow_impl"
    if hasattr(TritonSemantic, name):
        put(TritonSemantic, name, check)
