"""Which config a launch of somebody's kernel gets, and why another one gets none."""

from __future__ import annotations

import enum
import os
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.core.environment import TargetIdentity
from fusetune.runtime import launch_configs
from fusetune.runtime.launch_configs import LaunchConfigs
from tests.support.launch_entries import alone, write_tuned


@triton.jit
def scaled(x_ptr, y_ptr, n, eps, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * eps + GROUP, mask=at < n)


@triton.jit(do_not_specialize=["step"])
def stepped(x_ptr, step, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), step)


BEFORE = NamedConfig(BLOCK=256, num_warps=4, num_stages=3)
TUNED = NamedConfig(BLOCK=1024, num_warps=8, num_stages=2)
OTHER = NamedConfig(BLOCK=512, num_warps=2, num_stages=2)
PROBLEM = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "eps": 1e-5, "GROUP": 8, "grid_0": 16}


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    yield alone(tmp_path, monkeypatch)
    fusetune.load()


def problem(**changes: Any) -> dict[str, Any]:
    return {**PROBLEM, **changes}


def given(**changes: Any) -> dict[str, Any]:
    x = torch.zeros(8192)
    return {"x_ptr": x, "y_ptr": x, "n": 4096, "eps": 1e-5, "GROUP": 8, **changes}


def grid(meta: Any) -> tuple[int, ...]:
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


def test_an_exact_launch_gets_its_entry_by_the_kernel_s_own_names(configs):
    path = write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    found = LaunchConfigs().find(scaled, given(), grid)
    assert (found.rung, found.file) == ("exact", path.relative_to(path.parents[2]))
    assert (found.constants, found.options) == ({"BLOCK": 1024}, {"num_warps": 8, "num_stages": 2})
    assert found.follows == ()


def test_sizes_of_one_power_of_two_bucket_share_a_config_and_the_nearest_wins(configs):
    write_tuned(configs, scaled, problem(n=2064, grid_0=9), OTHER, before=BEFORE)
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    found = LaunchConfigs().find(scaled, given(n=4000), grid)
    assert (found.rung, found.constants) == ("nearest", {"BLOCK": 1024})
    assert "nearest" in found.why
    assert LaunchConfigs().find(scaled, given(n=2080), grid).constants == {"BLOCK": 512}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n": 2048}, "n=4096, which is 2048 here"),
        ({"n": 4097}, "n=4096"),
        ({"n": 4001}, "n=4096, which is 4001 here"),  # not divisible by 16
        ({"n": 1}, "n=4096"),
        ({"GROUP": 16}, "GROUP=8"),
        ({"GROUP": True}, "GROUP=8"),
        ({"GROUP": 7}, "GROUP=8"),
        ({"x_ptr": torch.zeros(8192, dtype=torch.float16)}, "x_ptr=float32, which is float16 here"),
        ({"x_ptr": torch.zeros(8192)[1:]}, "which is float32 unaligned here"),
        ({"y_ptr": None}, "y_ptr=float32, which is None here"),
        ({"eps": 1}, "eps"),
    ],
    ids=str,
)
def test_what_makes_other_code_or_lies_in_another_bucket_is_a_miss_that_says_why(configs, changes, told):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    found = LaunchConfigs().find(scaled, given(**changes), grid)
    assert found.rung == "miss"
    assert told in found.why
    assert not found.constants
    assert not found.options


def test_no_float_tells_launches_apart(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    lookups = LaunchConfigs()
    assert {lookups.find(scaled, given(eps=eps), grid).rung for eps in (0.5, 1e-6, float("inf"))} == {"exact"}
    assert len(lookups._fitting) == 2, "an infinite one is told by a word"


def test_numbers_of_numpy_and_of_an_enumeration_are_numbers(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    group = enum.IntEnum("Group", {"WIDE": 8}).WIDE
    found = LaunchConfigs().find(scaled, given(eps=np.float64(1e-5), GROUP=group), grid)
    assert found.rung == "exact", found.why


def test_a_number_that_is_not_specialized_need_not_be_divisible_alike(configs):
    write_tuned(configs, stepped, {"x_ptr": "float32", "step": 112}, NamedConfig(BLOCK=64, num_warps=1))
    found = LaunchConfigs().find(stepped, {"x_ptr": torch.zeros(64), "step": 113}, (1,))
    assert found.rung == "nearest"


def test_equal_distances_are_decided_in_a_fixed_order(configs):
    for n in (2560, 3600):
        write_tuned(configs, scaled, problem(n=n), NamedConfig(BLOCK=n // 16 * 16, num_warps=4))
    chosen = [LaunchConfigs().find(scaled, given(n=3040)) for _ in range(3)]
    assert len({one.number for one in chosen}) == 1
    write_tuned(configs, scaled, problem(n=2304, y_ptr="float16"), OTHER)
    write_tuned(configs, scaled, problem(n=4096, y_ptr="float16"), TUNED)
    tie = given(n=3072, y_ptr=torch.zeros(9, dtype=torch.float16))
    fusetune.reload()
    assert LaunchConfigs().find(scaled, tie).constants == {"BLOCK": 1024}, "of equal ratios the larger"


def test_a_grid_that_no_argument_tells_is_compared_at_before_s_constants(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    lookups = LaunchConfigs()
    assert lookups.find(scaled, given(), (16,)).rung == "exact"
    assert lookups.find(scaled, given(), (12,)).rung == "nearest"
    far = lookups.find(scaled, given(), (64,))
    assert (far.rung, "its grid, grid_0=16" in far.why) == ("miss", True)
    assert lookups.find(scaled, given(), (16, 2)).rung == "miss", "another axis"
    assert lookups.find(scaled, given(), None).rung == "exact", "left open"


def test_before_s_constants_are_those_of_the_list_where_it_was_baseline(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED)
    listed = [{"BLOCK": 256, "num_warps": 4, "num_stages": 2}, {"BLOCK": 32, "num_warps": 8, "num_stages": 3}]
    assert LaunchConfigs().find(scaled, given(), grid, listed=listed).rung == "exact"
    assert LaunchConfigs().find(scaled, given(), grid, listed=listed[1:]).rung == "exact", "it cannot be told"


def test_constants_that_a_tuner_gives_alone_have_to_be_those_of_the_entry(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    launch = {name: value for name, value in given().items() if name != "GROUP"}
    lookups = LaunchConfigs()
    assert lookups.find(scaled, launch, grid, supplied={"GROUP": 8, "BLOCK": 64}).rung == "exact"
    assert lookups.find(scaled, launch, grid, supplied={"GROUP": 4, "BLOCK": 64}).rung == "miss"
    assert "a launch that gives GROUP" in lookups.find(scaled, launch, grid).why


def test_a_constant_that_is_true_is_not_one_that_is_1(configs):
    write_tuned(configs, scaled, problem(GROUP=1), TUNED, before=BEFORE)
    launch = {name: value for name, value in given().items() if name != "GROUP"}
    lookups = LaunchConfigs()
    assert lookups.find(scaled, launch, grid, supplied={"GROUP": 1, "BLOCK": 64}).rung == "exact"
    assert lookups.find(scaled, launch, grid, supplied={"GROUP": True, "BLOCK": 64}).rung == "miss"


def test_arguments_that_the_entry_leaves_out_follow_its_constants(configs):
    write_tuned(configs, scaled, {name: one for name, one in PROBLEM.items() if name != "GROUP"}, TUNED, before=BEFORE)
    assert LaunchConfigs().find(scaled, given(GROUP=4), grid).follows == ("GROUP",)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"source_hash": "5ca1ab1e5ca1ab1e"}, "the kernel source has changed"),
        ({"identity": TargetIdentity(name="NVIDIA H200", capability="9.0", sms=114)}, "114 SMs"),
        ({"identity": TargetIdentity(name="NVIDIA H100", capability="9.0", sms=132)}, "no entry"),
    ],
    ids=["source", "SMs", "GPU"],
)
def test_another_kernel_or_gpu_is_not_used(configs, entry, told):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE, **entry)
    found = LaunchConfigs().find(scaled, given(), grid)
    assert (found.rung, told in found.why) == ("miss", True), found.why


def test_another_triton_is_used_with_one_warning(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE, triton="3.5.1")
    with pytest.warns(RuntimeWarning, match="file has 3.5.1") as seen:
        rungs = [LaunchConfigs().find(scaled, given(n=n), grid).rung for n in (4096, 4000)]
    assert (len(seen), rungs) == (1, ["exact", "nearest"])


def test_what_cannot_be_launched_is_refused_with_one_warning_and_the_next_entry_is_used(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    write_tuned(configs, scaled, problem(n=4000, grid_0=16), OTHER, before=BEFORE)
    lookups = LaunchConfigs()
    first = lookups.find(scaled, given(), grid)
    with pytest.warns(RuntimeWarning, match="out of resource") as seen:
        lookups.refuse(scaled, first, "OutOfResources: out of resource: shared memory")
    assert len(seen) == 1
    assert lookups.find(scaled, given(), grid).constants == {"BLOCK": 512}
    assert "out of resource" in lookups.find(scaled, given(), grid).skipped[0]
    fusetune.reload()
    assert lookups.find(scaled, given(), grid).constants == {"BLOCK": 1024}, "loaded again"


def test_the_source_is_hashed_once_and_for_kernels_with_entries_alone(configs, monkeypatch):
    hashed = []
    own = launch_configs.source_hash_of
    monkeypatch.setattr(launch_configs, "source_hash_of", lambda one: hashed.append(one) or own(one))
    lookups = LaunchConfigs()
    assert lookups.find(scaled, given(), grid).rung == "miss"
    assert not hashed
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    fusetune.reload()
    assert [lookups.find(scaled, given(n=n), grid).rung for n in (4096, 4000)] == ["exact", "nearest"]
    assert hashed == [scaled]
    fusetune.reload()
    lookups._hashes.clear()
    monkeypatch.setattr(launch_configs, "source_hash_of", lambda one: int("no source"))
    assert "source cannot be read" in lookups.find(scaled, given(), grid).why


def test_a_damaged_entry_is_a_miss_with_one_warning(configs):
    path = write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    path.write_text(path.read_text().replace("verdict: keep", "verdict: sure"))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert LaunchConfigs().find(scaled, given(), grid).rung == "miss"


def test_a_capture_of_a_cuda_graph_reads_no_disk_and_is_not_remembered(configs, monkeypatch):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    lookups = LaunchConfigs()
    monkeypatch.setattr(launch_configs, "is_capturing", lambda: True)
    monkeypatch.setattr("fusetune.runtime.configs.open_config_file", None)
    monkeypatch.setattr("fusetune.runtime.launch_configs.source_hash_of", None)
    missed = lookups.find(scaled, given(), grid)
    assert (missed.rung, missed.remember, "while a CUDA graph is captured" in missed.why) == ("miss", False, True)
    monkeypatch.undo()
    monkeypatch.setattr(
        launch_configs, "current_identity", lambda: launch_configs.TargetIdentity("NVIDIA H200", "9.0", 132)
    )
    fusetune.load(configs)
    assert lookups.find(scaled, given(), grid).rung == "exact"
    monkeypatch.setattr(launch_configs, "is_capturing", lambda: True)
    assert lookups.find(scaled, given(), grid).rung == "exact", "it is in memory"


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(launch_configs, "current_identity", lambda: None)
    assert "CUDA" in LaunchConfigs().find(scaled, given(), grid).why


def test_threads_and_a_fork_see_the_same(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    lookups = LaunchConfigs()
    barrier = threading.Barrier(8)

    def look(n: int) -> Any:
        barrier.wait()
        return lookups.find(scaled, given(n=n), grid).constants

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(look, range(4000, 4128, 16))) == [{"BLOCK": 1024}] * 7 + [{}]
    with lookups._lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own of a fork beside threads
        child = os.fork()
        if not child:
            found = lookups.find(scaled, given(n=4080), grid)
            os._exit(found.constants != {"BLOCK": 1024})
    assert os.waitpid(child, 0)[1] == 0


def test_so_many_kinds_of_launches_are_kept_and_no_more(configs, monkeypatch):
    monkeypatch.setattr(launch_configs, "MOST_FOUND", 10)
    lookups = LaunchConfigs()
    for n in range(100):
        lookups.find(scaled, given(n=n), grid)
    assert len(lookups._fitting) <= 10


def test_kernels_that_a_program_makes_at_each_call_are_not_kept_for_good(configs, monkeypatch):
    monkeypatch.setattr(launch_configs, "MOST_FOUND", 4)
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    lookups = LaunchConfigs()
    for _ in range(10):
        made = types.FunctionType(scaled.fn.__code__, globals(), scaled.fn.__name__)
        assert lookups.find(triton.jit(made), given(), grid).rung == "exact"
    assert len(lookups._kernels) <= 4
