"""A program whose kernels the machine does not let be compiled has not failed by itself, and nothing is said of it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fusetune.capture.look import look
from fusetune.capture.programs import parse_program
from fusetune.compiler.tools import nvidia_tool
from fusetune.errors import MachineError, UsageError

KERNEL = """import torch
import triton
import triton.language as tl


@triton.jit
def copies(x_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at))


x = torch.zeros(64, device="cuda")
"""
LAUNCH = "copies[(1,)](x, x, BLOCK=64)\n"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "program.py"
    path.write_text(KERNEL + LAUNCH)
    return path


def test_an_assembler_that_was_killed_is_the_machine_s(
    program: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ptxas = program.with_name("ptxas")
    ptxas.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {nvidia_tool("ptxas")} --version\nkill -9 $$\n')
    ptxas.chmod(ptxas.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(ptxas))
    with pytest.raises(MachineError, match=r"^ptxas was ended by SIGKILL.*$") as caught:
        look(parse_program([str(program)]), target="rtx4090")
    assert caught.value.exit_code == 3
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.delenv("TRITON_PTXAS_PATH")
    assert len(look(parse_program([str(program)]), target="rtx4090").cases) == 1


def test_a_cache_that_cannot_be_written_is_a_setting(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(program))
    with pytest.raises(UsageError, match=r"^Triton's cache .* cannot be used .*mend TRITON_CACHE_DIR$"):
        look(parse_program([str(program)]), target="rtx4090")


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        (KERNEL + "open('/proc/no/such', 'w')\n", "FileNotFoundError"),
        (KERNEL.replace("tl.load(x_ptr + at)", "no_such_name") + LAUNCH, "CompilationError"),
    ],
    ids=["its own file", "its own kernel"],
)
def test_what_is_the_program_s_own_fault_stays_so(
    program: Path, text: str, failed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    program.write_text(text)
    looked = look(parse_program([str(program)]), target="rtx4090")
    assert looked.failed is not None
    assert looked.failed.startswith(failed)
    assert "Traceback" in capfd.readouterr().err
