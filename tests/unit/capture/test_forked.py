"""Copies of a process do what leaves its result on disk; whatever becomes of a copy, nobody waits for it for ever."""

import gc
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from fusetune.capture import forked
from fusetune.capture.forked import done_by_copies


def written(path):
    return path.touch


def open_files():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_each_job_is_done_once_and_in_other_processes(tmp_path):
    def job(number):
        def do():
            with (tmp_path / f"{number}").open("a") as file:
                file.write(f"{os.getpid()}\n")

        return do

    done_by_copies([job(number) for number in range(40)], 4)
    by = [path.read_text().splitlines() for path in tmp_path.iterdir()]
    assert len(by) == 40
    assert all(len(lines) == 1 for lines in by)
    assert str(os.getpid()) not in {line for lines in by for line in lines}


def test_what_fails_or_crashes_leaves_the_others_to_the_other_copies(tmp_path, capfd):
    def fails():
        os.write(1, b"not seen")
        raise ValueError

    jobs = [fails, lambda: os._exit(11), lambda: os.kill(os.getpid(), 9)]
    done_by_copies([*jobs, *(written(tmp_path / f"{number}") for number in range(6))], 4)
    assert len(list(tmp_path.iterdir())) == 6
    assert capfd.readouterr() == ("", "")


def test_copies_that_stall_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "STALLED_S", 0.3)
    began = time.monotonic()
    done_by_copies([lambda: time.sleep(60), written(tmp_path / "other")], 2)
    assert time.monotonic() - began < 20
    assert (tmp_path / "other").exists()


def test_what_a_stalled_copy_has_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(forked, "STALLED_S", 2)

    def assembles():
        with subprocess.Popen(["sleep", "60"]) as process:
            (tmp_path / "started").write_text(str(process.pid))

    done_by_copies([assembles], 1)
    started, deadline = (tmp_path / "started").read_text(), time.monotonic() + 5
    while not is_over(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_over(started)


def is_over(process):
    try:
        return ") Z " in Path("/proc", process, "stat").read_text()
    except OSError:
        return True


def test_what_interrupts_the_wait_ends_the_copies(tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(forked, "_hear_out", interrupted)

    def late():
        time.sleep(1)
        (tmp_path / "late").touch()

    with pytest.raises(KeyboardInterrupt):
        done_by_copies([late], 1)
    time.sleep(1.2)
    assert not (tmp_path / "late").exists()


def test_no_copy_and_no_open_file_is_left(monkeypatch):
    before, fork, children = open_files(), os.fork, []
    monkeypatch.setattr(os, "fork", lambda: children.append(fork()) or children[-1])
    done_by_copies([lambda: None] * 3, 2)
    assert open_files() == before
    assert len(children) == 2
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def test_without_a_process_to_be_had_nothing_is_done(tmp_path, monkeypatch):
    def none():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", none)
    done_by_copies([written(tmp_path / "made")], 2)
    assert not list(tmp_path.iterdir())


def test_where_no_file_can_be_opened_nothing_is_done(tmp_path, monkeypatch):
    before, pipe = open_files(), os.pipe
    for had in (0, 1):
        pipes = iter([pipe] * had)
        monkeypatch.setattr(os, "pipe", lambda pipes=pipes: next(pipes, none_left)())
        done_by_copies([written(tmp_path / "made")], 2)
        assert not list(tmp_path.iterdir())
        assert open_files() == before


def none_left():
    raise OSError(24, "Too many open files")


def test_a_program_with_a_thousand_open_files_is_no_obstacle(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 1200:
        pytest.skip(f"no more than {limits[1]} files can be open here")
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200, limits[1]))
        while not held or held[-1] < 1024:
            held.append(os.open(os.devnull, os.O_RDONLY))
        done_by_copies([written(tmp_path / "made")], 2)
    finally:
        for file in held:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (tmp_path / "made").exists()


def test_what_is_garbage_in_the_program_is_not_ended_by_its_copies(tmp_path):
    class Held:
        def __del__(self):
            with (tmp_path / "ended").open("a") as file:
                file.write(f"{os.getpid()}\n")

    gc.disable()  # Nothing looks for garbage before the copies do.
    try:
        one = Held()
        one.itself = one
        del one
        done_by_copies([gc.collect] * 4, 2)
    finally:
        gc.enable()
    gc.collect()
    assert (tmp_path / "ended").read_text().splitlines() == [str(os.getpid())]


def test_a_copy_that_is_interrupted_as_it_begins_does_not_go_on_as_the_program(tmp_path, monkeypatch):
    fork, own = os.fork, os.getpid()

    def interrupted():
        if not (child := fork()):
            raise KeyboardInterrupt
        return child

    monkeypatch.setattr(os, "fork", interrupted)
    try:
        done_by_copies([written(tmp_path / "made")], 2)
    except KeyboardInterrupt:
        (tmp_path / "went on").touch()
    finally:
        if os.getpid() != own:
            os._exit(1)
    assert not list(tmp_path.iterdir())
