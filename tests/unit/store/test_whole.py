"""What is written where somebody asked for it: files whole, and into what is no file."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fusetune.core.environment import TargetIdentity
from fusetune.errors import ConfigFileError, UsageError
from fusetune.gate.outputs import write_outputs
from fusetune.report import files
from fusetune.store.whole import write_whole
from fusetune.store.yaml_files import write_entry
from tests.support.sample import FILE, OP, SIZES, Config
from tests.unit.gate.test_gate import kept

TEXT = "one line\nand another, ü\n" * 5000

WRITERS: Mapping[str, Callable[[Path], object]] = {
    "the store": lambda path: write_whole(path, TEXT),
    "a report": lambda path: files.write_whole(path, TEXT),
    "the gate's JUnit": lambda path: write_outputs([], {"junit": path}, {}),
    "the gate's Markdown": lambda path: write_outputs([], {"markdown": path}, {}),
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


def kind(path: Path) -> Callable[[int], bool]:
    mode = path.lstat().st_mode
    return next(one for one in (stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISLNK, stat.S_ISSOCK, stat.S_ISREG) if one(mode))


@every_writer
def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text(encoding="utf-8")))
    reader.start()
    write(path)
    reader.join(10)
    assert read[0].strip()
    assert kind(path) is stat.S_ISFIFO
    assert list(tmp_path.iterdir()) == [path]


@every_writer
def test_a_device_is_written_into_and_stays_a_device(tmp_path: Path, write: Callable[[Path], object]) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.open("wb").close()
    except OSError:
        device = tmp_path / "link"  # No device can be made here: a link to one is to be followed all the same.
        device.symlink_to("/dev/null")
    write(device)
    assert kind(device) in {stat.S_ISCHR, stat.S_ISLNK}
    assert stat.S_ISCHR(Path(device).stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("text", ["short", TEXT])
def test_a_full_device_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(UsageError, match=r"^cannot write /dev/full: No space left on device; [^\n]*$"):
        files.write_whole(Path("/dev/full"), text)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@every_writer
def test_what_cannot_be_written_into_is_one_line_and_stays(tmp_path: Path, write: Callable[[Path], object]) -> None:
    folder, plug = tmp_path / "folder", tmp_path / "socket"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(plug))
        for path in (folder, plug, tmp_path / "none" / "file", plug / "below"):
            with pytest.raises((UsageError, OSError)) as raised:
                write(path)
            assert "\n" not in str(raised.value)
        assert kind(plug) is stat.S_ISSOCK
    assert sorted(tmp_path.iterdir()) == [folder, plug]


@every_writer
def test_a_link_stays_one_and_its_file_keeps_its_mode(tmp_path: Path, write: Callable[[Path], object]) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real")
    write(link)
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8").strip() != "old"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling"
    dangling.symlink_to("new")
    write(dangling)
    assert dangling.is_symlink()
    assert (tmp_path / "new").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 12345, 23456)
    assert write_whole(path, TEXT)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize("length", [255, 200])
def test_a_long_name_is_no_longer_on_the_way(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("n" * length)
    assert write_whole(path, TEXT)
    assert path.read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_into_whatever_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    program = (
        "import sys; from pathlib import Path; from fusetune.store.whole import write_whole\n"
        "print('before'); print(write_whole(Path(sys.argv[1]), 'text\\n'))"
    )
    command = [sys.executable, "-c", program, name]
    piped = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert piped.stdout == "before\ntext\nFalse\n"
    log = tmp_path / "log"
    log.write_text("kept\n")
    with log.open("a") as appended:
        subprocess.run(command, stdout=appended, check=True, cwd=tmp_path)
    assert log.read_text() == "kept\nbefore\ntext\nFalse\n"


def test_an_entry_goes_into_no_device_that_stands_where_its_file_should(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.symlink_to("/dev/null")
    with pytest.raises(ConfigFileError, match="is no regular file"):
        write_entry(path, OP, TargetIdentity("any GPU", "9.0", 132), kept(config=Config()))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_an_export_can_be_piped_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fusetune", "export", *SIZES, "--target", "rtx4090"]
    to_device = subprocess.run([*command, "-o", "/dev/stdout"], capture_output=True, text=True, check=False)
    assert (to_device.returncode, to_device.stderr) == (0, "")
    assert to_device.stdout.startswith("# y = ")
    assert "Wrote" not in to_device.stdout
    compile(to_device.stdout, "exported", "exec")
