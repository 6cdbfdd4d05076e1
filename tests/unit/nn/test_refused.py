"""A config that the GPU at hand cannot launch gives way to BASELINE; a plan never outlives the configs it was made for.

The GPU is not there: tensors say that they lie on one, and what would compile and launch is written down.
"""

from __future__ import annotations

import threading
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

import fusetune
from fusetune.errors import MissingConfigError
from fusetune.nn import bound, dispatch
from fusetune.nn.bound import BoundPlans
from fusetune.nn.folded import FoldedWeights
from fusetune.nn.plans import PLANS, Plan
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.refusals import is_refusal
from fusetune.ops.stand_in import StandIn
from fusetune.runtime import configs
from fusetune.store.paths import config_path
from fusetune.store.schema import ConfigFile, Environment, TargetIdentity
from fusetune.store.yaml_files import dump_config_file
from tests.unit.store.store_examples import measured

TUNED = Config(BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=3)
NEAREST = Config(BLOCK_M=32, BLOCK_N=32)
GPU = TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132)
PROBLEM = make_problem(128, 64, 256, "float32")
TOO_LARGE = OutOfResources(262144, 232448, "shared memory")


class Gpu:
    """Compiles and launches nothing; `failing` says what goes wrong with which config, `tried` what was compiled."""

    def __init__(self) -> None:
        self.failing: dict[Config, Exception] = {}
        self.at_launch: dict[Config, Exception] = {}
        self.tried: list[Config] = []
        self.launched: list[Config] = []

    def describe(self, problem, config, tensors, ending, **options):
        return [config]

    def compile(self, launches, tensors, scratch):
        (config,) = launches
        self.tried.append(config)
        if config in self.failing:
            raise self.failing[config]

        def launch(stream, values):
            if config in self.at_launch:
                raise self.at_launch[config]
            self.launched.append(config)

        return (launch,)


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: None)
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / "home" / name)
    monkeypatch.delenv("FUSETUNE_CONFIGS", raising=False)
    gpu = Gpu()
    monkeypatch.setattr(dispatch, "gemm_launches", gpu.describe)
    monkeypatch.setattr(dispatch, "direct_launches", gpu.compile)
    monkeypatch.setattr(configs, "device_identity", lambda index: GPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: warnings.catch_warnings(record=False))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0, raising=False)
    fusetune.load()
    yield gpu
    fusetune.load()


def _tune(*entries: tuple[int, Config]) -> None:
    here = Environment(triton=version("triton"), kernel_hash=SPEC.source_hash(BASELINE))
    made = tuple(
        measured(make_problem(M, PROBLEM.N, PROBLEM.K, "float32"), config, environment=here) for M, config in entries
    )
    path = config_path(Path("configs"), GPU.name, "gemm_scale")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_config_file(ConfigFile(schema=2, op="gemm_scale", target=GPU, entries=made)))
    fusetune.reload()


def _tensors(M: int = PROBLEM.M):
    device = torch.device("cuda", 0)
    shapes = {"x": (M, PROBLEM.K), "weight": (PROBLEM.N, PROBLEM.K), "bias": (PROBLEM.N,), "scale": (PROBLEM.N,)}
    return {name: StandIn(shape, torch.float32, device) for name, shape in {**shapes, "y": (M, PROBLEM.N)}.items()}


def _call(M: int = PROBLEM.M) -> Config:
    problem = make_problem(M, PROBLEM.N, PROBLEM.K, "float32")
    return dispatch.launch("gemm_scale", problem, _tensors(M), "scale").config


REFUSALS = {
    "more shared memory than there is": TOO_LARGE,
    "a kernel that does not compile": CompilationError("", None, "no such operation"),
    "an assembler that refuses": PTXASError("uses too much shared data"),
    "a pass that fails": RuntimeError("PassManager::run failed"),
    "more threads than the driver launches": RuntimeError(
        "Triton Error [CUDA]: too many resources requested for launch"
    ),
    "an assertion of the compiler": AssertionError("expected a power of two"),
    "a limit of the compiler": ValueError("numel (2097152) exceeds triton maximum tensor numel (1048576)"),
}
TROUBLE = {
    "an illegal access before": RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "a GPU without memory": RuntimeError("Triton Error [CUDA]: out of memory"),
    "memory that torch does not get": torch.cuda.OutOfMemoryError("CUDA out of memory"),
    "a full disk": OSError(28, "No space left on device"),
    "an assembler that was killed": PTXASError("`ptxas` failed with error code -9"),
    "Ctrl-C": KeyboardInterrupt(),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_config_that_cannot_be_launched_gives_way_to_baseline_with_one_warning_and_is_not_tried_again(gpu, name):
    _tune((128, TUNED))
    gpu.failing[TUNED] = REFUSALS[name]
    with pytest.warns(RuntimeWarning, match="128x128x32 w8 s3, which cannot be launched here") as caught:
        assert _call() == BASELINE
    assert len(caught) == 1
    assert "gemm_scale.yaml, M=128" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _call() == BASELINE
        PLANS._made.clear()  # as with more shapes than are kept
        assert _call() == BASELINE
    assert gpu.tried == [TUNED, BASELINE, BASELINE]
    assert gpu.launched == [BASELINE] * 3
    found = configs.active_source().find("gemm_scale", PROBLEM, GPU)
    assert found.config == BASELINE
    assert "it cannot be launched here" in found.explain()


def test_the_next_entry_is_tried_before_baseline_and_a_reload_tries_all_again(gpu):
    _tune((128, TUNED), (100, NEAREST))
    gpu.failing[TUNED] = TOO_LARGE
    with pytest.warns(RuntimeWarning, match="cannot be launched here"):
        assert _call() == NEAREST
    gpu.failing.clear()
    assert _call() == NEAREST
    fusetune.reload()
    assert _call() == TUNED


def test_one_entry_that_serves_many_sizes_is_told_once(gpu):
    _tune((128, TUNED))
    gpu.failing[TUNED] = TOO_LARGE
    with pytest.warns(RuntimeWarning) as caught:
        assert {_call(M) for M in range(65, 129)} == {BASELINE}
    assert len(caught) == 1


def test_what_only_the_launch_refuses_gives_way_too(gpu):
    _tune((128, TUNED))
    gpu.at_launch[TUNED] = REFUSALS["more threads than the driver launches"]
    with pytest.warns(RuntimeWarning, match="cannot be launched here"):
        assert _call() == BASELINE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _call() == BASELINE
    assert gpu.launched == [BASELINE] * 2


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_of_the_gpu_or_the_machine_is_raised_and_not_remembered(gpu, name):
    _tune((128, TUNED))
    for place in (gpu.failing, gpu.at_launch):
        place[TUNED] = TROUBLE[name]
        with pytest.raises(type(TROUBLE[name])):
            _call()
        place.clear()
        PLANS._made.clear()
    assert _call() == TUNED


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_with_baseline_itself_is_raised(gpu, name):
    gpu.failing[BASELINE] = REFUSALS[name]
    with pytest.raises(type(REFUSALS[name])):
        _call()


def test_strict_raises_where_the_entry_cannot_be_launched(gpu):
    _tune((128, TUNED))
    fusetune.load(strict=True)
    gpu.failing[TUNED] = TOO_LARGE
    with pytest.warns(RuntimeWarning), pytest.raises(MissingConfigError, match="it cannot be launched here"):
        _call()


def test_where_launches_go_through_triton_the_kernel_is_loaded_before_it_is_needed(gpu, monkeypatch):
    """A Triton whose launches are not known: its own way would find out at every call anew."""
    _tune((128, TUNED))

    class Described(dispatch.Launch):
        def __init__(self, config):
            object.__setattr__(self, "config", config)

        def compiled(self):
            def load():
                if self.config == TUNED:
                    raise TOO_LARGE

            return SimpleNamespace(_init_handles=load)

        def run(self):
            gpu.launched.append(self.config)

    monkeypatch.setattr(dispatch, "gemm_launches", lambda problem, config, *rest, **more: [Described(config)])
    monkeypatch.setattr(dispatch, "direct_launches", lambda *given: None)
    with pytest.warns(RuntimeWarning, match="cannot be launched here"):
        assert _call() == BASELINE
    assert gpu.launched == [BASELINE]


def test_errors_of_python_at_a_launch_are_nobodys_refusal():
    assert is_refusal(ValueError("x"), compiling=True)
    assert not is_refusal(ValueError("x"), compiling=False)


# --- plans and loading


@pytest.mark.parametrize("again", [fusetune.load, fusetune.reload])
def test_a_plan_that_is_being_made_while_configs_are_loaded_is_not_kept(gpu, monkeypatch, again):
    _tune((128, TUNED))
    compiling, loaded = threading.Event(), threading.Event()
    really = gpu.compile

    def slowly(*given):
        compiling.set()
        loaded.wait(30)
        return really(*given)

    monkeypatch.setattr(dispatch, "direct_launches", slowly)
    thread = threading.Thread(target=_call)
    thread.start()
    assert compiling.wait(30)
    path = config_path(Path("configs"), GPU.name, "gemm_scale")
    path.write_text(path.read_text().replace("num_stages: 3", "num_stages: 4"))
    again()
    loaded.set()
    thread.join(30)
    assert len(PLANS) == 0
    assert _call().num_stages == 4


def test_a_call_that_began_before_configs_were_loaded_is_not_remembered_after(monkeypatch):
    known = BoundPlans()
    try:
        monkeypatch.setattr(bound, "BoundPlan", lambda *given: given)
        tensors, y = (torch.zeros(16),), torch.zeros(16)
        old = Plan(TUNED, PROBLEM, (), (), 0, generation=PLANS.generation)
        known.remember("a call", old, tensors, y, False)
        assert len(known) == 1
        fusetune.reload()
        assert len(known) == 0
        known.remember("a call", old, tensors, y, False)
        assert len(known) == 0
    finally:
        bound._ALL.remove(known)


def test_weights_that_are_being_folded_during_a_reload_are_not_kept(monkeypatch):
    kept = FoldedWeights()
    weight = torch.ones(4, 4)
    names = ("bias", "scale", "gamma", "beta", "running_mean", "running_var")
    tensors = {"weight": weight, **{name: torch.ones(4) for name in names}}
    really = fusetune.nn.folded.folded

    def meanwhile(*given):
        kept.forget()
        return really(*given)

    monkeypatch.setattr(fusetune.nn.folded, "folded", meanwhile)
    assert kept.find(tensors, [weight], 1e-5) is not None
    assert len(kept) == 0
    monkeypatch.setattr(fusetune.nn.folded, "folded", really)
    assert kept.find(tensors, [weight], 1e-5) is not None
    assert len(kept) == 1
