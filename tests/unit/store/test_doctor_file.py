"""The file of `fusetune doctor`: what is written is read back, and what is no such file is told with its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import structs

from fusetune.core.environment import TargetIdentity
from fusetune.errors import ConfigFileError, NewerSchemaError
from fusetune.store.doctor_file import (
    DOCTOR_VERSION,
    DoctorFile,
    Examined,
    Finding,
    GainFound,
    Launched,
    NotReached,
    Recorded,
    Versions,
    doctor_text,
    read_doctor_file,
)

FILE = DoctorFile(
    doctor=DOCTOR_VERSION,
    date="2026-11-30",
    complete=False,
    versions=Versions("0.1.0", "3.12.3", "Linux", torch="2.11.0", triton="3.6.0"),
    gpu=TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132),
    findings=(Finding("gpu", "ok", "NVIDIA H200"), Finding("power", "note", "250 W", "lift it")),
    kernels=(
        Examined(
            "an_op",
            {"n": 4096},
            "n=4096",
            tolerance=1e-3,
            launched=(
                Launched(
                    {"BLOCK": 256, "num_warps": 4},
                    "BLOCK=256 w4 s2",
                    "entry",
                    "right",
                    error=1e-4,
                    us=5.0,
                    baseline_us=10.0,
                    gain=GainFound(0.5, 0.49, None, 0.95, 25),
                    recorded=Recorded("measured", "keep", "2026-11-26", 5.1, 10.1, 0.495),
                ),
            ),
        ),
    ),
    not_reached=(NotReached("an_op", "n=8192"),),
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "doctor.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read_doctor_file(written(tmp_path, doctor_text(FILE))) == FILE


def test_the_text_is_json_with_a_line_for_each_finding_and_problem() -> None:
    text = doctor_text(FILE)
    assert json.loads(text)["doctor"] == DOCTOR_VERSION
    lines = text.splitlines()
    assert sum(line.startswith('    {"check":') for line in lines) == 2
    assert sum(line.startswith('    {"op":"an_op","problem"') for line in lines) == 1


def test_a_newer_file_says_to_update(tmp_path: Path) -> None:
    text = doctor_text(FILE).replace('"doctor": 1', '"doctor": 99').replace('"date"', '"day"')
    with pytest.raises(NewerSchemaError, match=r"doctor\.json: it is of version 99, .* update fusetune"):
        read_doctor_file(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field"),
        ('{"doctor": "x"}', r"at `\$.doctor`"),
        ("[" * 100_000, "doctor.json"),
        (doctor_text(FILE).replace('"complete": false', '"complete": 3'), r"at `\$.complete`"),
        (doctor_text(FILE).replace('"note"', '"fine"'), r"at `\$.findings\[1\].level`"),
        (doctor_text(FILE).replace('"date"', '"day"'), "unknown field `day`"),
        (doctor_text(FILE).replace('"us":5.0', '"us":-5.0'), r"launched\[0\].us`"),
    ],
)
def test_what_is_no_such_file_is_told_with_its_name_and_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigFileError, match=told) as raised:
        read_doctor_file(written(tmp_path, text))
    assert "doctor.json" in str(raised.value)
    assert "name a file that" in str(raised.value)


def test_a_file_that_is_not_there_a_folder_and_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path, binary):
        with pytest.raises(ConfigFileError, match=str(path)):
            read_doctor_file(path)


def test_a_file_of_the_machine_alone_needs_no_gpu(tmp_path: Path) -> None:
    alone = structs.replace(FILE, gpu=None, kernels=(), not_reached=(), complete=True)
    assert read_doctor_file(written(tmp_path, doctor_text(alone))) == alone
