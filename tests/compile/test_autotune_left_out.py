"""Configs of a list that cannot be launched here, and are no end of a launch: as where `@triton.autotune` times all."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources

import fusetune
from tests.support.fake_gpu import FakeUtils, fake_gpu, on_gpu
from tests.support.launch_entries import alone

LARGE = [triton.Config({"BLOCK": 256}, num_warps=32), triton.Config({"BLOCK": 512}, num_warps=32)]
SMALL = triton.Config({"BLOCK": 64}, num_warps=2)
US = {256: 1.0, 512: 2.0, 64: 3.0}
pytestmark = pytest.mark.filterwarnings("ignore:fusetune has no tuned config")


@triton.jit
def doubled(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK < 1024, "no such tile")
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


@pytest.fixture(autouse=True)
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    alone(tmp_path, monkeypatch)
    yield
    fusetune.load()


@pytest.fixture
def gpu() -> Iterator[FakeUtils]:
    with fake_gpu([doubled]) as fake:
        fake.load_binary = lambda *_: (1, 4242, 32, 0, 512)  # type: ignore[method-assign] # threads a block may have
        yield fake


def launch(kernel: Any, n: int = 4096) -> Any:
    return kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](on_gpu(4096), on_gpu(4096), n)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"default": 1},
        {"prune_configs_by": {"early_config_prune": lambda configs, named, **_: configs[1:]}},
        {"prune_configs_by": {"perf_model": lambda BLOCK, **_: US[BLOCK], "top_k": 1}},
    ],
    ids=["list", "default", "prune", "model"],
)
def test_a_default_that_does_not_fit_gives_way_to_the_next_of_the_list_with_one_warning(
    gpu: FakeUtils, more: dict[str, Any]
) -> None:
    kernel = fusetune.autotune([*LARGE, SMALL], ["n"], **more)(doubled)
    with pytest.warns(RuntimeWarning, match="fusetune runs BLOCK=64 w2 s3 for doubled, since BLOCK=") as told:
        assert launch(kernel).metadata.num_warps == 2
    assert len([one for one in told if "cannot be launched here (OutOfResources" in str(one.message)]) == 1
    assert kernel.best_config is SMALL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch(kernel)
        launch(kernel, 4080)
    assert len(gpu.launched) == 1, "past the JIT, as any default"


def test_threads_find_it_out_at_once(gpu: FakeUtils) -> None:
    kernel = fusetune.autotune([*LARGE, SMALL], ["n"])(doubled)
    start = threading.Barrier(4)

    def work(first: int) -> set[int]:
        start.wait()
        return {launch(kernel, first + 16 * number).metadata.num_warps for number in range(20)}

    with pytest.warns(RuntimeWarning, match="cannot be launched here") as told, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, (64, 1024, 2048, 3072)))
    assert found == [{2}] * 4
    assert len([one for one in told if "cannot be launched here" in str(one.message)]) == 1


def test_one_that_does_not_compile_by_its_own_assertion_gives_way(gpu: FakeUtils) -> None:
    kernel = fusetune.autotune([triton.Config({"BLOCK": 1024}), SMALL], ["n"])(doubled)
    with pytest.warns(RuntimeWarning, match="since BLOCK=1024 w4 s3 cannot be launched here"):
        launch(kernel)
    assert kernel.best_config is SMALL


def test_where_nothing_of_a_list_fits_the_first_error_is_the_launch_s_each_time(gpu: FakeUtils) -> None:
    def anew(*_: Any, **__: Any) -> list[triton.Config]:
        return [triton.Config({"BLOCK": 64}, num_warps=32, pre_hook=lambda _: None)]  # is never one of before

    pruned = {"early_config_prune": anew}
    for kernel in (fusetune.autotune(LARGE, ["n"])(doubled), fusetune.autotune(LARGE, ["n"], pruned)(doubled)):
        for _ in range(2):
            with pytest.raises(OutOfResources):
                launch(kernel)


def test_a_kernel_s_own_mistake_is_told_at_once(gpu: FakeUtils) -> None:
    tried = []
    listed = [
        triton.Config({"BLOCK": block}, pre_hook=lambda named: tried.append(named["BLOCK"])) for block in (48, 64)
    ]
    with pytest.raises(triton.CompilationError):
        launch(fusetune.autotune(listed, ["n"])(doubled))  # no power of two
    assert tried == [48]
