"""Which errors, exit codes and recorded words are the machine's, and which are a kernel's."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from fusetune.core import trouble
from fusetune.core.trouble import (
    Trouble,
    damage_of,
    is_recorded_trouble,
    machine_told,
    refuse_interpreter,
    trouble_of,
    trouble_of_exit,
    why_not_written,
)
from fusetune.errors import CompileError, MachineError, UsageError
from tests.support.sample import OP

REFUSALS = [
    *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ESTALE"),
    *("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "ETIMEDOUT", "EBUSY"),
]


class PTXASError(Exception):
    """As Triton's: its text is built around what ptxas said."""

    def __init__(self, code: int | str, said: str = "") -> None:
        self.error_message = f"`ptxas` failed with error code {code}\n`ptxas` stderr:\n{said}\nRepro command: ptxas"
        super().__init__(self.error_message)


class CompilationError(Exception):
    """As Triton's front end raises it."""


@pytest.fixture(autouse=True)
def _no_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("where", ["raised", "as its cause"])
def test_whatever_the_operating_system_refuses_is_the_machine_s(name: str, where: str) -> None:
    number = getattr(errno, name)
    error: Exception = OSError(number, os.strerror(number))
    if where == "as its cause":
        outer = CompilationError("at 12:3")
        outer.__cause__ = error
        error = outer
    found = trouble_of(error)
    assert found is not None
    assert os.strerror(number) in found.detail
    assert "\n" not in found.detail
    assert isinstance(found.error(), MachineError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PTXASError(-9),
        PTXASError(137),
        PTXASError(-15),
        PTXASError(-signal.SIGXFSZ),
        PTXASError(255, "ptxas fatal   : Memory allocation failure"),
        PTXASError(255, "ptxas fatal   : Output file '/full/k.cubin' could not be opened"),
        PTXASError(1, "ptxas fatal   : write failed: No space left on device"),
        subprocess.CalledProcessError(-9, ["/bin/ptxas", "--version"]),
        ImportError("/cache/cuda_utils.so: file too short"),
        ImportError("libtriton.so: failed to map segment from shared object"),
        RuntimeError("Cannot find ptxas"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        MachineError("told already"),
    ],
    ids=lambda error: str(error).split("\n")[0][:40] or type(error).__name__,
)
def test_memory_killed_tools_and_tools_that_cannot_write_are_the_machine_s(error: Exception) -> None:
    found = trouble_of(error)
    assert found is not None
    assert found.detail
    assert "\n" not in found.detail


@pytest.mark.parametrize(
    "error",
    [
        PTXASError(255, "ptxas error   : Entry function 'k' uses too much shared data (0x1869f bytes, 0xc000 max)"),
        PTXASError(-11),
        PTXASError(-6),
        PTXASError(1, "ptxas error   : Arguments mismatch for instruction 'mma'"),
        CompilationError("at 12:3: there is no space left on device, said the kernel"),
        RuntimeError("PassManager::run failed"),
        AssertionError("K must be >= 16"),
        KeyError("an op's own mistake"),
        CompileError("line 3"),
        UsageError("a setting"),
    ],
    ids=lambda error: str(error).split("\n")[0][:40],
)
def test_what_the_compiler_objects_to_in_a_kernel_is_the_kernel_s(error: Exception) -> None:
    assert trouble_of(error) is None


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGXCPU", "SIGXFSZ", "SIGBUS", "SIGHUP"])
def test_a_process_that_somebody_ended_says_nothing_whichever_way_its_code_is_told(name: str) -> None:
    number = getattr(signal, name)
    for code in (-number, 128 + number):
        found = trouble_of_exit(code)
        assert found is not None
        assert name in found.detail


@pytest.mark.parametrize("code", [0, 1, 2, 7, 127, 255, -11, 139, -6, 134, -4, -8])
def test_a_process_that_failed_by_itself_is_no_trouble_of_the_machine(code: int) -> None:
    assert trouble_of_exit(code) is None


def test_where_memory_is_limited_a_crash_may_be_the_limit_s(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: 1 << 30}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY), resource.RLIM_INFINITY)
    )
    found = trouble_of_exit(-signal.SIGSEGV)
    assert found is not None
    assert "`ulimit -v` of 1048576 KiB" in found.detail


@pytest.mark.parametrize(
    ("variable", "name", "code"),
    [("TRITON_CACHE_DIR", "EACCES", 2), ("TRITON_CACHE_DIR", "ENOSPC", 3), ("TRITON_HOME", "ENOTDIR", 2)],
)
def test_a_cache_that_the_user_chose_is_theirs_to_mend_and_a_full_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str, code: int
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    cache, _ = trouble.triton_cache_dir()
    number = getattr(errno, name)
    found = trouble_of(OSError(number, os.strerror(number), str(cache / "ABC" / "k.json")))
    assert found is not None
    assert found.error().exit_code == code
    assert f"Triton's cache {cache}" in found.detail
    assert (variable in found.detail) == (code == 2)


def test_the_cache_that_nobody_chose_is_named_with_the_variable_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    found = trouble_of(PermissionError(errno.EACCES, "Permission denied", "/nonexistent/.triton/cache"))
    assert found is not None
    assert found.error().exit_code == 3
    assert "set TRITON_CACHE_DIR" in found.detail


def test_a_full_disk_without_a_file_s_name_is_told_with_the_place_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(trouble, "is_full", lambda path: path == tmp_path / "cache")
    found = trouble_of(OSError(errno.ENOSPC, "No space left on device"))
    assert found == Trouble(f"No space left on device: Triton's cache {tmp_path / 'cache'}; make room there")


def test_of_several_files_that_could_not_be_copied_the_first_is_told() -> None:
    error = shutil.Error([("a.py", "/tmp/b.py", "[Errno 28] No space left on device: '/tmp/b.py'"), ("c", "d", "e")])
    assert trouble_of(error) == Trouble("a.py: [Errno 28] No space left on device: '/tmp/b.py'")


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_the_interpreter_left_on_is_a_setting(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(UsageError, match=r"^TRITON_INTERPRET is set, .*; unset it$"):
        refuse_interpreter()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    refuse_interpreter()


@pytest.mark.parametrize(
    "detail",
    [
        "OSError: [Errno 28] No space left on device",
        "PermissionError: [Errno 13] Permission denied: '/x/.triton/cache/ABC'",
        f"{OP} does not launch 64x64x32 w4 s2: MemoryError: ",
        "PTXASError: `ptxas` failed with error code -9\n`ptxas` stderr:\n",
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "cuobjdump could not read the compiled kernel: cuobjdump info : File does not contain device code",
        "the worker died with exit code -9",
        "RuntimeError: Triton Error [CUDA]: device kernel image is invalid",
        "AttributeError: 'InterpretedFunction' object has no attribute 'cache_key'",
    ],
)
def test_what_older_versions_recorded_of_the_machine_is_recognized(detail: str) -> None:
    assert is_recorded_trouble(detail)


@pytest.mark.parametrize(
    "detail",
    [
        None,
        "",
        "the worker died with exit code -11",
        "PTXASError: `ptxas` failed with error code 255\n`ptxas` stderr:\nuses too much shared data",
        "CompilationError in line 12 of the kernel: Cannot make_shape_compatible: 32 and 64",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
    ],
)
def test_what_was_recorded_of_a_kernel_stays_the_kernel_s(detail: str | None) -> None:
    assert not is_recorded_trouble(detail)


@pytest.mark.parametrize(
    "error",
    [
        json.JSONDecodeError("Expecting value", "", 0),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        KeyError("cubin"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_damaged_file_of_the_cache_is_told_as_the_cache_s_where_a_kernel_is_launched(error: Exception) -> None:
    assert damage_of(error) is not None
    assert damage_of(RuntimeError("an illegal memory access")) is None
    with pytest.raises(MachineError, match="damaged file"), machine_told(launching=True):
        raise error
    with pytest.raises(type(error)), machine_told():
        raise error


def test_what_is_no_trouble_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError, match="by zero"), machine_told():
        raise ZeroDivisionError("by zero")
    with pytest.raises(UsageError, match="given"), machine_told():
        raise UsageError("given")


def test_advice_fits_what_was_refused() -> None:
    assert why_not_written(OSError(errno.ENOSPC, "full"), "choose another folder") == "full; make room there"
    assert why_not_written(OSError(errno.EACCES, "no"), "choose another folder") == "no; choose another folder"
