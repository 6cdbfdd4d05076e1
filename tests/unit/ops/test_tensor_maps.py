"""Descriptors of the copy engine by address: made once, and in threads that CUDA does not know yet."""

from __future__ import annotations

from typing import Any

import pytest

from fusetune.ops import direct
from fusetune.ops.direct import MOST_TENSOR_MAPS


class Encoder:
    """Encodes an address as text; the first `failures` calls fail with `message`."""

    def __init__(self, failures: int = 0, message: str = "") -> None:
        self.calls, self.failures, self.message = 0, failures, message

    def __call__(self, pointer: int) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise RuntimeError(self.message)
        return f"map of {pointer}"


def maps_over(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> Any:
    monkeypatch.setattr(direct, "_encoder", lambda descriptor, meta: encoder)
    return direct._TensorMaps(None, {})  # type: ignore[arg-type]


def test_an_address_is_encoded_once_and_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder()
    maps = maps_over(monkeypatch, encoder)
    assert maps[16] == maps[16] == "map of 16"
    assert encoder.calls == 1
    for pointer in range(3 * MOST_TENSOR_MAPS):
        assert maps[16 * pointer] == f"map of {16 * pointer}"
        assert len(maps) <= MOST_TENSOR_MAPS


def test_a_thread_without_a_context_gets_one_and_the_address_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[None] = []
    monkeypatch.setattr(direct, "_make_context_current", lambda: made.append(None))
    words = "Triton Error [CUDA]: Failed to create tensor map descriptor: invalid device context"
    maps = maps_over(monkeypatch, Encoder(1, words))
    assert maps[32] == "map of 32"
    assert len(made) == 1


@pytest.mark.parametrize(
    ("failures", "message"), [(2, "... invalid device context"), (1, "Triton Error [CUDA]: invalid argument")]
)
def test_what_a_context_does_not_mend_is_told_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, failures: int, message: str
) -> None:
    monkeypatch.setattr(direct, "_make_context_current", lambda: None)
    maps = maps_over(monkeypatch, Encoder(failures, message))
    with pytest.raises(RuntimeError, match=r"invalid (device context|argument)"):
        maps[48]
    assert not len(maps)
