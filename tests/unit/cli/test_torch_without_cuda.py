"""A driver shows a GPU, and the PyTorch that is installed cannot use it: every command says so in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner, Result

from fusetune.cli.main import cli
from fusetune.core.target import find_target
from fusetune.errors import NoUsableGpuError
from fusetune.gate.live import LiveOptions, live_gate
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import GpuFacts
from fusetune.ops.device import UNKNOWN_NAME, gpu_identity, local_target, why_no_cuda
from tests.support.fake_compiler import install
from tests.support.sample import FILE, SIZES
from tests.unit.gate.test_gate import RTX4090, file_of, kept


@pytest.fixture(autouse=True)
def driver_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusetune.measure.nvml.gpu_present", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize("command", [("export", *SIZES), ("warmup", *SIZES)])
def test_what_needs_to_know_the_gpu_ends_with_4_and_the_reason(command: tuple[str, ...]) -> None:
    error = ran(*command).exception
    assert isinstance(error, NoUsableGpuError), error
    assert error.exit_code == 4
    assert "built without CUDA" in str(error)


def test_export_says_that_a_target_may_be_named_and_takes_it() -> None:
    assert "--target" in str(ran("export", *SIZES).exception)
    assert ran("export", *SIZES, "--target", "h200").exit_code == 0


def test_a_cuda_build_that_sees_nothing_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "CUDA_VISIBLE_DEVICES" in (why_no_cuda() or "")
    with pytest.raises(NoUsableGpuError, match="torch sees no CUDA GPU"):
        local_target(0)


@pytest.mark.parametrize("command", [("inspect", *SIZES, "--all", "--compile", "0"), ("targets",)])
def test_what_needs_no_gpu_asks_for_none(command: tuple[str, ...]) -> None:
    assert ran(*command).exit_code == 0


class Unusable(FakeMeasurer):
    def facts(self) -> GpuFacts:
        raise NoUsableGpuError("torch 2.13.0+cpu is built without CUDA; install the CUDA build of torch")


def test_a_live_gate_does_what_on_mismatch_says_of_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from fusetune.core.progress import SilentProgress

    install(monkeypatch)
    files = [(Path(FILE), file_of(kept()))]

    def gated(on_mismatch: str) -> list[str]:
        options = LiveOptions(on_mismatch=on_mismatch)  # type: ignore[arg-type]
        found = live_gate(files, lambda *_: Unusable(RTX4090, lambda _: 1.0), SilentProgress(), options)
        return [finding.status for finding in found]

    assert gated("skip") == ["not_gated"]
    assert gated("static") == ["holds"]
    with pytest.raises(NoUsableGpuError, match="built without CUDA"):
        gated("fail")


def test_a_gpu_whose_name_is_no_text_has_none_and_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties(SimpleNamespace):
        @property
        def name(self) -> str:
            return b"\xf0\x8a".decode()

    here = find_target("rtx4090")
    properties = Properties(
        major=8,
        minor=9,
        multi_processor_count=128,
        regs_per_multiprocessor=here.registers_per_sm,
        max_threads_per_multi_processor=32 * here.max_warps_per_sm,
        shared_memory_per_multiprocessor=here.shared_bytes_per_sm,
        shared_memory_per_block_optin=here.shared_bytes_per_cta,
        L2_cache_size=here.l2_bytes,
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert gpu_identity(0).name == UNKNOWN_NAME
    target = local_target(0)
    assert (target.name, target.sms, target.max_warps_per_sm) == (UNKNOWN_NAME, 128, here.max_warps_per_sm)
