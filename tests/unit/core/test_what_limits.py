"""Which of the two walls limits a kernel, in words."""

from __future__ import annotations

import pytest

from fusetune.core.bound import bound_by
from fusetune.core.roofline import roofline
from fusetune.core.target import find_target

ADA = find_target("rtx4090")


@pytest.mark.parametrize(("flops", "compute"), [(1e12, True), (1e6, False)])
def test_the_higher_wall_decides_and_both_intensities_are_told(flops: float, compute: bool) -> None:
    found = bound_by(roofline(flops, 1e8, "tf32", ADA))
    assert found.compute is compute
    assert found.name == ("compute-bound" if compute else "memory-bound")
    assert f"{flops / 1e8:.3g} FLOP a byte" in found.why
    assert "meet at 81.9" in found.why


def test_operations_that_nobody_counted_leave_the_bytes_and_it_is_said() -> None:
    found = bound_by(roofline(0.0, 1e8, None, ADA))
    assert not found.compute
    assert "not counted" in found.why
