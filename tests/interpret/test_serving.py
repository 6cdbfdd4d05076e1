"""Launches take the configs that were kept for them, in the interpreter: what reaches Triton, and what is timed."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources
from triton.runtime.interpreter import InterpretedFunction

import fusetune
from fusetune.capture.serving.served import Served
from fusetune.core.config import NamedConfig
from fusetune.errors import MissingConfigError
from tests.support.launch_cases import launches_of
from tests.support.launch_entries import alone, write_tuned
from tests.support.programs import served as program
from tests.support.served_launches import launched, serving

ADD = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "EVEN": True, "grid_0": 4}
DOUBLE = {"x_ptr": "float32", "y_ptr": "float32", "n": 4096, "grid_0": 8}
BEFORE_ADD = NamedConfig(BLOCK=1024, num_warps=2, num_stages=3)
BEFORE_DOUBLE = NamedConfig(BLOCK=512, num_warps=4, num_stages=3)
TUNED = NamedConfig(BLOCK=64, num_warps=1, num_stages=2)
PROGRAMS = (program.added, program.doubled)
FIRST = "the first config of its list, BLOCK=1024"


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    program.BENCHED.clear()
    program.add.cache.clear()
    yield alone(tmp_path, monkeypatch)
    fusetune.load()


@pytest.fixture
def tuned(configs):
    write_tuned(configs, program.add, ADD, TUNED, before=BEFORE_ADD)
    write_tuned(configs, program.double, DOUBLE, TUNED, before=BEFORE_DOUBLE)


def test_an_autotuner_takes_the_entry_and_times_nothing_and_its_grid_and_heuristics_follow(tuned):
    launches, served = launched(lambda: [program.added(4096) for _ in range(3)])
    assert launches == [("add", (64,), 64, 1)] * 3, "a tile that is none of its list"
    assert program.BENCHED == []
    (kernel,) = served.kernels
    (applied,) = kernel.applied
    assert (applied.launches, applied.rung, applied.constants) == (3, "exact", {"BLOCK": 64})
    assert applied.options == {"num_warps": 1, "num_stages": 2}
    assert applied.file.endswith("served_add.yaml")
    assert (served.trials, kernel.command) == (0, "")


def test_a_launch_without_a_tuner_gets_warps_and_a_tile_that_its_grid_follows(tuned):
    launches, served = launched(lambda: [program.doubled(4096), program.doubled(4080)])
    assert launches == [("double", (64,), 64, 1)] * 2
    assert [(one.rung, one.launches) for one in served.kernels[0].applied] == [("exact", 1), ("nearest", 1)]


def test_what_a_program_benchmarks_is_served_as_any_launch(tuned, monkeypatch):
    monkeypatch.setattr(triton.testing, "do_bench", lambda call: [call() for _ in range(2)])
    launches, served = launched(lambda: [triton.testing.do_bench(partial(run, 4096)) for run in PROGRAMS])
    assert launches == [("add", (64,), 64, 1)] * 2 + [("double", (64,), 64, 1)] * 2
    assert (program.BENCHED, served.trials) == ([], 0)
    assert [one.applied[0].launches for one in served.kernels] == [2, 2]


def test_a_tuner_without_an_entry_takes_the_first_that_pruning_leaves_and_is_told_once(tuned):
    launches, served = launched(lambda: [program.added(n) for n in (300, 2000, 300)])
    assert [one[2:] for one in launches] == [(256, 2), (1024, 2), (256, 2)]
    assert program.BENCHED == []
    missed = served.kernels[0].missed
    assert [(one.launches, "n=4096" in one.reason) for one in missed] == [(2, True), (1, True)]
    assert missed[1].did.startswith(FIRST)
    assert served.kernels[0].command == "fusetune tune --kernel add"


def test_what_a_tuner_has_found_out_before_is_used_without_an_entry():
    program.added(4096)
    assert len(program.BENCHED) == 3
    program.add.cache = dict.fromkeys(program.add.cache, program.CONFIGS[2])
    launches, served = launched(lambda: program.added(4096))
    assert launches == [("add", (32,), 128, 2)]
    assert (len(program.BENCHED), served.kernels[0].missed[0].did) == (3, "what its autotuner has found out before")
    assert program.add.best_config is program.CONFIGS[2]


def test_on_request_a_tuner_without_an_entry_times_as_ever(tuned):
    launches, served = launched(lambda: [program.added(2000), program.added(4096)], "tune")
    assert len(program.BENCHED) == 3
    assert served.trials == 3
    assert launches[-1] == ("add", (64,), 64, 1)
    assert served.kernels[0].missed[0].did == "what its autotuner times"


def test_on_request_a_tuner_without_an_entry_is_an_error_with_the_command_and_other_launches_are_not(configs):
    launches, served = launched(lambda: program.doubled(4096), "error")
    assert launches == [("double", (8,), 512, 4)]
    assert not served.stopped
    with pytest.raises(MissingConfigError, match=r"add .*served\.py:\d+\) has no tuned config: .*tune --kernel add"):
        launched(lambda: program.added(4096), "error")


def test_a_launch_that_no_entry_is_for_runs_as_it_is(tuned):
    launches, served = launched(lambda: [program.doubled(2048), program.doubled(5000)])
    assert launches == [("double", (4,), 512, 4), ("double", (10,), 512, 4)]
    assert {one.did for one in served.kernels[0].missed} == {"what the program launches"}


@pytest.mark.parametrize(("run", "as_it_was"), [(program.doubled, (512, 4)), (program.added, (1024, 2))])
def test_a_config_that_does_not_fit_falls_back_with_one_warning_and_is_not_tried_again(
    tuned, run, as_it_was, monkeypatch
):
    tried = []
    own = InterpretedFunction.run

    def of_a_small_gpu(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        tried.append(named.get("num_warps"))
        if named.get("num_warps") == 1:
            raise OutOfResources(232448, 101376, "shared memory")
        return own(kernel, *args, grid=grid, warmup=warmup, **named)

    monkeypatch.setattr(InterpretedFunction, "run", of_a_small_gpu)
    with pytest.warns(RuntimeWarning, match="cannot be launched here") as told:
        launches, served = launched(lambda: [run(4096), run(4096)])
    assert len(told) == 1
    assert [one[2:] for one in launches if one[3] != 1] == [as_it_was] * 2
    assert tried.count(1) == 1
    (kernel,) = served.kernels
    assert (kernel.launches, kernel.left[0].refused, kernel.left[0].launches) == (2, True, 1)
    assert all("shared memory" in one.reason for one in kernel.missed)
    assert kernel.command


def test_warnings_that_a_program_has_raised_are_no_end_of_a_launch(configs):
    write_tuned(configs, program.double, DOUBLE, TUNED, before=BEFORE_DOUBLE, triton="3.5.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launches, served = launched(lambda: program.doubled(4096))
    assert launches == [("double", (64,), 64, 1)]
    assert "file has 3.5.1" in served.notes[0]


def test_threads_launch_each_with_its_own_config_and_the_tuner_is_left_as_it_was(tuned, configs, monkeypatch):
    write_tuned(configs, program.add, {**ADD, "n": 1024, "grid_0": 1}, NamedConfig(BLOCK=32, num_warps=8))
    fusetune.reload()
    barrier, one_at_once = threading.Barrier(4), threading.Lock()
    own = InterpretedFunction.run

    def interpreted(*args: Any, **named: Any) -> Any:
        with one_at_once:  # Triton's interpreter is for one thread.
            return own(*args, **named)

    monkeypatch.setattr(InterpretedFunction, "run", interpreted)

    def run(n: int) -> None:
        barrier.wait()
        for _ in range(3):
            program.added(n)

    def together() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run, (1024, 4096, 1024, 4096)))

    launches, served = launched(together)
    assert sorted({one[1:] for one in launches}) == [((32,), 32, 8), ((64,), 64, 1)]
    assert len(launches) == served.kernels[0].launches == 12
    assert program.add.configs == program.CONFIGS


class Asking(Autotuner):
    """Does its own before it does what Triton's does."""

    asked = 0

    def run(self, *args: Any, **named: Any) -> Any:
        Asking.asked += 1
        return super().run(*args, **named)


class Launching(Autotuner):
    """Launches all of its list each time."""

    def run(self, *args: Any, **named: Any) -> Any:
        for config in self.configs:
            self.fn.run(*args, **named, **config.all_kwargs())


@triton.jit
def fill(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, 1.0, mask=at < n)


@pytest.mark.parametrize(("kind", "count"), [(Asking, 1), (Launching, 2)])
def test_a_tuner_of_somebody_s_own_launches_the_entry_wherever_it_launches(configs, kind, count):
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 256)]
    tuner: Any = kind(fill, ["x_ptr", "n", "BLOCK"], lists, ["n"], None, None)
    write_tuned(configs, fill, {"x_ptr": "float32", "n": 1024, "grid_0": 4}, TUNED, before=NamedConfig(BLOCK=256))
    x = torch.zeros(1024)
    launches, _ = launched(lambda: tuner[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](x, 1024))
    assert launches == [("fill", (16,), 64, 1)] * count
    assert torch.equal(x, torch.ones(1024))


def test_a_kernel_under_our_own_decorator_launches_as_it_chooses_and_is_told_with_the_others(configs):
    write_tuned(configs, fill, {"x_ptr": "float32", "n": 1024, "grid_0": 4}, TUNED, before=NamedConfig(BLOCK=256))
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 256)]
    tuner = fusetune.autotune(configs=lists, key=["n"])(fill)
    x = torch.zeros(5000)

    def run(n: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It says by itself that there is no entry.
            tuner[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, n)

    launches, served = launched(lambda: [run(1024), run(5000)])
    assert launches == [("fill", (16,), 64, 1), ("fill", (10,), 512, 2)]
    (kernel,) = served.kernels
    assert ([one.launches for one in kernel.applied], kernel.missed[0].launches) == ([1], 1)


def test_our_own_decorator_may_be_imported_while_launches_are_served(configs):
    found = importlib.util.find_spec("fusetune.runtime.autotune")
    assert found is not None
    spec = importlib.util.spec_from_file_location("imported_later", found.origin)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 256)]
    above: list[tuple[Any, ...]] = []

    def run() -> None:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        kernel = module.autotune(configs=lists, key=["n"])(triton.heuristics({"n": seen})(fill))
        kernel[(2,)](torch.zeros(1024))

    def seen(_: Any) -> int:
        above.append(made._above.tuners)
        return 1024

    with serving() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It says by itself that there is no entry.
        run()
    assert isinstance(above[-1][0], module.Autotuned)
    assert module.Autotuned.run is module._RUN


def test_what_our_own_decorator_does_not_take_is_not_given_to_its_launch_either(configs):
    write_tuned(configs, fill, {"x_ptr": "float32", "n": 1024, "grid_0": 2}, TUNED, before=NamedConfig(BLOCK=512))
    lists = [
        triton.Config({"BLOCK": size}, pre_hook=lambda named, size=size: sizes.append(size)) for size in (512, 256)
    ]
    tuner = fusetune.autotune(configs=lists, key=["n"])(fill)
    sizes: list[int] = []

    def run() -> None:
        with pytest.warns(RuntimeWarning, match="differ in what it does not say, as in their pre_hook"):
            tuner[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](torch.zeros(1024), 1024)

    launches, served = launched(run)
    assert ([one[1:3] for one in launches], sizes) == ([((2,), 512)], [512])
    assert "has chosen another one" in served.kernels[0].left[0].why


def test_a_warm_up_without_a_grid_keeps_its_tile(tuned):
    x, y = torch.zeros(4096), torch.zeros(4096)
    launches, served = launched(lambda: program.double.warmup(x, y, 4096, BLOCK=512, grid=None))
    assert (launches, served.kernels) == ([], ())


def test_a_tile_that_another_argument_was_computed_from_is_left_where_that_cannot_be_followed(configs):
    counted = {"x_ptr": "float32", "grid_0": 4}
    write_tuned(configs, fill, counted, TUNED, before=NamedConfig(BLOCK=256, num_warps=4))
    x = torch.zeros(1024)

    def run(n: int) -> None:
        fill[(4,)](x, n, BLOCK=256)

    launches, served = launched(lambda: run(int(x.numel())))
    assert launches == [("fill", (4,), 256, None)]
    (left,) = served.kernels[0].left
    assert (left.launches, left.refused, "not known" in left.why) == (1, False, True)


def test_a_tile_of_the_list_has_its_own_hook_with_other_warps_too(configs):
    write_tuned(configs, fill, {"x_ptr": "float32", "n": 1024, "grid_0": 2}, TUNED, before=NamedConfig(BLOCK=512))
    zeroed: list[int] = []
    lists = [
        triton.Config({"BLOCK": 512}, num_warps=4),
        triton.Config({"BLOCK": 64}, num_warps=4, pre_hook=lambda named: zeroed.append(named["BLOCK"])),
    ]
    kernel = triton.autotune(configs=lists, key=["n"], do_bench=program.bench)(fill)
    launches, _ = launched(lambda: kernel[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](torch.zeros(1024), 1024))
    assert ([one[2:] for one in launches], zeroed) == ([(64, 1)], [64])


@triton.jit
def fill_wide(x_ptr, n, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    for part in range(WIDE):
        at = (tl.program_id(0) * WIDE + part) * BLOCK + tl.arange(0, BLOCK)
        tl.store(x_ptr + at, 1.0, mask=at < n)


def wide(kernel: Any, n: int) -> None:
    x = torch.zeros(n)
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"] * meta["WIDE"]),)](x, n, WIDE=1)
    assert torch.equal(x, torch.ones(n))


def wide_or_nothing(kernel: Any, n: int) -> None:
    x = torch.zeros(n)
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]) // (meta["WIDE"] == 1),)](x, n, WIDE=1)
    assert torch.equal(x, torch.ones(n))


@pytest.mark.parametrize(
    ("run", "ran", "missed"), [(wide, (64, 2), 0), (wide_or_nothing, (512, 1), 1)], ids=["placed", "not placed"]
)
def test_what_a_tuner_s_list_does_not_vary_is_given_as_well_or_nothing_is(configs, run, ran, missed):
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 256)]
    kernel = triton.autotune(configs=lists, key=["n"], do_bench=program.bench)(fill_wide)
    config = NamedConfig(BLOCK=64, WIDE=2, num_warps=1)
    problem = {"x_ptr": "float32", "n": 1024, "grid_0": 4}
    write_tuned(configs, fill_wide, problem, config, before=NamedConfig(BLOCK=256, WIDE=1))
    found: list[Served] = []

    def served() -> None:
        with serving() as made:
            run(kernel, 1024)
            found.append(made.notes.served())

    ((_, _, named, _),) = launches_of(served)[1]
    assert (named["BLOCK"], named["WIDE"]) == ran
    assert sum(one.launches for one in found[0].kernels[0].missed) == missed
    assert program.BENCHED == []


def test_an_argument_that_the_launch_gives_a_tuner_and_that_followed_its_tile_makes_a_miss(configs):
    lists = [triton.Config({"BLOCK": size}, num_warps=2) for size in (512, 256)]
    kernel = triton.autotune(configs=lists, key=["n"], do_bench=program.bench)(fill)
    write_tuned(configs, fill, {"x_ptr": "float32", "grid_0": 4}, TUNED, before=NamedConfig(BLOCK=256))
    launches, served = launched(lambda: kernel[lambda meta: (1024 // meta["BLOCK"],)](torch.zeros(1024), 1024))
    assert [one[2] for one in launches] == [512]
    assert served.kernels[0].missed[0].reason == "n follows what was tuned, and the launch itself gives it"


class Size(int):
    """As a symbolic size may be."""

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("kernel", [program.double, program.add])
def test_launches_that_could_not_be_looked_up_are_told(tuned, kernel):
    x, y = torch.zeros(4096), torch.zeros(4096)
    block = {"BLOCK": 512} if kernel is program.double else {}
    _, served = launched(lambda: kernel[(Size(8),)](x, y, 4096, **block))
    assert "could not be looked up: unhashable type" in served.notes[0]


def test_after_it_all_is_as_it_was_and_a_launch_s_own_mistake_is_its_own(tuned):
    held = InterpretedFunction.run, Autotuner.run, Autotuner._bench, triton.testing.do_bench
    with serving(), pytest.raises(TypeError):
        program.double[(1,)]()
    assert held == (InterpretedFunction.run, Autotuner.run, Autotuner._bench, triton.testing.do_bench)
