"""Machines for `fusetune doctor`: what is known of them, what NVML says, and a simulated GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fusetune.compiler.pool import Compiled, Job
from fusetune.core.config import Config
from fusetune.core.environment import Environment
from fusetune.core.problem import Problem
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.target import Target, find_target
from fusetune.doctor import rounds, visit
from fusetune.doctor.software import Host
from fusetune.doctor.visit import Here, Visit, Wish
from fusetune.measure.condition import condition_of
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.gpus import SeenGpu
from fusetune.measure.nvml import Monitor
from fusetune.measure.protocol import BlockTimes, Checked, Failure, GpuFacts, SamplingFacts
from fusetune.ops.spec import KernelSpec
from fusetune.report.machine import Folder, Machine, Ptxas
from fusetune.store.doctor_file import DoctorFile, Finding
from tests.support.fake_nvml import FakeNvml

H200 = find_target("h200")
RTX4090 = find_target("rtx4090")
UUID = "11111111-2222-3333-4444-555555555555"
NAMES = ("ada", "lovelace-box", "/home/ada")
"""A user, a host and a home, which must be in no file that is shared."""


def nvml_of_one_gpu(**answers: Any) -> FakeNvml:
    """A driver that knows an RTX 4090 and answers what a test says."""
    return FakeNvml(
        **{
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetPowerUsage": 120_000,
            "nvmlDeviceGetEnforcedPowerLimit": 450_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 450_000,
            "nvmlDeviceGetClockInfo": 2520,
            "nvmlDeviceGetMaxClockInfo": 2520,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 << 30, free=23 << 30, used=1 << 30),
            "nvmlDeviceGetMigMode": FakeNvml.NVMLError("Not Supported"),
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetName": RTX4090.name,
            "nvmlDeviceGetSerial": "SN1234567",
            **answers,
        }
    )


class SimulatedGpu(FakeMeasurer):
    """A GPU with a name and a UUID on which BASELINE takes 20 us, and others 10 unless a test says so."""

    def __init__(self, target: Target, others: tuple[str, ...] = (), **options: Any) -> None:
        us: Mapping[str, float] = options.pop("us", {})
        self._baseline: Config | None = options.pop("baseline")
        self._prepares: Exception | None = options.pop("prepares")
        self._facts: Exception | None = options.pop("facts", None)
        self._uuid: str | None = options.pop("uuid", None)
        self._state = {"sm_mhz": options.pop("sm_mhz", None), "flags": options.pop("flags", ())}
        self._fails: Mapping[str, Failure] = options.pop("fails")

        def true_us(config: Config) -> float:
            return us.get(config.label(), 20.0 if config == self._baseline else 10.0)

        super().__init__(target, true_us, **options)
        self._others = others

    def facts(self) -> GpuFacts:
        if self._facts is not None:
            raise self._facts
        known = super().facts()
        environment = Environment(triton="3.6.0", kernel_hash="0" * 16, torch="2.11.0", driver="580.82.07")
        return msgspec.structs.replace(known, environment=environment, uuid=self._uuid)

    def company(self) -> tuple[str, ...]:
        return self._others

    def check(self, config: Config) -> Checked | Failure:
        return self._fails.get(config.label()) or super().check(config)

    def block(self, baseline: Config, config: Config, *, config_first: bool) -> BlockTimes | Failure:
        times = super().block(baseline, config, config_first=config_first)
        return times if isinstance(times, Failure) else msgspec.structs.replace(times, **self._state)

    def prepare(self, seed: int) -> SamplingFacts:
        if self._prepares is not None:
            raise self._prepares
        super().prepare(seed)
        return SamplingFacts(input_sets=4, launches=100, touched_bytes=1, l2_bytes=1, tick_us=0.5)


class Bench:
    """Makes simulated GPUs, one for each problem, and keeps them. `fails` maps labels to what becomes of them."""

    def __init__(
        self,
        target: Target = RTX4090,
        *,
        others: tuple[str, ...] = (),
        fails: Mapping[str, Failure] | None = None,
        prepares: Exception | None = None,
        **options: Any,
    ) -> None:
        self.target, self._others, self._options, self._prepares = target, others, options, prepares
        self._fails = dict(fails or {})
        self.asked: list[tuple[str, Problem]] = []
        self.made: list[SimulatedGpu] = []

    def __call__(self, spec: KernelSpec, problem: Problem) -> SimulatedGpu:
        self.asked.append((spec.name, problem))
        gpu = SimulatedGpu(
            self.target,
            self._others,
            baseline=spec.baseline(problem),
            prepares=self._prepares,
            fails=self._fails,
            **self._options,
        )
        self.made.append(gpu)
        return gpu


def machine(**changes: Any) -> Machine:
    """A machine with a GPU in which nothing is wrong."""
    whole = Machine(
        fusetune="0.1.0",
        python="3.12.3",
        platform="Linux-6.8.0-lovelace-box-x86_64",
        torch="2.11.0+cu130",
        torch_cuda="13.0",
        triton="3.6.0",
        driver="580.82.07",
        cuda="13.0",
        gpus=(SeenGpu(RTX4090.name, "8.9", 128, 24 << 30),),
        no_gpu=None,
        ptxas=(Ptxas("ptxas", "/home/ada/venv/bin/ptxas", "12.8.93"),),
        folders=tuple(
            Folder(what, "/home/ada/x", True, True) for what in ("Triton's cache", "temporary files", "runs")
        ),
        troubles=(),
        variables={"TRITON_CACHE_DIR": "/home/ada/cache"},
    )
    return msgspec.structs.replace(whole, **changes)


def visited(
    monkeypatch: pytest.MonkeyPatch,
    bench: Bench | None = None,
    nvml: FakeNvml | None = None,
    wish: Wish | None = None,
    host: Host | None = None,
    compiler: Any = None,
    has_gpu: bool = True,
    save: Callable[[DoctorFile], object] = lambda file: None,
    **of_machine: Any,
) -> Visit:
    """A whole visit of such a machine, compiled by nothing and measured on nothing."""
    stub = nvml or nvml_of_one_gpu()
    monkeypatch.setitem(sys.modules, "pynvml", stub)
    for module in (rounds, visit):
        monkeypatch.setattr(module, "compile_jobs", compiler or compiled_at_once)
    bench = bench or Bench()
    here = Here(
        machine=machine(**of_machine),
        host=host or Host("/home/ada/bin/gcc", headers=True, cores=16, load=0.1),
        has_gpu=has_gpu,
        measurer_for=bench,
        condition=lambda facts: condition_of(Monitor(UUID), sleep=lambda seconds: None),
    )
    made = Visit(here, wish or Wish(), SilentProgress(), save)
    made.make()
    return made


def compiled_at_once(spec: KernelSpec, jobs: Sequence[Job], target: Target, **_: Any) -> Iterator[Compiled]:
    """Stands in for `compile_jobs`: every config takes as much."""
    return (Compiled(job, Resources(registers=64, stack_bytes=0, shared_bytes=1024)) for job in jobs)


def finding(file: DoctorFile, check: str) -> Finding:
    """The only one of this check."""
    (one,) = (one for one in file.findings if one.check == check)
    return one
