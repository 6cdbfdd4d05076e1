"""The GPUs of this machine as `fusetune env` lists them."""

from __future__ import annotations

import pytest

from fusetune.measure.gpus import every_gpu

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_the_gpu_of_this_process_is_listed_with_its_figures() -> None:
    here = torch.cuda.get_device_properties(0)
    seen = every_gpu()
    assert seen.driver
    assert seen.cuda
    assert seen.why_none is None
    (found,) = {gpu for gpu in seen.gpus if gpu.name == here.name and not gpu.mig}
    assert found.capability == f"{here.major}.{here.minor}"
    assert found.sms == here.multi_processor_count
    assert found.memory_bytes is not None
    assert found.memory_bytes >= here.total_memory
