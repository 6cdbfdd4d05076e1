"""What the server loads before it forks, beside one another."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from fusetune.measure import libraries


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_tritons_driver_is_built_while_triton_hashes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = pytest.importorskip("triton.backends.nvidia.driver")
    cache = pytest.importorskip("triton.runtime.cache")
    built, hashed = threading.Event(), []
    monkeypatch.setattr(driver, "CudaUtils", built.set)
    monkeypatch.setattr(cache, "triton_key", lambda: hashed.append(built.wait(20)))
    libraries.load_libraries()
    assert hashed == [True], "and both are done when it has loaded"


@pytest.mark.parametrize("broken", ["CudaUtils", "triton_key"])
def test_what_cannot_be_primed_is_left_to_the_first_launch(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    driver = pytest.importorskip("triton.backends.nvidia.driver")
    cache = pytest.importorskip("triton.runtime.cache")
    primed: list[str] = []

    def prime(name: str) -> None:
        if name == broken:
            raise OSError("planted")
        primed.append(name)

    monkeypatch.setattr(driver, "CudaUtils", lambda: prime("CudaUtils"))
    monkeypatch.setattr(cache, "triton_key", lambda: prime("triton_key"))
    libraries.load_libraries()
    assert primed == [name for name in ("CudaUtils", "triton_key") if name != broken]


def test_threads_take_turns_as_usual_once_all_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    usual_s, while_loading = sys.getswitchinterval(), []
    monkeypatch.setattr(libraries, "_prime_triton", lambda: while_loading.append(sys.getswitchinterval()))
    libraries.load_libraries()
    assert while_loading == [pytest.approx(1e-4)]
    assert sys.getswitchinterval() == usual_s
    assert gc.isenabled()
