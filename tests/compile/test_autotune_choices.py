"""Which launches `@fusetune.autotune` takes for one, and what its config has beside what an entry names."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import triton
import triton.language as tl

import fusetune
from fusetune.core.config import NamedConfig
from tests.support.fake_gpu import fake_gpu, on_gpu
from tests.support.launch_entries import alone, write_tuned


@triton.jit
def evenly(x_ptr, n, factor, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at) if EVEN else tl.load(x_ptr + at, mask=at < n)
    tl.store(x_ptr + at, x * factor, mask=at < n)


@triton.jit
def grouped(x_ptr, n, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) + GROUP, mask=at < n)


BEFORE = NamedConfig(BLOCK=256, num_warps=4, num_stages=3)
CONFIGS = [triton.Config({"BLOCK": 256}, num_warps=4, num_stages=3), triton.Config({"BLOCK": 64}, num_warps=2)]


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    with fake_gpu([evenly, grouped]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fusetune has no tuned config")
        yield alone(tmp_path, monkeypatch)
    fusetune.load()


def grid(meta: Any) -> tuple[int, ...]:
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


def test_its_parameters_are_those_of_this_triton_s_with_the_same_defaults_and_one_more():
    theirs, ours = (inspect.signature(one.autotune).parameters for one in (triton, fusetune))
    named = [(one.name, one.default, one.kind) for one in ours.values()]
    assert named[:-1] == [(one.name, one.default, one.kind) for one in theirs.values()]
    assert named[-1][0] == "default"


@pytest.mark.parametrize("nothing", [None, ()])
def test_without_a_list_and_a_key_it_launches_as_triton_s_own(nothing):
    launches = []
    for tuner, key in ((triton.autotune, ()), (fusetune.autotune, nothing)):  # Triton 3.9 wants a key that is a list
        kernel = tuner(configs=nothing, key=key)(evenly)
        compiled = kernel[(6,)](on_gpu(2048), 1536, 2.0, BLOCK=256, EVEN=True)
        launches.append((compiled.metadata.num_warps, compiled.metadata.num_stages))
    assert launches == [(4, 3)] * 2


@pytest.mark.parametrize(
    ("heuristic", "other"),
    [
        (lambda args: args["n"] % 256 == 0, {"n": 1552}),
        (lambda args: args["factor"] > 1.0, {"factor": 0.5}),
        (lambda args: args["x_ptr"].shape[0] == 2048, {"x": on_gpu(4096)}),
        (lambda args: args["x_ptr"].stride(0) == 1, {"x": on_gpu(2048)[::2]}),
    ],
    ids=["a number", "a float", "a shape", "strides"],
)
def test_what_heuristics_make_of_a_launch_tells_it_from_others(configs, heuristic, other):
    problem = {"x_ptr": "float32", "n": 1536, "factor": 2.0, "EVEN": True, "grid_0": 6}
    write_tuned(configs, evenly, problem, NamedConfig(BLOCK=512, num_warps=8, num_stages=2), before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(triton.heuristics({"EVEN": heuristic})(evenly))
    warps = []
    for changes in ({}, other, {}):
        given = {"x": on_gpu(2048), "n": 1536, "factor": 2.0, **changes}
        warps.append(kernel[grid](*given.values()).metadata.num_warps)
    assert warps == [8, 4, 8]


def test_a_tuned_config_has_what_its_problem_says_of_the_list_s_other_constants(configs):
    problem = {"x_ptr": "float32", "n": 1536, "GROUP": 8, "grid_0": 6}
    write_tuned(configs, grouped, problem, NamedConfig(BLOCK=64, num_warps=4, num_stages=3), before=BEFORE)
    listed = [triton.Config({"BLOCK": 64, "GROUP": 4}), triton.Config({"BLOCK": 256, "GROUP": 8})]
    kernel = fusetune.autotune(listed, ["n"], default=1)(grouped)
    kernel[grid](on_gpu(2048), 1536)
    assert kernel.best_config.kwargs == {"BLOCK": 64, "GROUP": 8}


def test_a_float_that_is_traced_is_no_size(configs):
    problem = {"x_ptr": "float32", "n": 1536, "GROUP": 8, "grid_0": 6}
    write_tuned(configs, grouped, problem, NamedConfig(BLOCK=64, num_warps=8), before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(grouped)
    given = {"x_ptr": on_gpu(2048), "GROUP": 8}
    prune: Any = kernel.early_config_prune
    assert [prune(kernel.configs, {**given, "n": n})[0].num_warps for n in (1536, 1536.0)] == [8, 4]
