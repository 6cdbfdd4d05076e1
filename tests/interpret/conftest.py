"""What looks over the interpreter's shoulder, spares it work, and starts programs without waiting for it to load."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from tests.support.spared import spare
from tests.support.warm import warm_python


@pytest.fixture(scope="session", autouse=True)
def _spared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        spare(patch.setattr)
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
