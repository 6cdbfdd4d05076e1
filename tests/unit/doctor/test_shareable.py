"""Nothing that is sent to others names a user, a host, a folder, a card or a process."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.doctor.findings import found
from fusetune.doctor.shareable import A_PATH, AN_ID, shareable, shareable_platform
from fusetune.doctor.visit import Wish
from fusetune.errors import MachineError
from fusetune.measure.protocol import Failure
from fusetune.ops.loading import load_spec
from fusetune.store.doctor_file import doctor_text
from tests.support.sick_machines import NAMES, UUID, Bench, visited


@pytest.fixture(autouse=True)
def of_ada(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a name, on a host with one."""
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ada")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("HOSTNAME", "lovelace-box.example.org")
    monkeypatch.setattr("platform.node", lambda: "lovelace-box.example.org")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the disk of /home/ada/.triton/cache is full", "the disk of (a path) is full"),
        ("~/.triton/cache: no room", "(a path): no room"),
        ("/scratch/x/k.py:12: error", "(a path):12: error"),
        ("GPU-01234567-89ab-cdef-0123-456789abcdef is lost", "(an id) is lost"),
        ("01234567-89ab-cdef-0123-456789abcdef", "(an id)"),
        ("MIG-01234567-89ab-cdef-0123-456789abcdef", "(an id)"),
        ("of user ada on lovelace-box", "of user (the user) on (this host)"),
        ("lovelace-box.example.org says no", "(this host) says no"),
        ("Linux-6.8.0-ada-x86_64", "Linux-6.8.0-(the user)-x86_64"),
        ("a\x1b[2Jb\nc", "a\\x1b[2Jb\\x0ac"),
    ],
)
def test_what_names_somebody_is_replaced(text: str, expected: str) -> None:
    assert shareable(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Linux-6.18.44-acme-v657-gpu-x86_64-with-glibc2.39", "Linux-6.18.44-x86_64-with-glibc2.39"),
        ("Linux-6.8.0-45-generic-x86_64-with-glibc2.39", "Linux-6.8.0-x86_64-with-glibc2.39"),
        (
            "Linux-5.15.167.4-microsoft-standard-WSL2-x86_64-with-glibc2.35",
            "Linux-5.15.167.4-WSL2-x86_64-with-glibc2.35",
        ),
        ("Linux-6.1.0-aarch64-with-glibc2.36", "Linux-6.1.0-aarch64-with-glibc2.36"),
        ("Linux-6.8.0-lovelace-box-x86_64", "Linux-6.8.0-x86_64"),
        ("something of lovelace-box", "something of (this host)"),
    ],
)
def test_of_the_platform_who_built_the_kernel_is_left_out(text: str, expected: str) -> None:
    assert shareable_platform(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Driver/library version mismatch",
        "the 4-warp / 2-stage config",
        "z: relative error 3.20e-01 (allowed 8.0e-04)",
        "adamant, and a dated canada",
        "580.82.07, runs CUDA up to 13.0",
        "64x16x128 w4 s3",
    ],
)
def test_what_names_nobody_stays(text: str) -> None:
    assert shareable(text) == text


@settings(max_examples=25)
@given(st.text(max_size=40), st.text(max_size=40))
def test_wherever_a_home_stands_it_is_gone(before: str, after: str) -> None:
    told = shareable(f"{before} /home/ada/{after}")
    assert "/home/ada" not in told
    assert shareable(told) == told


def test_root_is_nobody_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "root")
    monkeypatch.setenv("HOME", "/root")
    assert shareable("the root of a tree") == "the root of a tree"


def test_a_finding_keeps_for_this_user_what_it_leaves_out_for_others() -> None:
    one = found("disk", "unfit", "no room in /home/ada/x", "make room")
    assert one.finding.told == f"no room in {A_PATH}"
    assert one.private == "no room in /home/ada/x"


def test_no_file_holds_anything_of_a_user_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish(ops=(load_spec("tests.support.doubled:SPEC").name,))
    said = f"{' '.join(NAMES)} GPU-{UUID}"
    labels = [one.label for one in visited(monkeypatch, wish=wish).file.kernels[0].launched[1:]]
    bench = Bench(
        others=("pid 4242 (python train_secret.py)",), fails=dict.fromkeys(labels, Failure("launch_error", said))
    )
    worst = Bench(prepares=MachineError(said))
    for one in (bench, worst):
        visit = visited(monkeypatch, one, wish=wish, troubles=(said,), no_gpu=said, driver=None)
        text = doctor_text(visit.file)
        for secret in (*NAMES, UUID, "4242", "train_secret", "SN1234567"):
            assert secret not in text, secret
        assert AN_ID in text
