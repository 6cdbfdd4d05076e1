"""The roofline's two walls."""

from __future__ import annotations

import pytest

from fusetune.core.roofline import roofline
from fusetune.core.target import find_target
from tests.support.sample import make_problem

RTX_4090 = find_target("rtx4090")


def test_a_large_product_is_compute_bound_and_a_thin_one_memory_bound() -> None:
    problem = make_problem(1024, 8192, 8192, "float32")
    large = roofline(2.0 * 1024 * 8192 * 8192, 4.0 * (1024 * 8192 * 2 + 8192 * 8192), problem.kind, RTX_4090)
    thin = roofline(2.0 * 16 * 8192 * 8192, 4.0 * (16 * 8192 * 2 + 8192 * 8192), problem.kind, RTX_4090)
    assert (large.bound, thin.bound) == ("compute", "memory")
    assert large.time_us == large.compute_us == pytest.approx(1664, rel=0.01)
    assert thin.time_us == thin.memory_us == pytest.approx(267.5, rel=0.01)


def test_the_ridge_is_where_the_walls_meet() -> None:
    problem = make_problem(64, 64, 64, "float16")
    found = roofline(1e9, 1e9 / (165.2e12 / 1008e9), problem.kind, RTX_4090)
    assert found.intensity == pytest.approx(found.ridge) == pytest.approx(163.9, rel=0.001)
    assert found.compute_us == pytest.approx(found.memory_us)
