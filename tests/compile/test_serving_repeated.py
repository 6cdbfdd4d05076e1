"""Launches that came before are made past the look-up and Triton's JIT, counted as ever, on a GPU that is not there."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

import fusetune
from fusetune.capture.serving import serving as serving_module
from fusetune.capture.serving.served import Notes, Row
from fusetune.capture.serving.serving import Serving
from fusetune.core.config import NamedConfig
from fusetune.ops import direct
from fusetune.runtime.configs import forget_at_load
from fusetune.runtime.launch_configs import LAUNCH_CONFIGS
from tests.support.fake_gpu import fake_gpu, on_gpu
from tests.support.launch_entries import alone, write_tuned


@triton.jit
def scaled(x_ptr, y_ptr, n, factor, WIDE: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr = False):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x * factor, mask=at < n)


CONFIGS = [triton.Config({"BLOCK": size}, num_warps=4, num_stages=3) for size in (256, 64)]
PROBLEM = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "factor": 2.0, "WIDE": 8, "EVEN": False, "grid_0": 16}
BEFORE = NamedConfig(BLOCK=256, num_warps=4, num_stages=3)
TUNED = NamedConfig(BLOCK=1024, num_warps=8, num_stages=2)
MISSED = "Missed"


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    yield alone(tmp_path, monkeypatch)
    fusetune.load()


@pytest.fixture
def tuned(configs):
    write_tuned(configs, scaled, PROBLEM, TUNED, before=BEFORE)


@pytest.fixture
def gpu():
    with fake_gpu([scaled]) as fake:
        yield fake


class Served:
    """What serves, and how often something was looked up, bound or hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, on_miss: Any = "default") -> None:
        self.made = Serving(LAUNCH_CONFIGS, Notes("fusetune tune --kernel {}".format), on_miss=on_miss)
        self.asked: list[str] = []
        for holder, name in ((LAUNCH_CONFIGS, "find"), (serving_module, "bind"), (self.made._answers, "key")):
            self._watch(monkeypatch, holder, name)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, holder: Any, name: str) -> None:
        own = getattr(holder, name)

        def watched(*args: Any, **named: Any) -> Any:
            self.asked.append(name)
            return own(*args, **named)

        monkeypatch.setattr(holder, name, watched)

    def rows(self) -> list[tuple[str, int]]:
        rows: list[Row] = []
        for one in self.made.notes.served().kernels:
            rows += [*one.applied, *one.missed, *one.left]
        return [(type(one).__name__, one.launches) for one in rows]


@pytest.fixture
def served(request, gpu, monkeypatch):
    made = Served(monkeypatch, getattr(request, "param", "default"))
    made.made.install()
    end = forget_at_load(made.made.forget)
    yield made
    end()
    made.made.remove()


def tuner(**named: Any) -> Any:
    def bench(call: Any, quantiles: Any) -> list[float]:
        call()
        return [1.0, 1.0, 1.0]

    return triton.autotune(configs=CONFIGS, key=["n"], do_bench=bench, **named)(scaled)


def by_lambda(kernel: Any, n: int = 4096, factor: float = 2.0, **given: Any) -> Any:
    grid = lambda meta: (triton.cdiv(n, meta["BLOCK"]),)  # noqa: E731
    return kernel[grid](given.pop("x", on_gpu(8192)), on_gpu(8192), n, factor, WIDE=8, **given)


def plain(kernel: Any, n: int = 4096, **given: Any) -> Any:
    return by_lambda(kernel, n, BLOCK=256, num_warps=4, num_stages=3, **given)


def by_tuple(kernel: Any, n: int = 4096) -> Any:
    return kernel[(triton.cdiv(n, 256),)](on_gpu(8192), on_gpu(8192), n, 2.0, WIDE=8, BLOCK=256, num_warps=4)


def fired(gpu: Any) -> list[tuple[Any, ...]]:
    """Grid, numbers and warps of what went past the JIT."""
    return [(given[0], numbers(given)) for given in gpu.launched]


def numbers(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the kernel is given behind its two tensors: Triton 3.6 hands its arguments over one by one."""
    own = given[-1] if isinstance(given[-1], tuple) else given[-7:]
    return tuple(own[2:4])


def repeats(gpu: Any, served: Served, launch: Any) -> list[tuple[Any, ...]]:
    """What three more launches like one before make, of which nothing is asked."""
    compiled = launch()
    gpu.launched.clear()
    by_jit = len(gpu.by_jit)
    served.asked.clear()
    again = [launch() for _ in range(3)]
    assert served.asked == [], "nothing is looked up, bound or hashed again"
    assert len(gpu.by_jit) == by_jit
    assert {one.metadata.num_warps for one in again} == {compiled.metadata.num_warps}
    return fired(gpu)


@pytest.mark.parametrize("launch", [by_lambda, plain, by_tuple])
def test_a_launch_with_an_entry_goes_past_the_look_up_and_the_jit_the_second_time(tuned, gpu, served, launch):
    kernel = tuner() if launch is by_lambda else scaled
    assert repeats(gpu, served, lambda: launch(kernel)) == [(4, (4096, 2.0))] * 3
    assert served.rows() == [("Applied", 4)]
    assert launch(kernel).metadata.num_warps == 8
    assert launch is not by_lambda or kernel.best_config.kwargs == {"BLOCK": 1024}


@pytest.mark.parametrize("served", ["default", "tune"], indirect=True)
@pytest.mark.parametrize("launch", [by_lambda, plain, by_tuple])
def test_a_launch_without_an_entry_does_so_too(gpu, served, launch):
    kernel = tuner() if launch is by_lambda else scaled
    launch(kernel)
    timed = served.made.notes.served().trials
    assert repeats(gpu, served, lambda: launch(kernel)) == [(16, (4096, 2.0))] * 3
    assert served.rows() == [(MISSED, 5)]
    assert served.made.notes.served().trials == timed


def test_heuristics_are_asked_at_each_launch_and_a_hook_runs_before_it(tuned, gpu, served):
    seen: list[Any] = []
    hooked = [triton.Config({"BLOCK": 256}, pre_hook=lambda named: seen.append((named["n"], named["BLOCK"])))]
    below = triton.heuristics({"EVEN": lambda named: named["n"] < 0 or len(asked) < asked_for[0]})(scaled)
    asked: list[None] = [None]
    asked_for = [0]
    kernel = triton.autotune(configs=[*hooked, CONFIGS[1]], key=["n"])(below)
    assert repeats(gpu, served, lambda: by_lambda(kernel)) == [(4, (4096, 2.0))] * 3
    assert seen == [(4096, 1024)] * 4
    asked_for[0] = 5  # The heuristics change their mind.
    by_lambda(kernel)
    assert len(gpu.launched) == 3, "that is another kernel, and Triton's JIT compiles it"
    assert served.rows() == [("Applied", 5)]


def test_heuristics_alone_do_not_slow_a_kernel_down(gpu, served):
    kernel = triton.heuristics({"EVEN": lambda named: named["n"] % named["BLOCK"] == 0})(scaled)
    assert repeats(gpu, served, lambda: plain(kernel)) == [(16, (4096, 2.0))] * 3
    assert served.rows() == [(MISSED, 4)]


def test_our_own_decorator_goes_past_the_jit_as_without_serving_and_is_counted(tuned, gpu, served):
    kernel = fusetune.autotune(CONFIGS, ["n"])(scaled)
    by_lambda(kernel)
    by_lambda(kernel)
    assert (len(gpu.by_jit), fired(gpu)) == (1, [(4, (4096, 2.0))])
    assert served.rows() == [("Applied", 2)]
    served.made.remove()
    for _ in range(3):
        by_lambda(kernel)
    assert len(gpu.launched) == 3, "the first launch without serving goes the JIT's way"
    assert served.rows() == [("Applied", 2)]


def test_what_a_program_counts_up_is_looked_up_no_more_where_no_entry_is_near(configs, gpu, served):
    write_tuned(configs, scaled, {**PROBLEM, "n": 64, "grid_0": 1}, TUNED, before=BEFORE)
    plain(scaled, 4097)
    plain(scaled, 4099)
    served.asked.clear()
    for n in range(4101, 4200, 2):
        plain(scaled, n)
    assert served.asked == []
    assert [one[1][0] for one in fired(gpu)[-50:]] == [*range(4101, 4200, 2)]
    assert [count for _, count in served.rows()] == [52]
    assert plain(scaled, 64).metadata.num_warps == 8


def test_an_autotuner_s_launch_with_what_is_counted_up_is_not_looked_up_either(configs, gpu, served):
    write_tuned(configs, scaled, {**PROBLEM, "n": 64, "grid_0": 1}, TUNED, before=BEFORE)
    kernel = triton.autotune(configs=CONFIGS, key=["WIDE"])(scaled)
    by_lambda(kernel, 4097)
    served.asked.clear()
    for n in range(4101, 4200, 2):
        by_lambda(kernel, n)
    assert served.asked == []
    assert [one[1][0] for one in fired(gpu)[-50:]] == [*range(4101, 4200, 2)]
    assert served.rows() == [("Missed", 51)]
    assert by_lambda(kernel, 64).metadata.num_warps == 8
    assert by_lambda(kernel, 4099).metadata.num_warps == 4


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2048},
        {"n": 4080},
        {"n": 4096.0},
        {"factor": 2},
        {"x": on_gpu(8192, dtype=torch.float16)},
        {"x": on_gpu(8192, skip=1)},
        {"EVEN": True},
        {"enable_fp_fusion": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("launch", [by_lambda, plain])
def test_what_is_another_launch_is_looked_up_and_both_stay_known(tuned, gpu, served, change, launch):
    kernel = tuner() if launch is by_lambda else scaled
    launch(kernel)
    served.asked.clear()
    launch(kernel, **change)
    assert "find" in served.asked
    served.asked.clear()
    launch(kernel)
    assert served.asked == []


def test_a_tile_is_given_by_the_place_that_launches(configs, gpu, served):
    write_tuned(configs, scaled, {**PROBLEM, "grid_0": 12}, TUNED, before=BEFORE)
    x, y, n = on_gpu(8192), on_gpu(8192), 4096

    def told() -> Any:
        size, tile = 3072, 256
        return scaled[(triton.cdiv(size, tile),)](x, y, n, 2.0, WIDE=8, BLOCK=tile, num_warps=4)

    def fixed() -> Any:
        return scaled[(12,)](x, y, n, 2.0, WIDE=8, BLOCK=256, num_warps=4)

    def untold() -> Any:
        return scaled[(triton.cdiv(3072, 256),)](x, y, n, 2.0, WIDE=8, BLOCK=256, num_warps=4)

    for times in range(3):
        served.asked.clear()
        assert [one().metadata.num_warps for one in (told, fixed, untold)] == [8, 8, 4]
        assert times == 0 or served.asked == []
    assert [one[0] for one in fired(gpu)][-6:] == [3, 12, 12] * 2
    assert sorted(served.rows()) == [("Applied", 6), ("Left", 3)]


def test_other_grids_are_other_launches_where_there_is_an_entry(tuned, gpu, served):
    kernel = tuner()
    x = on_gpu(8192)
    for grid in ((16,), (9000,), (16,), (9000,)):
        kernel[grid](x, x, 4096, 2.0, WIDE=8)
    assert [count for _, count in sorted(served.rows())] == [2, 2]


def test_other_configs_are_taken_once_they_are_loaded(tuned, configs, gpu, served):
    kernel = tuner()
    for _ in range(2):
        assert (by_lambda(kernel).metadata.num_warps, plain(scaled).metadata.num_warps) == (8, 8)
    write_tuned(configs, scaled, PROBLEM, NamedConfig(BLOCK=128, num_warps=1), before=BEFORE)
    fusetune.reload()
    for _ in range(2):
        assert (by_lambda(kernel).metadata.num_warps, plain(scaled).metadata.num_warps) == (1, 1)
    assert [count for _, count in served.rows()] == [4, 4]


def test_who_listens_to_launches_hears_of_all(tuned, gpu, served):
    kernel = tuner()
    heard: list[None] = []
    runtime = triton.knobs.runtime

    def hook(*_: Any, **__: Any) -> None:
        heard.append(None)

    def launch() -> None:
        by_lambda(kernel)
        plain(scaled)

    launch()
    launch()
    by_jit = len(gpu.by_jit)
    runtime.launch_enter_hook.add(hook)
    launch()
    runtime.launch_enter_hook.remove(hook)
    assert len(gpu.by_jit) == by_jit + 2, "whose launcher calls the hook"
    scaled.add_pre_run_hook(hook)
    launch()
    scaled.pre_run_hooks.remove(hook)
    assert len(heard) == 2
    launch()
    assert len(gpu.by_jit) == by_jit + 4
    assert served.rows() == [("Applied", 10)]


def test_a_function_of_somebody_s_above_ours_sees_every_launch(tuned, gpu, served, monkeypatch):
    kernel = tuner()
    by_lambda(kernel)
    seen: list[int] = []
    ours = JITFunction.run

    def watching(kernel: Any, *args: Any, **named: Any) -> Any:
        seen.append(named["BLOCK"])
        return ours(kernel, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", watching)
        by_lambda(kernel)
        plain(scaled)
        plain(scaled)
    assert seen == [1024, 256, 256]
    assert served.rows() == [("Applied", 4)]


def test_another_version_of_triton_is_launched_by_its_own_jit_and_nothing_is_looked_up_again(
    tuned, gpu, served, monkeypatch
):
    monkeypatch.setattr(direct, "_layout", lambda: None)
    seen: list[Any] = []
    hooked = [triton.Config({"BLOCK": 256}, pre_hook=lambda named: seen.append((named["n"], named["BLOCK"])))]
    below = triton.heuristics({"EVEN": lambda named: named["n"] < 0})(scaled)
    kernels = tuner(), triton.autotune(configs=[*hooked, CONFIGS[1]], key=["n"])(below)
    for times in range(3):
        served.asked.clear()
        launched = [by_lambda(kernels[0]), by_lambda(kernels[1]), plain(scaled), by_tuple(scaled)]
        assert [one.metadata.num_warps for one in launched] == [8] * 4
        assert times == 0 or served.asked == []
    assert [one[0] for one in gpu.by_jit] == [4] * 12
    assert (len(gpu.launched), seen) == (0, [(4096, 1024)] * 3)
    assert served.rows() == [("Applied", 12)]


def test_what_cannot_be_launched_past_the_jit_is_not_looked_up_again_either(tuned, gpu, served):
    kernel, held = tuner(), torch.zeros(8192)
    for times in range(3):
        served.asked.clear()
        assert [one.metadata.num_warps for one in (by_lambda(kernel, x=held), plain(scaled, x=held))] == [8, 8]
        assert times == 0 or served.asked == []
    assert [one[0] for one in gpu.by_jit] == [4] * 6
    assert by_lambda(kernel, x=held.half()).metadata.num_warps == 4
    assert sorted(served.rows()) == [("Applied", 6), ("Missed", 1)]


def test_what_is_found_while_a_graph_is_captured_is_not_kept(tuned, gpu, served, monkeypatch):
    kernel = tuner()
    with monkeypatch.context() as patch:
        patch.setattr("fusetune.runtime.launch_configs.is_capturing", lambda: True)
        patch.setattr("fusetune.runtime.launch_configs.LAUNCH_CONFIGS._kernels", {})
        patch.setattr("fusetune.runtime.configs.open_config_file", None)
        for _ in range(2):
            assert (by_lambda(kernel).metadata.num_warps, plain(scaled).metadata.num_warps) == (4, 4)
    for _ in range(2):
        assert (by_lambda(kernel).metadata.num_warps, plain(scaled).metadata.num_warps) == (8, 8)


def test_what_was_looked_up_is_launched_while_a_graph_is_captured_and_no_disk_is_read(tuned, gpu, served, monkeypatch):
    kernel = tuner()
    by_lambda(kernel)
    plain(scaled)
    monkeypatch.setattr("fusetune.runtime.launch_configs.is_capturing", lambda: True)
    monkeypatch.setattr("fusetune.runtime.configs.open_config_file", None)
    assert (by_lambda(kernel).metadata.num_warps, plain(scaled).metadata.num_warps) == (8, 8)
    assert len(gpu.launched) == 2


def test_an_autotuner_that_finds_out_something_else_launches_that(gpu, served):
    kernel = tuner()
    served.made.remove()
    by_lambda(kernel)
    served.made.install()
    for _ in range(3):
        by_lambda(kernel)
    assert (fired(gpu), kernel.best_config) == ([(16, (4096, 2.0))] * 2, CONFIGS[0])
    kernel.cache = dict.fromkeys(kernel.cache, CONFIGS[1])
    for _ in range(2):
        by_lambda(kernel)
    assert kernel.best_config is CONFIGS[1]
    assert fired(gpu)[-1][0] == 64


def test_threads_lose_no_launch(tuned, gpu, served):
    kernel = tuner()
    failed: list[BaseException] = []
    start = threading.Barrier(4)

    def work(first: int) -> None:
        start.wait()
        try:
            for number in range(50):
                n = 64 * (first + number % 5)
                expected = 8 if 2048 < n <= 4096 else 4
                assert by_lambda(kernel, n).metadata.num_warps == expected
                assert plain(scaled, n).metadata.num_warps == expected
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (2, 32, 62, 60)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed
    assert sum(count for _, count in served.rows()) == 400


def test_a_child_launches_nothing_that_its_parent_has_loaded(tuned, gpu, served):
    kernel = tuner()
    for _ in range(2):
        by_lambda(kernel)
        plain(scaled)
    by_jit = len(gpu.by_jit)
    served.made.forked()
    by_lambda(kernel)
    plain(scaled)
    assert len(gpu.by_jit) == by_jit + 2
    by_lambda(kernel)
    plain(scaled)
    assert len(gpu.by_jit) == by_jit + 2


def test_after_it_all_is_as_it_was_also_for_who_holds_a_launch(tuned, gpu, served):
    kernel = tuner()
    held, ours = kernel[(16,)], scaled[(16,)]
    given = on_gpu(8192), on_gpu(8192), 4096, 2.0
    for _ in range(2):
        held(*given, WIDE=8)
        ours(*given, WIDE=8, BLOCK=256)
    served.made.remove()
    before = served.rows(), len(gpu.launched)
    assert [one.run.__module__ for one in (JITFunction, Autotuner, Heuristics)] == [
        "triton.runtime.jit",
        "triton.runtime.autotuner",
        "triton.runtime.autotuner",
    ]
    held(*given, WIDE=8)
    assert ours(*given, WIDE=8, BLOCK=256).metadata.num_warps == 4
    assert (served.rows(), len(gpu.launched)) == before
