"""Which GPUs `--gpus` takes, and that each has one worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.fleet.gpus import chosen_gpus
from fusetune.fleet.holding import HELD, held_for_workers
from tests.support.fake_nvml import FakeNvml


def with_lost(*lost: int) -> Callable[[int], int]:
    """The answer for a GPU's handle where some have fallen off the bus."""

    def handle(index: int) -> int:
        if index in lost:
            raise FakeNvml.NVMLError("GPU is lost")
        return index

    return handle


def mig(index: int) -> tuple[int, int]:
    if index == 2:
        return 1, 1
    raise FakeNvml.NVMLError("Not Supported")


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A driver with four GPUs, of which the third is divided."""
    fake = FakeNvml(
        nvmlDeviceGetCount=4,
        nvmlDeviceGetHandleByIndex=with_lost(),
        nvmlDeviceGetMigMode=mig,
        nvmlDeviceGetCudaComputeCapability=(9, 0),
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}{index}aa-bb",
        nvmlDeviceGetName=b"NVIDIA H200",
        nvmlSystemGetDriverVersion="580.159.04",
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def numbers(asked: str) -> list[int]:
    return [gpu.index for gpu in chosen_gpus(asked)]


def test_all_are_those_that_are_whole() -> None:
    assert numbers("all") == [0, 1, 3]
    assert numbers("3, 0,3") == [0, 3]


def test_a_gpu_is_known_by_uuid_name_capability_and_driver() -> None:
    (gpu,) = chosen_gpus("1")
    assert (gpu.uuid, gpu.name, gpu.capability, gpu.driver) == ("GPU-11aa-bb", "NVIDIA H200", "9.0", "580.159.04")


@pytest.mark.parametrize(("visible", "seen"), [("1,3", [1, 3]), ("GPU-33aa", [3]), ("0", [0])])
def test_what_the_environment_hides_is_not_taken(
    visible: str, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert numbers("all") == seen


@pytest.mark.parametrize("asked", ["", "0;1", "first", "0,-1", "²"])
def test_what_is_no_list_of_numbers_is_refused_with_an_example(asked: str) -> None:
    with pytest.raises(UsageError, match="as in --gpus 0,1"):
        chosen_gpus(asked)


def test_a_gpu_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no GPU 4 here; there are 0, 1, 3"):
        chosen_gpus("0,4")


def test_a_gpu_that_is_there_and_cannot_be_used_is_told_with_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"GPU 2 cannot be used: it is divided by MIG.*; there are 0, 1, 3"):
        chosen_gpus("0,2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UsageError, match="GPU 1 cannot be used: CUDA_VISIBLE_DEVICES is '0'; there are 0"):
        chosen_gpus("1")


def test_a_gpu_that_fell_off_the_bus_leaves_the_others_to_the_fleet(nvml: FakeNvml) -> None:
    nvml.answers["nvmlDeviceGetHandleByIndex"] = with_lost(1)
    assert numbers("all") == [0, 3]
    with pytest.raises(UsageError, match=r"GPU 1 cannot be used: it does not answer \(GPU is lost\); there are 0, 3"):
        chosen_gpus("0,1")
    nvml.answers["nvmlDeviceGetHandleByIndex"] = with_lost(0, 1, 3)
    with pytest.raises(NoUsableGpuError, match=r"GPU 0: it does not answer \(GPU is lost\).*GPU 2: it is divided"):
        chosen_gpus("all")


def test_without_a_gpu_it_is_said_why(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(NoUsableGpuError, match="CUDA_VISIBLE_DEVICES is '7'"):
        chosen_gpus("all")
    nvml.answers["nvmlDeviceGetCount"] = 0
    with pytest.raises(NoUsableGpuError, match="NVML shows no GPU"):
        chosen_gpus("all")


def test_two_workers_on_one_gpu_are_refused(tmp_path: Path) -> None:
    with held_for_workers(["GPU-1", "GPU-2"], tmp_path):
        with (
            pytest.raises(NoUsableGpuError, match=f"GPU-2 has a worker of fusetune already, process {os.getpid()}"),
            held_for_workers(["GPU-3", "GPU-2"], tmp_path),
        ):
            pass
        with held_for_workers(["GPU-3"], tmp_path):
            pass
    with held_for_workers(["GPU-2"], tmp_path):
        pass


def test_what_a_parent_holds_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_for_workers(["GPU-1"], tmp_path):
        monkeypatch.setenv(HELD, "GPU-0,GPU-1")
        with held_for_workers(["GPU-1"], tmp_path):
            pass


def test_who_holds_a_gpu_is_written_through_no_link(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("of somebody else\n")
    (tmp_path / "fusetune-worker-GPU-1.pid").symlink_to(theirs)
    with held_for_workers(["GPU-1"], tmp_path):
        pass
    assert theirs.read_text() == "of somebody else\n"
