"""What a user may get wrong about a cluster, each told in a line; none of it needs Dask."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fusetune.errors import MachineError, MissingPackageError, UsageError
from fusetune.fleet.cluster import connected
from fusetune.fleet.gpus import GpuHere
from fusetune.fleet.nannies import serve_gpus
from fusetune.fleet.run import compiling_for_each

GPU = GpuHere(0, "GPU-of-a-test", "NVIDIA H200", "9.0")


@pytest.fixture
def dask(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Dask whose client fails as it is told, and a configuration that is a mapping."""
    told: dict[str, Any] = {"raises": OSError("Timed out")}
    config: dict[str, Any] = {}
    made = ModuleType("dask")

    def client(address: str, **options: Any) -> Any:
        told["address"] = address
        raise told["raises"]

    own = SimpleNamespace(config=config, update=dict.update, get=config.get)
    made.config = own  # type: ignore[attr-defined]
    distributed = ModuleType("distributed")
    distributed.Client = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask", made)
    monkeypatch.setitem(sys.modules, "distributed", distributed)
    return told


def test_without_dask_the_line_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"pip install 'fusetune\[fleet\]'"):
        connected("tcp://10.0.0.1:8786", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'fusetune\[fleet\]'"):
        serve_gpus("tcp://10.0.0.1:8786", [GPU], print)


def test_a_scheduler_that_does_not_answer_is_the_machine_s_trouble(dask: dict[str, Any]) -> None:
    with pytest.raises(
        MachineError, match=r"no scheduler answers at tcp://10\.0\.0\.1:8786: Timed out; start one with"
    ):
        connected("tcp://10.0.0.1:8786", None)


def test_what_is_no_address_is_told_with_what_one_is(dask: dict[str, Any]) -> None:
    dask["raises"] = ValueError("missing port number")
    with pytest.raises(UsageError, match="--scheduler here: missing port number; write tcp://HOST:PORT"):
        connected("here", None)


def test_an_address_without_the_encryption_that_is_asked_for_is_told(dask: dict[str, Any]) -> None:
    dask["raises"] = RuntimeError("encryption required by Dask configuration, refusing communication")
    with pytest.raises(UsageError, match=r"--scheduler tcp://h:1: encryption required"):
        connected("tcp://h:1", None)


def test_a_file_of_dask_s_configuration_says_where_the_scheduler_is(dask: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("scheduler-address: tls://10.0.0.1:8786\n")
    with pytest.raises(MachineError):
        connected(None, path)
    assert dask["address"] == "tls://10.0.0.1:8786"


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "cannot be read as YAML"), ("- a\n", "is no configuration of Dask"), ("a: 1\n", "says no scheduler")],
)
def test_a_file_that_says_no_scheduler_is_named(dask: dict[str, Any], tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        connected(None, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "cores", "workers", "each"),
    [(2, 32, None, 15), (8, 8, None, 1), (1, 16, None, 15), (2, 32, 12, 6), (4, 2, None, 1), (0, 4, None, 3)],
)
def test_the_cores_of_a_machine_are_shared_and_each_gpu_keeps_one(
    gpus: int, cores: int, workers: int | None, each: int
) -> None:
    assert compiling_for_each(gpus, cores, workers) == each
