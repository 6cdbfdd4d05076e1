"""What the driver says of the GPU; a stand-in takes the place of its library."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from fusetune.measure import nvml as nvml_module
from fusetune.measure.nvml import GpuState, Monitor, gpu_present, visible_gpu
from tests.support.fake_nvml import FakeNvml

UUID = "1111-aaaa"


ANSWERS = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByUUID": "handle",
    "nvmlDeviceGetHandleByIndex": "handle",
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetPowerUsage": 420_500,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlSystemGetDriverVersion": "580.159.04",
}
"""Of a driver that knows one GPU."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(**ANSWERS)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml_module, "_counted_by_cuda", lambda: 0)
    return fake


@pytest.fixture
def monitor(nvml: FakeNvml) -> Monitor:
    return Monitor(UUID)


def process(pid: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid)


# --- the state of the GPU


@pytest.mark.parametrize("uuid", ["1111-aaaa", "GPU-1111-aaaa"])
def test_the_gpu_is_the_one_of_the_uuid_with_or_without_its_prefix(nvml: FakeNvml, uuid: str) -> None:
    Monitor(uuid)
    assert ("nvmlDeviceGetHandleByUUID", "GPU-1111-aaaa") in nvml.asked


def test_the_state_is_given_in_mhz_watts_and_degrees(nvml: FakeNvml, monitor: Monitor) -> None:
    assert monitor.state() == GpuState(sm_mhz=1980, power_w=420.5, temperature_c=61, discard=None, flags=())
    assert ("nvmlDeviceGetClockInfo", "handle", nvml.NVML_CLOCK_SM) in nvml.asked
    assert ("nvmlDeviceGetTemperature", "handle", nvml.NVML_TEMPERATURE_GPU) in nvml.asked


@pytest.mark.parametrize(
    ("bit", "discard", "flags"),
    [
        (0x0, None, ()),
        (0x1, None, ()),  # idle
        (0x2, None, ()),  # the application's clocks
        (0x4, None, ("software power cap",)),
        (0x8, "hardware slowdown", ()),
        (0x10, None, ()),  # sync boost
        (0x20, "thermal throttling", ()),
        (0x40, "thermal throttling", ()),
        (0x80, "power brake", ()),
        (0x100, None, ()),  # the display's clocks
        (0x4 | 0x20, "thermal throttling", ("software power cap",)),
        (0x1 | 0x4 | 0x10, None, ("software power cap",)),
        (0x8 | 0x40, "hardware slowdown", ()),
    ],
)
def test_slowdown_and_heat_discard_and_a_power_cap_only_flags(
    nvml: FakeNvml, monitor: Monitor, bit: int, discard: str | None, flags: tuple[str, ...]
) -> None:
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = bit
    state = monitor.state()
    assert (state.discard, state.flags) == (discard, flags)


FIELDS = {
    "nvmlDeviceGetPowerUsage": "power_w",
    "nvmlDeviceGetClockInfo": "sm_mhz",
    "nvmlDeviceGetTemperature": "temperature_c",
}


@pytest.mark.parametrize("how", ["an error", "not there"])
@pytest.mark.parametrize("question", FIELDS)
def test_what_the_driver_does_not_answer_is_none_and_the_rest_stays(
    nvml: FakeNvml, monitor: Monitor, question: str, how: str
) -> None:
    if how == "an error":
        nvml.answers[question] = nvml.NVMLError("Not Supported")
    else:
        del nvml.answers[question]
    state = monitor.state()
    for field in FIELDS.values():
        assert (getattr(state, field) is None) == (field == FIELDS[question])


def test_a_driver_that_does_not_tell_its_reasons_discards_nothing(nvml: FakeNvml, monitor: Monitor) -> None:
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = nvml.NVMLError("Not Supported")
    assert monitor.state() == GpuState(sm_mhz=1980, power_w=420.5, temperature_c=61)


def test_no_other_error_than_the_drivers_is_swallowed(nvml: FakeNvml, monitor: Monitor) -> None:
    nvml.answers["nvmlDeviceGetPowerUsage"] = ZeroDivisionError("planted")
    with pytest.raises(ZeroDivisionError, match="planted"):
        monitor.state()


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_a_driver_everything_is_none(nvml: FakeNvml, question: str) -> None:
    refuse = nvml.NVMLError("Uninitialized")
    nvml.answers[question] = refuse
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = refuse
    monitor = Monitor(UUID)
    assert monitor.state() == GpuState()
    assert monitor.other_processes() == []
    assert monitor.driver_version() is None
    assert "nvmlDeviceGetPowerUsage" not in nvml.names()


@pytest.mark.parametrize("version", ["580.159.04", b"580.159.04"])
def test_the_version_of_the_driver_is_text(nvml: FakeNvml, monitor: Monitor, version: str | bytes) -> None:
    nvml.answers["nvmlSystemGetDriverVersion"] = version
    assert monitor.driver_version() == "580.159.04"


def test_no_clock_and_no_mode_is_ever_changed(nvml: FakeNvml, monitor: Monitor) -> None:
    monitor.state()
    monitor.other_processes()
    assert gpu_present()
    assert not [name for name in nvml.names() if "Set" in name or "Reset" in name]


# --- who else uses it


def test_other_processes_are_named_with_their_number_and_this_one_is_not(nvml: FakeNvml, monitor: Monitor) -> None:
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [process(4242), process(os.getpid()), process(17)]
    nvml.answers["nvmlSystemGetProcessName"] = lambda pid: {4242: "python3", 17: b"/usr/bin/other"}[pid]
    assert monitor.other_processes() == ["pid 17 (/usr/bin/other)", "pid 4242 (python3)"]


def test_a_process_of_which_the_driver_knows_only_the_number_is_told_too(nvml: FakeNvml, monitor: Monitor) -> None:
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [process(4242)]
    nvml.answers["nvmlSystemGetProcessName"] = nvml.NVMLError("Not Found")
    assert monitor.other_processes() == ["pid 4242 (of another container or user)"]


def test_alone_on_the_gpu_there_are_no_others(nvml: FakeNvml, monitor: Monitor) -> None:
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [process(os.getpid())]
    assert monitor.other_processes() == []


# --- is there a GPU


def test_a_gpu_that_the_driver_shows_is_there(nvml: FakeNvml) -> None:
    assert gpu_present()
    assert nvml.names()[-1] == "nvmlShutdown"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_from_this_process_is_not_there_and_the_driver_is_not_asked(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not gpu_present()
    assert nvml.asked == []


@pytest.mark.parametrize("shown", ["0", "1,0", "GPU-1111-aaaa"])
def test_a_gpu_that_is_shown_to_this_process_is_there(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert gpu_present()


def test_a_driver_without_a_gpu_shows_none(nvml: FakeNvml) -> None:
    nvml.answers["nvmlDeviceGetCount"] = 0
    assert not gpu_present()


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetCount", "nvmlShutdown"])
def test_where_the_driver_fails_there_is_no_gpu(nvml: FakeNvml, question: str) -> None:
    nvml.answers[question] = nvml.NVMLError("Driver Not Loaded")
    assert not gpu_present()


@pytest.mark.parametrize("name", ["NVIDIA H200", b"NVIDIA H200"])
def test_the_only_gpu_is_named_with_its_capability(nvml: FakeNvml, name: str | bytes) -> None:
    nvml.answers["nvmlDeviceGetName"] = name
    assert visible_gpu() == ("NVIDIA H200", "9.0")


@pytest.mark.parametrize("named", [None, "1", "0,1", "GPU-5b2c,GPU-77aa"])
def test_of_several_gpus_that_are_alike_it_is_one_of_these(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    nvml.answers["nvmlDeviceGetCount"] = 2
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpu() == ("NVIDIA H200", "9.0")


@pytest.mark.parametrize("named", [None, "1", "0,1", "GPU-5b2c,GPU-77aa"])
def test_of_several_gpus_that_differ_none_is_guessed(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    nvml.answers |= {
        "nvmlDeviceGetCount": 2,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetName": lambda handle: ["NVIDIA H200", "NVIDIA T1000"][handle],
    }
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpu() is None


@pytest.mark.parametrize("named", ["", "-1", "MIG-3f1c8c4e-9d7a-11ee-8c90-0242ac120002"])
def test_where_there_is_none_or_a_part_of_one_nothing_is_known(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpu() is None
    assert nvml.asked == []


def test_a_driver_that_is_not_loaded_names_none(nvml: FakeNvml) -> None:
    nvml.answers["nvmlInit"] = nvml.NVMLError("Driver Not Loaded")
    assert visible_gpu() is None


def test_of_several_gpus_the_one_that_the_environment_names_by_its_uuid_is_known(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.answers["nvmlDeviceGetCount"] = 8
    uuid = "GPU-3f1c8c4e-9d7a-11ee-8c90-0242ac120002"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid)
    assert visible_gpu() == ("NVIDIA H200", "9.0")
    assert ("nvmlDeviceGetHandleByUUID", uuid) in nvml.asked


# --- what drivers have been seen to do

NO_TEXT = UnicodeDecodeError("utf-8", b"\xf0\x8a", 0, 1, "invalid continuation byte")
"""What pynvml raises of itself where a name is no UTF-8, as driver 555 under WSL tells it."""


def test_a_name_that_is_no_text_is_unknown_and_everything_else_goes_on(nvml: FakeNvml, monitor: Monitor) -> None:
    for question in ("nvmlDeviceGetName", "nvmlSystemGetDriverVersion", "nvmlSystemGetProcessName"):
        nvml.answers[question] = NO_TEXT
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [process(4242)]
    assert gpu_present()
    assert visible_gpu() is None
    assert monitor.driver_version() is None
    assert monitor.other_processes() == ["pid 4242 (whose name cannot be read)"]
    assert monitor.state().sm_mhz == 1980


@pytest.mark.parametrize("name", [b"NVIDIA \xf0\x8a", "NVIDIA\x1b[31m\n"])
def test_a_name_is_made_fit_for_a_screen(nvml: FakeNvml, name: str | bytes) -> None:
    nvml.answers["nvmlDeviceGetName"] = name
    found = visible_gpu()
    assert found is not None
    assert found[0].startswith("NVIDIA")
    assert found[0].isprintable()


QUESTIONS = [name for name in ANSWERS if name != "nvmlDeviceGetCount"]


@pytest.mark.parametrize("how", ["an error", "not there", "no text"])
@pytest.mark.parametrize("question", [*QUESTIONS, "nvmlSystemGetProcessName"])
def test_no_question_that_goes_wrong_ends_anything(nvml: FakeNvml, question: str, how: str) -> None:
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [process(4242)]
    nvml.answers["nvmlSystemGetProcessName"] = "python3"
    if how == "not there":
        if question == "nvmlDeviceGetHandleByUUID":
            pytest.skip("every NVML knows GPUs by their UUID")
        del nvml.answers[question]
    elif question == "nvmlDeviceGetHandleByUUID" and how == "no text":
        pytest.skip("a handle is no text")
    else:
        nvml.answers[question] = nvml.NVMLError("Not Supported") if how == "an error" else NO_TEXT
    assert gpu_present()
    visible_gpu()
    monitor = Monitor(UUID)
    monitor.state(), monitor.other_processes(), monitor.driver_version()


def test_throttling_is_seen_by_the_older_name_of_the_question_too(nvml: FakeNvml, monitor: Monitor) -> None:
    del nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"]
    nvml.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x20
    assert monitor.state().discard == "thermal throttling"


@pytest.mark.parametrize("why", ["not installed", "no library"])
def test_without_nvml_cuda_s_driver_says_whether_there_is_a_gpu(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """As in a container that was given CUDA and no NVML."""
    if why == "not installed":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        nvml.answers["nvmlInit"] = nvml.NVMLError("NVML Shared Library Not Found")
    for count in (0, 2):
        monkeypatch.setattr(nvml_module, "_counted_by_cuda", lambda count=count: count)
        assert gpu_present() == (count > 0)
    assert visible_gpu() is None
    assert Monitor(UUID).state() == GpuState()
    assert Monitor(UUID).other_processes() == []


def test_where_there_is_no_driver_of_cuda_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_module, "_CUDA_DRIVER", "libcuda-that-is-not-there.so.1")
    monkeypatch.setattr("subprocess.run", None)
    assert nvml_module._counted_by_cuda() == 0


def test_the_question_to_cuda_s_driver_is_a_program_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a library in the driver's place that has neither function: it fails, and counts nothing."""
    monkeypatch.setattr(nvml_module, "_CUDA_DRIVER", "libc.so.6")
    compile(nvml_module._COUNT_BY_CUDA, "question", "exec")
    assert nvml_module._counted_by_cuda() >= 0
