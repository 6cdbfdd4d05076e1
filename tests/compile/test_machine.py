"""The real compiler on a machine that lets it do nothing: what every command then says, and its exit code."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from triton import knobs

from fusetune.cli.main import cli
from fusetune.compiler import build, pool
from fusetune.compiler.build import compile_config
from fusetune.compiler.pool import Compiled, Job, compile_jobs
from fusetune.compiler.record import kernel_records
from fusetune.compiler.tools import nvidia_tool
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import find_target
from fusetune.core.trouble import Trouble
from fusetune.errors import FusetuneError, MachineError, UsageError
from fusetune.gate.pins import pins_path
from fusetune.store.schema import ConfigFile, Entry, Times
from fusetune.store.yaml_files import dump_config_file
from tests.support import compile_faults
from tests.support.sample import BASELINE, FILE, OP, SIZES, SPEC, Config, Problem, make_problem

TARGET = find_target("rtx4090")
PROBLEM = make_problem(128, 512, 1024, "float32")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Triton's own."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- a cache that somebody damaged


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garble(path: Path) -> None:
    path.write_bytes(b"\xff\x00garbage\xfe" * 40)


def _remove(path: Path) -> None:
    path.unlink()


DAMAGES: Sequence[Callable[[Path], None]] = (_truncate, _empty, _garble, _remove)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__[1:])
def test_a_damaged_file_in_the_cache_is_compiled_anew_and_replaced(cache: Path, damage: Callable[[Path], None]) -> None:
    whole = compile_config(SPEC, PROBLEM, BASELINE, TARGET)
    recorded = kernel_records(SPEC, PROBLEM, BASELINE, TARGET)
    (entry,) = {path.parent for path in cache.rglob("*.cubin")}
    files = sorted(path for path in entry.iterdir() if path.suffix in {".cubin", ".json", ".ptx", ".ttir"})
    assert len(files) == 5, "the group's file among them"
    for path in files:
        damage(path)
        assert compile_config(SPEC, PROBLEM, BASELINE, TARGET) == whole, path.name
        assert not knobs.compilation.always_compile
    # All at once, and then nothing is damaged any more.
    for path in files:
        if path.exists():
            damage(path)
    assert kernel_records(SPEC, PROBLEM, BASELINE, TARGET) == recorded
    assert compile_config(SPEC, PROBLEM, BASELINE, TARGET) == whole


def test_a_ptxas_that_wrote_nothing_though_it_said_all_went_well_is_the_machine_s_and_not_cached(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So it is on a full disk.
    _ptxas(tmp_path, monkeypatch, 'while [ "$1" != "-o" ]; do shift; done; : > "$2"')
    with pytest.raises(MachineError, match=r"cuobjdump could not read .* though ptxas said that all went well"):
        compile_config(SPEC, PROBLEM, BASELINE, TARGET)
    assert not list(cache.rglob("__grp__*.json"))
    monkeypatch.delenv("TRITON_PTXAS_PATH")
    assert compile_config(SPEC, PROBLEM, BASELINE, TARGET).registers > 0


# --- what every command says


def _ptxas(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """A ptxas that tells its version as the real one does, and otherwise does this."""
    path = folder / "ptxas"
    path.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {nvidia_tool("ptxas")} --version\n{does}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(path))


def _raising(number: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def arrange(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("triton.runtime.cache.FileCacheManager.put", refused)

    return arrange


def _no_memory(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("triton.compiler.ASTSource.make_ir", none)


def _cache_is_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder / "file"))


def _cache_cannot_be_made(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/proc/nothing/here")


def _ptxas_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ptxas(folder, monkeypatch, "kill -9 $$")


def _ptxas_without_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ptxas(folder, monkeypatch, "echo 'ptxas fatal   : Memory allocation failure' >&2; exit 255")


def _tool_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "cuobjdump"
    path.write_text("#!/bin/bash\nkill -9 $$\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    real = nvidia_tool
    monkeypatch.setattr(build, "nvidia_tool", lambda name: path if name == "cuobjdump" else real(name))


def _interpreter_left_on(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


TROUBLES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], int, str]] = {
    "no room": (_raising(errno.ENOSPC), 3, "No space left on device"),
    "over quota": (_raising(errno.EDQUOT), 3, "quota"),
    "read-only": (_raising(errno.EROFS), 3, "Read-only file system"),
    "too many files": (_raising(errno.EMFILE), 3, "ulimit -n"),
    "bad disk": (_raising(errno.EIO), 3, "Input/output error"),
    "no memory": (_no_memory, 3, "no memory left"),
    "a file for a cache": (_cache_is_a_file, 2, "TRITON_CACHE_DIR"),
    "a cache that cannot be made": (_cache_cannot_be_made, 2, "TRITON_CACHE_DIR"),
    "ptxas killed": (_ptxas_killed, 3, "ptxas was ended by SIGKILL"),
    "ptxas without memory": (_ptxas_without_memory, 3, "Memory allocation failure"),
    "the interpreter left on": (_interpreter_left_on, 2, "TRITON_INTERPRET is set"),
    "cuobjdump killed": (_tool_killed, 3, "cuobjdump was ended by SIGKILL"),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one file of one config, pinned as of another day."""
    entry = Entry(
        problem=PROBLEM,
        config=BASELINE,
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=Environment(triton="3.7.1", kernel_hash=SPEC.source_hash(BASELINE)),
        run="20261123T101500-3f9a",
        date="2026-11-23",
        predicted_us=Times(baseline=20.0, conservative=20.0, config=20.0),
    )
    identity = TargetIdentity(name=TARGET.name, capability=TARGET.capability, sms=TARGET.sms)
    path = tmp_path / "configs" / "nvidia-geforce-rtx-4090" / FILE
    path.parent.mkdir(parents=True)
    path.write_text(dump_config_file(ConfigFile(schema=2, op=OP, target=identity, entries=(entry,))))
    return path


@pytest.fixture
def _compiles_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pool's own work be done in this process, which the troubles are arranged in."""

    def here(spec: Any, jobs: Sequence[Job], target: Any, **_: object) -> Iterator[Compiled]:
        for job in jobs:
            yield Compiled(job, pool._compile(spec, job, target, False))

    for place in ("tune.plan", "gate.static", "compiler.inspect"):
        monkeypatch.setattr(f"fusetune.{place}.compile_jobs", here)


SURFACES = {
    "gate --static": ("gate", "--static", "{file}"),
    "gate --pin": ("gate", "--pin", "{file}"),
    "inspect": ("inspect", *SIZES, "--target", "rtx4090"),
    "inspect --ptx": ("inspect", *SIZES, "--target", "rtx4090", "--ptx"),
    "inspect --all": ("inspect", *SIZES, "--target", "rtx4090", "--all", "--compile", "2"),
    "sweep": ("sweep", *SIZES, "--target", "rtx4090", "-o", "{out}", "--runs", "{runs}", "--space", "seed"),
    "sweep --space rules": ("sweep", *SIZES, "--target", "rtx4090", "-o", "{out}", "--runs", "{runs}", "--space=rules"),
}


@pytest.mark.usefixtures("_compiles_here", "cache")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_of_the_machine_ends_every_command_in_one_line_with_its_code_and_leaves_nothing(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    arrange, code, told = TROUBLES[trouble]
    arrange(tmp_path, monkeypatch)
    before = files.read_text()
    for surface, command in SURFACES.items():
        places = {"file": files, "out": tmp_path / "out", "runs": tmp_path / "runs"}
        found = CliRunner().invoke(cli, [word.format(**places) for word in command], standalone_mode=False)
        error = found.exception
        assert isinstance(error, FusetuneError), (surface, found.output, error)
        assert told in str(error), surface
        assert "\n" not in str(error), surface
        assert error.exit_code == (4 if surface.startswith("sweep") and code == 3 else code), surface
        assert "REGRESSION" not in found.output, surface
        assert "reproducer" not in found.output, surface
    assert files.read_text() == before
    assert not pins_path(files).exists()
    assert not list((tmp_path / "out").rglob("*.yaml"))
    recorded = "".join(path.read_text() for path in (tmp_path / "runs").glob("*.jsonl"))
    assert '"reason":"compile_error"' not in recorded


# --- processes


class _Scheming(compile_faults.FaultyToCompile):
    """BASELINE's process is killed, as by somebody else; those of three and four stages lack files and memory."""

    name = "scheming"

    def launches(self, problem: Problem, config: Config, tensors: Any) -> Any:
        if config == BASELINE:
            os.kill(os.getpid(), 9)
        if config.num_stages == 3:
            raise OSError(errno.EMFILE, "Too many open files")
        if config.num_stages == 4:
            raise MemoryError
        return super().launches(problem, config, tensors)


def test_a_killed_process_files_and_memory_are_the_machine_s_and_what_comes_after_compiles() -> None:
    configs = [BASELINE, Config(num_stages=3), Config(num_stages=4), Config(num_warps=8)]
    done = dict(compile_jobs(_Scheming(), [Job(PROBLEM, config) for config in configs], TARGET, workers=1))
    told = [done[Job(PROBLEM, config)] for config in configs]
    assert [type(result) for result in told[:3]] == [Trouble, Trouble, Trouble]
    for result, words in zip(told, ("SIGKILL", "ulimit -n", "no memory left"), strict=False):
        assert isinstance(result, Trouble)
        assert words in result.detail
    assert told[3] == compile_config(SPEC, PROBLEM, configs[3], TARGET)


def test_a_pool_that_answers_nothing_any_more_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    run = compile_jobs(compile_faults.SPEC, [Job(PROBLEM, compile_faults.HANG)] * 2, TARGET, workers=1)
    monkeypatch.setattr(pool, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(type(run._processes._pool), "active", False)
    results = [result for _, result in run]
    assert [type(result) for result in results] == [Trouble, Trouble]
    run.close()


def test_a_machine_that_has_no_thread_to_spare_ends_a_pool_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    run = compile_jobs(SPEC, [Job(PROBLEM, BASELINE)], TARGET, workers=1)

    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    ended = []
    monkeypatch.setattr(run._processes._pool, "join", lambda: ended.append(True))
    monkeypatch.setattr("fusetune.compiler.processes.threading.Thread.start", none)
    run.close()
    run.close()
    assert ended == [True]


def test_a_missing_tool_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    triton = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("fusetune.compiler.tools.find_spec", lambda name: triton)
    nvidia_tool.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"brings no cuobjdump .*install triton"):
            nvidia_tool("cuobjdump")
    finally:
        nvidia_tool.cache_clear()
