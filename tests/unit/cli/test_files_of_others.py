"""Bad and odd files in every option that takes somebody's file: one line, exit code 2, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fusetune.cli.main import cli
from fusetune.errors import UsageError
from tests.support.sample import FILE, SIZES

READERS = {
    "list.yaml": ("sweep", "--target", "rtx4090", "--space", "seed", "--shapes"),
    "list.json": ("sweep", "--target", "rtx4090", "--space", "seed", "--shapes"),
    "list.csv": ("sweep", "--target", "rtx4090", "--space", "seed", "--shapes"),
    "profile.csv": ("inspect", *SIZES, "--ncu"),
    "profile.json": ("inspect", *SIZES, "--ncu"),
    "profile.ncu-rep": ("inspect", *SIZES, "--ncu"),
    FILE: ("gate", "--static"),
    "entries.yaml": ("compare", "entries.yaml"),
    "20261123T101500-3f9a.jsonl": ("gate", "--from"),
    "20261123T101500-3f9a.jsonl.gz": ("gate", "--from"),
}
CORPUS = {
    "nothing": b"",
    "blank lines": b"\n\n  \n",
    "zeros": b"\0" * 64,
    "noise": bytes(range(256)) * 4,
    "half a UTF-16 letter": b"\xff\xfe[",
    "a mark and nothing else": b"\xef\xbb\xbf",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a compressed file": b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
    "a report of ncu": b"NVR\0\x10\0\0\0",
    "half a list": b"- {M: 1, N: [",
    "half an object": b'{"M": [1, ',
    "a page": b"<!doctype html><title>404</title>",
    "deep lists": b"[" * 20_000,
    "deep objects": b'{"a":' * 20_000,
    "an endless number": b'[{"M": ' + b"9" * 6000 + b"}]",
    "numbers that are none": json.dumps({"k": {"a__b": float("nan"), "c__d": float("inf")}}).encode(),
    "an alias of itself": b"&a [*a]",
    "a nest of aliases": b"a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n",
    "code": b"!!python/object/apply:os.system ['true']",
    "a stray quotation mark": b'M,N,K\n"1,2,3\n',
    "control letters": b"\x1b[2J\x07: \x00",
    "a header alone": b"M,N,K\n",
    "a profile without values": b'"ID","Kernel Name"\n',
    "a wide cell": b"M,N,K\n" + b"1" * 150_000 + b",2,3\n",
    "null": b"null",
    "true": b"true",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("what", CORPUS)
def test_a_bad_file_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSETUNE_RUNS", str(tmp_path / "runs"))
    Path(name).write_bytes(CORPUS[what])
    error = CliRunner().invoke(cli, [*READERS[name], name]).exception
    assert isinstance(error, UsageError), repr(error)
    assert error.exit_code == 2
    assert name in str(error)
    lines = str(error).splitlines()
    # A list of problems tells each bad row.
    assert all(name in line for line in lines), lines
    assert len(lines) == 1 or name.startswith("list.")
    assert max(map(len, lines)) < 1000


@pytest.mark.parametrize("name", ["list.yaml", "profile.csv", FILE])
def test_a_folder_and_a_file_that_is_not_there_are_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli, [*READERS[name], name]).exit_code != 0
    Path(name).mkdir()
    done = CliRunner().invoke(cli, [*READERS[name], name])
    assert done.exit_code == 2 or isinstance(done.exception, UsageError)
