"""Which of a profile's events are kernels, and how much of them is Triton's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fusetune.capture.gpu_share import GpuTime, time_of, us_by_name


def event(name: str, us: float, device: str = "CUDA", **more: Any) -> SimpleNamespace:
    span = SimpleNamespace(elapsed_us=lambda: us)
    return SimpleNamespace(name=name, device_type=SimpleNamespace(name=device), time_range=span, **more)


def test_kernels_count_and_copies_the_host_and_a_user_s_ranges_do_not():
    events = [
        event("softmax", 3.0),
        event("softmax", 4.0, is_user_annotation=False),
        event("ampere_sums", 5.0),
        event("Memcpy HtoD (Pageable -> Device)", 9.0),
        event("Memset (Device)", 9.0),
        event("cudaLaunchKernel", 9.0, device="CPU"),
        event("my range", 9.0, is_user_annotation=True),
    ]
    assert us_by_name(events) == {"softmax": 7.0, "ampere_sums": 5.0}
    found = time_of(us_by_name(events), {"softmax", "never_seen"})
    assert found == GpuTime(12.0, 7.0)
    assert found.triton_share == 7.0 / 12.0


def test_without_a_kernel_of_triton_s_in_the_profile_there_is_no_share():
    assert GpuTime(0.0, 0.0).triton_share is None
    assert GpuTime(12.0, 0.0).triton_share is None
