"""The judge of KernelBench's problems: what passes and what does not, with products as the GPU rounds them."""

from __future__ import annotations

from collections.abc import Callable

import kernelbench
import pytest
import torch
from kernelbench import Model, judged, made, seeds
from torch.nn import functional

COLUMNS = 48
"""Of the thousands: each is normalized by itself."""


def bf16x3(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Three products of numbers in bfloat16, and what these leave out; sums in float32."""
    (high_x, low_x), (high_w, low_w) = _parts(x), _parts(w)
    return low_x @ high_w.T + high_x @ low_w.T + high_x @ high_w.T


def tf32(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Products of numbers with ten bits behind the first."""
    return _rounded(x) @ _rounded(w).T


def _parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    high = x.bfloat16().float()
    return high, (x - high).bfloat16().float()


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return ((x.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


class Fast(Model):
    """The model with other products."""

    def __init__(self, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *sizes: object) -> None:
        super().__init__(*sizes)  # type: ignore[arg-type]
        self.product = product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn((self.product(x, self.gemm.weight) + self.gemm.bias) * self.scale)


def trials(number: int, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], count: int) -> list[dict]:
    M, K, _ = kernelbench.PROBLEMS[number]
    M = min(M, 256)  # More rows only tell the variance better.
    with torch.no_grad():
        model, fast = made(Model, K, COLUMNS), made(lambda *sizes: Fast(product, *sizes), K, COLUMNS)
        return [judged(seed, model, fast, (M, K), "cpu") for seed in seeds()[:count]]


@pytest.mark.parametrize("number", kernelbench.PROBLEMS)
def test_products_in_three_parts_pass_all_trials(number: int) -> None:
    found = trials(number, bf16x3, kernelbench.TRIALS)
    assert len({trial["seed"] for trial in found}) == kernelbench.TRIALS
    assert all(trial["passes"] for trial in found)
    assert 0 < max(trial["share_of_tolerance"] for trial in found) < 0.8


def test_tf32_does_not() -> None:
    (found,) = trials(33, tf32, 1)
    assert not found["passes"]
    assert found["share_of_tolerance"] > 1
    assert found["max_error"] > kernelbench.TOLERANCE


def test_what_is_the_same_takes_nothing_of_the_tolerance() -> None:
    (found,) = trials(33, functional.linear, 1)
    assert found["passes"]
    assert found["share_of_tolerance"] < 0.1
