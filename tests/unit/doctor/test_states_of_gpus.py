"""GPUs in the states that users have them in, by a stub of NVML: what is told, what to do, and the exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from fusetune.core.target import find_target
from fusetune.doctor import software
from fusetune.doctor.software import COMPILING_BYTES, Host, host_here, software_findings, why_no_gpu
from fusetune.doctor.visit import Visit
from fusetune.measure.gpus import SeenGpu
from fusetune.measure.nvml import Monitor
from fusetune.ops.device import UNKNOWN_NAME
from fusetune.report.machine import Folder, Ptxas
from fusetune.store.doctor_file import doctor_text
from tests.support.fake_nvml import FakeNvml
from tests.support.sick_machines import UUID, Bench, finding, machine, nvml_of_one_gpu, visited

UNREADABLE = UnicodeDecodeError("utf-8", b"\xf8", 0, 1, "invalid start byte")
REFUSED = FakeNvml.NVMLError("Insufficient Permissions")
FITTING = {"c_compiler": "/usr/bin/gcc", "headers": True, "cores": 8, "load": 0.0}


def seen(monkeypatch: pytest.MonkeyPatch, bench: Bench | None = None, **answers: Any) -> Visit:
    return visited(monkeypatch, bench, nvml_of_one_gpu(**answers))


# --- MIG


def test_a_divided_gpu_is_a_note_that_says_what_configs_hold_for(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetMigMode=(1, 1))
    assert visit.exit_code == 0
    one = finding(visit.file, "MIG")
    assert one.level == "note"
    assert "parts of this size" in one.told
    assert "whole GPU" in one.do
    assert visit.file.figures is not None
    assert visit.file.figures.mig


def test_a_part_that_nvml_does_not_know_is_a_note_about_what_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetHandleByUUID=FakeNvml.NVMLError("Not Found"))
    assert visit.exit_code == 0
    assert finding(visit.file, "NVML").level == "note"
    assert "rely on the A/A" in finding(visit.file, "NVML").do


def test_a_gpu_that_the_table_does_not_hold_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    part = structs.replace(find_target("h200"), name="NVIDIA H200 MIG 1g.18gb", sms=16)
    visit = seen(monkeypatch, Bench(part))
    assert visit.exit_code == 0
    assert "no row of `fusetune targets` is for it" in finding(visit.file, "gpu").told


# --- WSL


def test_a_name_that_nobody_can_read_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetName=UNREADABLE)
    assert visit.exit_code == 0
    one = finding(visit.file, "gpu")
    assert one.level == "note"
    assert "a name that is no text" in one.told


def test_a_name_that_torch_cannot_read_either_is_the_same_note(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, Bench(structs.replace(find_target("rtx4090"), name=UNKNOWN_NAME)))
    assert "no shipped configs are found" in finding(visit.file, "gpu").told


def test_company_whose_name_nobody_can_read_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [SimpleNamespace(pid=4242), SimpleNamespace(pid=os.getpid())]
    nvml = nvml_of_one_gpu(nvmlDeviceGetComputeRunningProcesses=running, nvmlSystemGetProcessName=UNREADABLE)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    others = tuple(Monitor(UUID).other_processes())
    visit = visited(monkeypatch, Bench(others=others), nvml)
    assert finding(visit.file, "company").told.startswith("1 other process computes on it")
    assert visit.found[[one.finding.check for one in visit.found].index("company")].private == (
        "pid 4242 (whose name cannot be read)"
    )


def test_wsl_is_told_with_what_cannot_be_seen_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    visit = seen(monkeypatch)
    assert finding(visit.file, "WSL").level == "note"
    assert visit.exit_code == 0


def test_of_several_gpus_the_first_is_seen_to_and_how_to_see_to_another_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visit = visited(monkeypatch, gpus=(SeenGpu("NVIDIA H200"), SeenGpu("NVIDIA H200")))
    assert finding(visit.file, "gpus").told.startswith("2 are here")
    assert "CUDA_VISIBLE_DEVICES=1" in finding(visit.file, "gpus").do
    assert visit.exit_code == 0


# --- drivers that do not match, or that refuse


@pytest.mark.parametrize(
    ("why", "do"),
    [
        ("NVML: RM has detected an NVML/RM version mismatch.", "restart the machine"),
        ("NVML: Driver/library version mismatch", "restart the machine"),
        ("NVML: Insufficient Permissions", "--gpus all"),
        ("NVML: NVML Shared Library Not Found", "install NVIDIA's driver"),
        ("NVML: Driver Not Loaded", "modprobe nvidia"),
        ("NVML: GPU is lost", "dmesg"),
        ("nvidia-ml-py is not installed", "pip install nvidia-ml-py"),
        ("NVML counts none", "see nvidia-smi"),
    ],
)
def test_why_there_is_no_gpu_comes_with_what_to_do(monkeypatch: pytest.MonkeyPatch, why: str, do: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one = why_no_gpu(machine(no_gpu=why, gpus=(), driver=None)).finding
    assert (one.level, one.told) == ("no_gpu", why)
    assert do in one.do


def test_gpus_that_the_environment_hides_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu(machine()).finding.do == "unset CUDA_VISIBLE_DEVICES"


def test_a_driver_too_old_for_torch_is_no_gpu_unless_torch_uses_it_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = machine(driver="535.54.03", cuda="12.2")
    for used, level in ((False, "no_gpu"), (True, "note")):
        findings = software_findings(old, Host(**FITTING), gpu_here=True, used=used)
        (driver,) = (one.finding for one in findings if one.finding.check == "driver")
        assert driver.level == level
        assert driver.told == "535.54.03, runs CUDA up to 12.2; torch is built for CUDA 13.0"
        assert "built for CUDA 12.2 or older" in driver.do


def test_a_driver_that_nvml_may_not_be_asked_about_is_a_note_where_torch_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visit = visited(
        monkeypatch, nvml=nvml_of_one_gpu(nvmlInit=REFUSED), driver=None, no_gpu="NVML: Insufficient Permissions"
    )
    assert visit.exit_code == 0
    driver = finding(visit.file, "driver")
    assert driver.level == "note"
    assert "cannot be seen" in driver.told
    assert "scheduler" in driver.do
    assert finding(visit.file, "NVML").level == "note"


def test_questions_that_this_user_may_not_ask_leave_their_figures_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("EnforcedPowerLimit", "MemoryInfo", "UtilizationRates", "PersistenceMode", "MaxClockInfo")
    visit = seen(monkeypatch, **{f"nvmlDeviceGet{name}": REFUSED for name in asked})
    assert visit.exit_code == 0
    assert {"power", "memory"}.isdisjoint(one.check for one in visit.file.findings)
    assert visit.file.figures is not None
    assert visit.file.figures.memory_bytes is None


# --- company


def test_a_busy_gpu_is_unfit_and_names_who_uses_it_on_this_screen_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    others = ("pid 4242 (/home/ada/bin/python train_secret.py)",)
    visit = seen(monkeypatch, Bench(others=others), nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=97))
    assert visit.exit_code == 3
    one = finding(visit.file, "company")
    assert (one.level, one.told) == ("unfit", "1 other process computes on it, and it is busy 97 % of the time")
    assert next(found.private for found in visit.found if found.finding == one) == others[0]


def test_company_that_rests_is_a_note_since_the_control_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, Bench(others=("pid 1 (a)", "pid 2 (b)")))
    assert visit.exit_code == 0
    assert finding(visit.file, "company").told.startswith("2 other processes compute on it, idle now")


def test_a_gpu_that_is_busy_with_what_cannot_be_seen_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=40))
    assert visit.exit_code == 3
    assert "by what is not to be seen from here" in finding(visit.file, "company").told


# --- power, clocks, memory


def test_a_power_cap_is_a_note_with_both_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetEnforcedPowerLimit=250_000)
    assert visit.exit_code == 0
    one = finding(visit.file, "power")
    assert one.level == "note"
    assert "limited to 250 W, where 450 W" in one.told
    assert one.do == "an administrator lifts it with nvidia-smi -pl 450"


def test_a_limit_that_the_driver_rounds_is_no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding(seen(monkeypatch, nvmlDeviceGetEnforcedPowerLimit=449_000).file, "power").level == "ok"


@pytest.mark.parametrize("bit", [0x8, 0x20, 0x40, 0x80])
def test_a_gpu_whose_clocks_are_held_down_is_unfit(monkeypatch: pytest.MonkeyPatch, bit: int) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetCurrentClocksEventReasons=bit)
    assert visit.exit_code == 3
    assert finding(visit.file, "clocks").told.startswith("held down: ")


def test_clocks_far_below_the_highest_under_load_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    for mhz, level in ((2400, "ok"), (1200, "note")):
        visit = seen(monkeypatch, Bench(sm_mhz=mhz))
        one = finding(visit.file, "clocks, long")
        assert (one.level, f"SM clock under load {mhz} MHz of 2520 MHz at most" in one.told) == (level, True)
        assert visit.exit_code == 0


def test_a_power_cap_that_holds_clocks_under_load_is_told_there(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, Bench(sm_mhz=2400, flags=("software power cap",)))
    assert "held by: software power cap" in finding(visit.file, "clocks, long").told
    assert finding(visit.file, "clocks, long").level == "note"
    assert visit.exit_code == 0


def test_too_little_free_memory_for_the_longest_example_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = seen(monkeypatch, nvmlDeviceGetMemoryInfo=SimpleNamespace(total=24 << 30, free=100 << 20))
    assert visit.exit_code == 3
    assert finding(visit.file, "memory").told.startswith(
        "100.0 MiB of 24.0 GiB are free, and the longest example takes"
    )


# --- the software


def test_what_lacks_is_told_with_how_to_have_it() -> None:
    bad = machine(
        torch=None,
        triton=None,
        ptxas=(Ptxas("ptxas", "/home/ada/ptxas", None, "it cannot be run: Permission denied"),),
        folders=(Folder("Triton's cache", "/home/ada/.triton", True, False), Folder("configs", "/x", False, False)),
        troubles=("captures: /home/ada is gone",),
    )
    findings = [found.finding for found in software_findings(bad, Host(**FITTING), gpu_here=True)]
    levels = {(one.check, one.level) for one in findings}
    wanted = {("torch", "no_gpu"), ("triton", "no_gpu"), ("ptxas", "note"), ("folders", "unfit")}
    assert wanted <= levels
    assert all(one.do for one in findings if one.level not in {"ok"})
    cache = next(one for one in findings if "Triton's cache" in one.told)
    assert "set TRITON_CACHE_DIR" in cache.do
    assert not any("/home/ada" in one.told for one in findings)


@pytest.mark.parametrize(("profiling", "level"), [(True, "ok"), (None, "ok"), (False, "note")])
def test_what_needs_an_administrator_is_told_and_keeps_nobody_from_tuning(profiling: bool | None, level: str) -> None:
    host = Host(**FITTING, profiling=profiling)
    findings = [found.finding for found in software_findings(machine(), host, gpu_here=True)]
    (one,) = (one for one in findings if one.check == "permissions")
    assert one.level == level
    assert one.told.startswith("--lock-clocks needs an administrator")
    assert ("NVreg_RestrictProfilingToAdminUsers=0" in one.do) == (profiling is False)
    assert "permissions" not in {f.finding.check for f in software_findings(machine(), host, gpu_here=False)}


@pytest.mark.parametrize(
    ("text", "root", "expected"),
    [
        ("RmProfilingAdminOnly: 1\n", 1000, False),
        ("RmProfilingAdminOnly: 0\n", 1000, True),
        ("RmProfilingAdminOnly: 1\n", 0, True),
        ("RmProfiling: 1\n", 1000, None),
        (None, 1000, None),
    ],
)
def test_whether_counters_can_be_read_is_what_the_driver_was_loaded_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, root: int, expected: bool | None
) -> None:
    if text is not None:
        (tmp_path / "params").write_text(f"EnableMSI: 1\n{text}")
    monkeypatch.setattr(software, "_DRIVER_SETTINGS", tmp_path / "params")
    monkeypatch.setattr("os.geteuid", lambda: root)
    assert host_here().profiling is expected


def test_too_little_memory_to_compile_on_every_core_is_a_note_that_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for free, level in ((8 * COMPILING_BYTES, "ok"), (3 * COMPILING_BYTES, "note")):
        visit = visited(monkeypatch, host=Host(**FITTING, free_bytes=free))
        assert finding(visit.file, "cores").level == level
        assert visit.exit_code == 0
    assert finding(visit.file, "cores").do == "give --workers 3"


@pytest.mark.parametrize(
    ("limit", "expected"), [(("8589934592", "4294967296"), 4 << 30), (("max", "1"), 16 << 30), (None, 16 << 30)]
)
def test_memory_is_what_linux_says_or_what_a_container_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: tuple[str, str] | None, expected: int
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n")
    if limit is not None:
        for name, text in zip(("memory.max", "memory.current"), limit, strict=True):
            (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(software, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(software, "_GROUP", tmp_path)
    assert host_here().free_bytes == expected


def test_an_interpreted_triton_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")
    visit = seen(monkeypatch)
    assert visit.exit_code == 3
    assert finding(visit.file, "TRITON_INTERPRET").do == "unset TRITON_INTERPRET"


def test_no_id_of_the_card_is_asked_for_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = doctor_text(seen(monkeypatch).file)
    assert UUID not in text
    assert "SN1234567" not in text
