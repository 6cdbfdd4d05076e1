"""What looks over the interpreter's shoulder, spares it work, and starts programs without waiting for it to load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.warm import warm_python


@pytest.fixture(scope="session", autouse=True)
def _language_replaced_once_a_launch() -> Iterator[None]:
    """Triton's interpreter puts its own functions into `triton.language` at a launch, and takes them out after it.

    It does so again at each call that a kernel makes of a function, where they stand already: a third of its time.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    replace, scope_of = getattr(interpreter, "_patch_lang", None), getattr(interpreter, "_LangPatchScope", None)
    if replace is None or scope_of is None:  # Another Triton, by its own ways.
        yield
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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_LangPatchScope", Scope)
        patch.setattr(interpreter, "_patch_lang", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _overflow_found_at_once() -> Iterator[None]:
    """Triton's interpreter takes half its time to see whether sums and products of integers fit, and says nothing.

    Here it takes little, and is said.
    """
    from triton.language.semantic import TritonSemantic

    name = "binary_op_sanitize_overflow_impl"

    def check(self: Any, lhs: Any, rhs: Any, operation: Any) -> None:
        kind = lhs.type.scalar
        if kind.int_bitwidth >= 64 or not self.builder.options.sanitize_overflow:
            return
        exact = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[operation.__name__]
        made = exact(lhs.handle.data, rhs.handle.data, dtype=np.int64, casting="unsafe")
        fits = kind.get_int_min_value() <= made.min() and made.max() <= kind.get_int_max_value()
        assert fits, f"int{kind.int_bitwidth} overflow detected for operation {operation.__name__}"

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(TritonSemantic, name):
            patch.setattr(TritonSemantic, name, check)
        yield


@pytest.fixture(scope="module")
def programs_are_forked():
    """Processes that are started by sys.executable find torch and triton loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python())
        yield


@pytest.fixture
def in_bounds(monkeypatch):
    """A list of tensors to name: whatever the kernel then reads or writes has to lie in one of them."""
    try:
        from triton.runtime.interpreter import InterpreterBuilder

        originals = {name: getattr(InterpreterBuilder, name) for name in ("create_masked_load", "create_masked_store")}
    except (ImportError, AttributeError) as error:
        pytest.skip(f"this Triton's interpreter has other private names: {error}")
    tensors: list[torch.Tensor] = []

    def checked(original, mask_at):
        def access(self, pointers, *rest, **named):
            wanted = pointers.data[rest[mask_at].data]
            inside = [(t.data_ptr() <= wanted) & (wanted < t.data_ptr() + t.nbytes) for t in tensors]
            assert sum(inside).all(), "an address outside every operand"
            return original(self, pointers, *rest, **named)

        return access

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", checked(originals["create_masked_load"], 0))
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", checked(originals["create_masked_store"], 1))
    return tensors
