"""The list of GPUs: by NVML, by CUDA's driver where NVML cannot be asked, and what is told where there is none."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from fusetune.measure import gpus as gpus_module
from fusetune.measure.gpus import SeenGpu, SeenGpus, every_gpu
from tests.support.fake_nvml import FakeNvml

UUID = "GPU-01234567-89ab-cdef-0123-456789abcdef"
BY_CUDA = gpus_module._ByCuda(13000, (("NVIDIA H200", "0123456789abcdef0123456789abcdef", 1 << 37, 9, 0, 132),))


ANSWERS = {
    "nvmlSystemGetDriverVersion": "580.82.07",
    "nvmlSystemGetCudaDriverVersion": 13000,
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": "handle",
    "nvmlDeviceGetName": b"NVIDIA H200",
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150 << 30),
    "nvmlDeviceGetUUID": UUID,
    "nvmlDeviceGetMigMode": FakeNvml.NVMLError("Not Supported"),
}
"""Of an NVML of one GPU."""


def with_driver(monkeypatch: pytest.MonkeyPatch, by_cuda: Any = BY_CUDA, **answers: Any) -> SeenGpus:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**{**ANSWERS, **answers}))
    monkeypatch.setattr(gpus_module, "_by_cuda", lambda: by_cuda)
    return every_gpu()


def test_nvml_names_the_gpu_and_cuda_its_sms(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = SeenGpu("NVIDIA H200", "9.0", 132, 150 << 30)
    assert with_driver(monkeypatch) == SeenGpus("580.82.07", "13.0", (expected,))


def test_what_is_not_known_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = FakeNvml.NVMLError("Not Supported")
    asked = {"nvmlDeviceGetMemoryInfo": unknown, "nvmlSystemGetCudaDriverVersion": unknown}
    seen = with_driver(monkeypatch, gpus_module._ByCuda(), nvmlDeviceGetMigMode=(1, 1), **asked)
    assert seen == SeenGpus("580.82.07", None, (SeenGpu("NVIDIA H200", "9.0", None, None, mig=True),))


def test_where_nvml_cannot_be_asked_cuda_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = with_driver(monkeypatch, nvmlInit=FakeNvml.NVMLError("no library"))
    assert seen == SeenGpus(None, "13.0", (SeenGpu("NVIDIA H200", "9.0", 132, 1 << 37),))


def test_without_any_driver_the_reason_is_nvmls(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = with_driver(monkeypatch, gpus_module._ByCuda(), nvmlInit=FakeNvml.NVMLError("no library"))
    assert seen == SeenGpus(why_none="NVML: no library")


def test_a_driver_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = with_driver(monkeypatch, nvmlDeviceGetCount=0)
    assert seen == SeenGpus("580.82.07", "13.0", (), "NVML counts none")


@pytest.mark.parametrize("stdout", [b"", b"[]", b'{"gpus": [["a"]]}', b"Traceback"])
def test_an_answer_of_cuda_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch, stdout: bytes) -> None:
    monkeypatch.setattr("fusetune.measure.nvml.has_cuda_driver", lambda: True)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: SimpleNamespace(stdout=stdout))
    assert gpus_module._by_cuda() == gpus_module._ByCuda()
