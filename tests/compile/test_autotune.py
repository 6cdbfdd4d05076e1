"""`@fusetune.autotune` on a GPU that is not there: what it launches with, and what goes past Triton's JIT."""

from __future__ import annotations

import threading
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.ops import direct
from fusetune.runtime import autotune as autotuning
from tests.support.fake_gpu import fake_gpu, on_gpu
from tests.support.launch_entries import alone, write_tuned

SHIFT = tl.constexpr(3)


@triton.jit
def scaled(x_ptr, y_ptr, n, factor, WIDE: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr = False):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * factor + SHIFT, mask=at < n)


@triton.jit
def evenly(x_ptr, y_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at) if EVEN else tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x, mask=at < n)


@triton.jit
def biased(x_ptr, bias_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    if bias_ptr is not None:
        x += tl.load(bias_ptr + at, mask=at < n)
    tl.store(x_ptr + at, x, mask=at < n)


@triton.jit
def oddly(tuple, len, int, grid_0, BLOCK: tl.constexpr):
    tl.store(tuple + tl.arange(0, BLOCK), len * int + grid_0)


CONFIGS = [triton.Config({"BLOCK": 256}, num_warps=4, num_stages=3), triton.Config({"BLOCK": 64}, num_warps=2)]
PROBLEM = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "factor": 2.0, "WIDE": 8, "EVEN": False, "grid_0": 16}
BEFORE = NamedConfig(BLOCK=256, num_warps=4, num_stages=3)
TUNED = NamedConfig(BLOCK=1024, num_warps=8, num_stages=2)


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    yield alone(tmp_path, monkeypatch)
    fusetune.load()


@pytest.fixture
def gpu():
    with fake_gpu([scaled, evenly, biased, oddly]) as fake:
        yield fake


def grid(meta: Any) -> tuple[int, ...]:
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


def launch(kernel: Any, n: int = 4096, **changes: Any) -> Any:
    given = {"x_ptr": on_gpu(8192), "y_ptr": on_gpu(8192), "n": n, "factor": 2.0, "WIDE": 8, **changes}
    given["grid"] = given.get("grid", grid)
    x, y, n, factor = (given.pop(name) for name in ("x_ptr", "y_ptr", "n", "factor"))
    return kernel[given.pop("grid")](x, y, n, factor, **given)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_it_is_an_autotuner_that_takes_the_same_arguments_and_times_nothing(gpu):
    kernel = fusetune.autotune(
        CONFIGS,
        ["n"],
        {"perf_model": lambda **_: 1.0, "top_k": 1},
        ["y_ptr"],
        ["x_ptr"],
        lambda *_, **__: pytest.fail("a hook of trials"),
        lambda *_, **__: pytest.fail("a hook of trials"),
        5,
        5,
        True,
        lambda *_, **__: pytest.fail("a trial"),
        cache_results=True,
    )(scaled)
    assert isinstance(kernel, Autotuner)
    compiled = launch(kernel)
    assert compiled.metadata.num_warps == 4
    assert kernel.best_config == CONFIGS[0]
    assert kernel.configs == CONFIGS
    (given,) = gpu.by_jit
    assert given[:3] == (16, 1, 1)


def test_a_tuned_config_that_the_list_does_not_hold_is_launched_with_the_grid_that_follows(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    compiled = launch(kernel)
    assert (compiled.metadata.num_warps, compiled.metadata.num_stages) == (8, 2)
    assert gpu.by_jit[0][:3] == (4, 1, 1)
    assert kernel.best_config.kwargs == {"BLOCK": 1024}
    assert kernel.configs[:2] == CONFIGS
    assert kernel.configs[2] is kernel.best_config


def test_without_an_entry_it_takes_the_default_and_says_once_how_to_tune(gpu):
    kernel = fusetune.autotune(CONFIGS, ["n"], default=1)(scaled)
    with pytest.warns(RuntimeWarning, match=r"no tuned config of .*scaled.*`fusetune tune --kernel scaled .*`") as seen:
        list(map(partial(launch, kernel), (4096, 4000, 3000)))
    assert kernel.best_config is CONFIGS[1]
    assert len(seen) == 1
    assert seen[0].filename == __file__
    other = triton.Config({"BLOCK": 512}, num_warps=1)
    kernel = fusetune.autotune(CONFIGS, ["n"], default=other)(scaled)
    with pytest.warns(RuntimeWarning, match="runs BLOCK=512 w1 s3"):
        launch(kernel)
    assert kernel.best_config is other
    with pytest.raises(ValueError, match="default=2 is no place in a list of 2"):
        fusetune.autotune(CONFIGS, ["n"], default=2)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_the_default_is_what_the_user_s_own_pruning_leaves(gpu):
    asked = []

    def prune(configs, named_args, **kwargs):
        asked.append((sorted(named_args), sorted(kwargs)))
        return configs[1:]

    kernel = fusetune.autotune(CONFIGS, ["n"], prune_configs_by={"early_config_prune": prune})(scaled)
    launch(kernel)
    assert kernel.best_config is CONFIGS[1]
    assert asked == [(["factor", "n", "x_ptr", "y_ptr"], ["WIDE", "grid", "warmup"])], "as Triton asks"
    us = {256: 3.0, 64: 1.0}
    kernel = fusetune.autotune(CONFIGS, ["n"], {"perf_model": lambda BLOCK, **_: us[BLOCK], "top_k": 1})(scaled)
    launch(kernel)
    assert kernel.best_config is CONFIGS[1]


def test_under_strict_a_launch_without_an_entry_raises(gpu, configs):
    configs.mkdir()
    fusetune.load(configs, strict=True)
    with pytest.raises(fusetune.errors.MissingConfigError, match="fusetune tune"):
        launch(fusetune.autotune(CONFIGS, ["n"])(scaled))


# Past the JIT.


def _fired(gpu: Any) -> tuple[Any, ...]:
    """Grid and stream, and what the kernel's arguments are, of the one launch past the JIT."""
    (given,) = gpu.launched
    gpu.launched.clear()
    return given[:4], given[-1] if isinstance(given[-1], tuple) else given[13:]


def test_the_second_launch_goes_past_the_jit_with_its_own_pointers_and_numbers(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    launch(kernel)
    x, y = on_gpu(8192), on_gpu(8192)
    compiled = launch(kernel, x_ptr=x, y_ptr=y, factor=0.5)
    assert len(gpu.by_jit) == 1
    assert _fired(gpu) == ((4, 1, 1, 7), (x.data_ptr(), y.data_ptr(), 4096, 0.5, None, None, None))
    assert compiled.metadata.num_warps == 8
    with pytest.warns(RuntimeWarning, match="its grid, grid_0=16, is another size"):
        kernel[(4, 2)](x, y, 4096, 0.5, WIDE=8)
    assert gpu.by_jit[-1][:3] == (4, 2, 1), "another grid may be another problem"


@pytest.mark.parametrize(
    "change",
    [
        {"n": 4095},
        {"n": True},
        {"n": 4096.0},
        {"factor": 2},
        {"WIDE": 16},
        {"WIDE": True},
        {"EVEN": True},
        {"x_ptr": on_gpu(8192, dtype=torch.float16)},
        {"x_ptr": on_gpu(8192, skip=1)},
        {"num_stages": 4},
        {"grid": [16]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_what_triton_would_tell_apart_is_told_apart(gpu, change):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    launch(kernel)
    launch(kernel)
    assert (len(gpu.by_jit), len(gpu.launched)) == (1, 1)
    if "num_stages" in change:
        with pytest.raises(TypeError, match="num_stages"):
            launch(kernel, **change)
    else:
        launch(kernel, **change)
        assert (len(gpu.by_jit), len(gpu.launched)) == (2, 1)
    launch(kernel)
    assert len(gpu.launched) == 2, "the first is still known"


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_a_tensor_that_is_on_no_gpu_is_triton_s_to_refuse(gpu):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    for _ in range(3):
        launch(kernel, x_ptr=torch.zeros(8192))
    launch(kernel)
    launch(kernel, x_ptr=torch.zeros(8192))
    assert not gpu.launched


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_arguments_of_several_kinds_in_turn_go_past_the_jit_each(gpu):
    kernel = fusetune.autotune([triton.Config({"BLOCK": 64})], ["n"])(biased)
    for shift in (on_gpu(64), None):
        kernel[1,](on_gpu(64), shift, 64)
    for shift in (on_gpu(64), None, on_gpu(64)):
        kernel[1,](on_gpu(64), shift, n=64)
    assert (len(gpu.by_jit), len(gpu.launched)) == (2, 3)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_parameters_may_have_any_name(gpu):
    kernel = fusetune.autotune([triton.Config({"BLOCK": 64})], [])(oddly)
    for _ in range(2):
        kernel[lambda meta: (meta["len"],)](on_gpu(64), 3, int=2.0, grid_0=1)
    started, given = _fired(gpu)
    assert started[:3] == (3, 1, 1)
    assert given[1:] == (3, 2.0, 1, None)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_hooks_of_launches_and_of_runs_are_heard(gpu):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    launch(kernel)
    runtime = triton.knobs.runtime

    def hook(*_, **__):
        pass

    runtime.launch_enter_hook.add(hook)
    launch(kernel)
    runtime.launch_enter_hook.remove(hook)
    scaled.add_pre_run_hook(hook)
    launch(kernel)
    scaled.pre_run_hooks.remove(hook)
    assert (len(gpu.by_jit), len(gpu.launched)) == (3, 0)
    launch(kernel)
    assert len(gpu.launched) == 1


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [("runtime", "debug", True), ("compilation", "instrumentation_mode", "none of Triton's own")],
)
@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_machine_code_that_is_asked_for_for_a_while_is_launched_by_the_jit_and_not_kept(gpu, place, name, value):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    usual = launch(kernel)
    launch(kernel)
    with getattr(triton.knobs, place).scope():
        setattr(getattr(triton.knobs, place), name, value)
        for times in (2, 3):
            assert getattr(launch(kernel).metadata, name) == value
            assert (len(gpu.by_jit), len(gpu.launched)) == (times, 1)
    assert launch(kernel) is usual
    assert (len(gpu.by_jit), len(gpu.launched)) == (3, 2)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_who_watches_triton_sees_every_launch_with_its_tuner(gpu):
    from fusetune.capture.watch import Watch

    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    held = kernel[grid]
    launch(kernel)
    launch(kernel)
    watch = Watch()
    watch.install()
    try:
        launch(kernel)
        held(on_gpu(8192), on_gpu(8192), 4096, 2.0, WIDE=8)
    finally:
        watch.remove()
    (case,) = watch.looked().cases
    assert (case.launches, case.proposals, case.constants["BLOCK"]) == (2, 2, 256)
    launch(kernel)
    assert len(gpu.launched) == 2


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_a_global_that_changed_is_triton_s_to_object_to(gpu, monkeypatch):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    launch(kernel)
    launch(kernel)
    monkeypatch.setitem(globals(), "SHIFT", tl.constexpr(4))
    with pytest.raises(RuntimeError, match="Global variable SHIFT has changed"):
        launch(kernel)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_another_version_of_triton_is_launched_by_its_own_jit_each_time(gpu, monkeypatch):
    monkeypatch.setattr(direct, "_layout", lambda: None)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    for _ in range(3):
        launch(kernel)
    assert (len(gpu.by_jit), len(gpu.launched)) == (3, 0)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_triton_3_6_gets_all_in_one_row(gpu, monkeypatch):
    monkeypatch.setattr(direct, "_layout", lambda: direct._FlatLaunch)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    x = on_gpu(8192)
    launch(kernel)
    launch(kernel, x_ptr=x)
    (given,) = gpu.launched
    assert given[:5] == (16, 1, 1, 7, 4242)
    assert len(given) == 13 + len(scaled.arg_names)
    assert given[13:15] == (x.data_ptr(), given[14])


# Hooks, heuristics, options.


def test_a_config_s_own_hook_runs_before_each_launch_and_a_tuned_one_has_the_list_s(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    seen = []
    hooked = [triton.Config({"BLOCK": 256}, pre_hook=lambda named: seen.append((named["BLOCK"], named["n"])))]
    kernel = fusetune.autotune(hooked, ["n"])(scaled)
    for _ in range(3):
        launch(kernel)
    assert seen == [(1024, 4096)] * 3


def test_a_list_whose_hooks_differ_is_not_added_to(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    mixed = [CONFIGS[0], triton.Config({"BLOCK": 64}, pre_hook=lambda named: None)]
    with pytest.warns(RuntimeWarning, match="pre_hook"):
        launch(kernel := fusetune.autotune(mixed, ["n"])(scaled))
    assert kernel.best_config is CONFIGS[0]


def test_heuristics_below_and_above_are_computed_for_the_tuned_config(gpu, configs):
    problem = {"x_ptr": "float32", "y_ptr": "float32", "n": 1536, "EVEN": True, "grid_0": 6}
    tuned = NamedConfig(BLOCK=512, num_warps=8, num_stages=2)
    write_tuned(configs, evenly, problem, tuned, before=BEFORE)
    values = {"EVEN": lambda args: args["n"] % args["BLOCK"] == 0}
    below = fusetune.autotune(CONFIGS, ["n"])(triton.heuristics(values)(evenly))
    compiled = below[grid](on_gpu(2048), on_gpu(2048), 1536)
    assert compiled.metadata.num_warps == 8
    assert gpu.by_jit[-1][:3] == (3, 1, 1)
    values = {"EVEN": lambda args: args["n"] % 256 == 0}
    above = triton.heuristics(values)(fusetune.autotune(CONFIGS, ["n"])(evenly))
    for _ in range(2):
        compiled = above[grid](on_gpu(2048), on_gpu(2048), 1536)
    assert compiled.metadata.num_warps == 8
    assert len(gpu.launched) == 1


def test_clusters_and_registers_of_an_entry_are_asked_for(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, NamedConfig(BLOCK=256, num_warps=4, num_ctas=2, maxnreg=96), before=BEFORE)
    compiled = launch(fusetune.autotune(CONFIGS, ["n"])(scaled))
    assert (compiled.metadata.num_ctas, compiled.metadata.maxnreg) == (2, 96)


# What does not fit, what is loaded anew, threads.


def test_a_config_that_takes_too_much_falls_back_with_one_warning_and_is_not_tried_again(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, NamedConfig(BLOCK=1024, num_warps=32, num_stages=2), before=BEFORE)
    gpu.load_binary = lambda *_: (1, 4242, 32, 0, 512)  # threads that a block may have
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    with pytest.warns(RuntimeWarning) as seen:
        compiled = launch(kernel)
    assert ["OutOfResources" in str(one.message) for one in seen] == [True, True], "refused; and no other entry"
    assert compiled.metadata.num_warps == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch(kernel)
        launch(kernel, n=4000)
    assert len(gpu.launched) == 1


def test_other_configs_are_used_once_they_are_loaded_also_through_what_somebody_holds(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    held = kernel[grid]
    launch(kernel)
    launch(kernel)
    held = kernel[grid]
    write_tuned(configs, scaled, PROBLEM, NamedConfig(BLOCK=128, num_warps=1), before=BEFORE)
    launch(kernel)
    assert kernel.best_config.num_warps == 8, "a file that changes on disk changes nothing"
    fusetune.reload()
    held(on_gpu(8192), on_gpu(8192), 4096, 2.0, WIDE=8)
    assert kernel.best_config.num_warps == 1


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_fifty_shapes_a_thousand_times_are_known_once_each(gpu, monkeypatch):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    for number in range(1000):
        launch(kernel, n=16 * (number % 50 + 2))
    assert (len(gpu.by_jit), len(gpu.launched), gpu.loaded) == (50, 950, 1)
    (known,) = kernel._direct.made.values()
    assert len(known.known) == 50
    monkeypatch.setattr("fusetune.runtime.direct_calls.MOST_KNOWN", 60)
    for number in range(200):
        launch(kernel, n=16 * (number + 2))
    assert len(known.known) <= 60


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_threads_launch_at_once(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    failed = []
    start = threading.Barrier(4)

    def work(first: int) -> None:
        start.wait()
        try:
            for number in range(50):
                n = 64 * (first + number % 5)
                assert launch(kernel, n=n).metadata.num_warps == (8 if 2048 < n <= 4096 else 4)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (2, 32, 62, 60)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed
    assert len(gpu.by_jit) + len(gpu.launched) == 200


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_while_a_graph_is_captured_nothing_is_read_and_nothing_remembered(gpu, configs, monkeypatch):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    monkeypatch.setattr("fusetune.runtime.launch_configs.is_capturing", lambda: True)
    monkeypatch.setattr("fusetune.runtime.launch_configs.LAUNCH_CONFIGS._kernels", {})
    assert launch(kernel).metadata.num_warps == 4
    monkeypatch.setattr("fusetune.runtime.launch_configs.is_capturing", lambda: False)
    assert launch(kernel).metadata.num_warps == 8


def test_warmup_compiles_what_a_launch_would_have(gpu, configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    (compiled,) = kernel.warmup(torch.float32, torch.float32, 4096, 2.0, WIDE=8, grid=grid)
    assert compiled.metadata.num_warps == 8
    assert not gpu.by_jit


def test_it_forgets_what_was_loaded_before_a_fork():
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    kernel._call = kernel._lock = None
    autotuning._after_fork()
    assert kernel._call == kernel._by_run
    with kernel._lock:
        pass
