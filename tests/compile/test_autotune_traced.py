"""`@fusetune.autotune` under torch.compile: what is chosen while a launch is traced, and what guards it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

import fusetune
from fusetune.core.config import NamedConfig
from fusetune.runtime.launch_configs import LAUNCH_CONFIGS
from tests.support.launch_entries import alone, write_tuned


@triton.jit
def doubled(x_ptr, y_ptr, n, KIND: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr = 1):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2, mask=at < n)


@triton.jit
def evenly(x_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, at, mask=at < n)


BEFORE = NamedConfig(BLOCK=64, num_warps=4, num_stages=3)
CONFIGS = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 32}, num_warps=1)]


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)  # without it Dynamo knows no kernel
    torch._dynamo.reset()
    yield alone(tmp_path, monkeypatch)
    fusetune.load()
    torch._dynamo.reset()


class Traced:
    """A compiled function that launches a kernel: `launched` are the config and the grid of each of its graphs."""

    def __init__(self, kernel: Any, *, dynamic: bool | None, kind: Any = "double") -> None:
        self.launched: list[tuple[dict[str, Any], int, Any]] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            y = torch.empty_like(x)
            kernel[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, x.numel(), KIND=kind)
            return y

        self._function = torch.compile(
            function, fullgraph=True, dynamic=dynamic, backend=partial(_compiled, self.launched)
        )

    def __call__(self, n: int, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], int] | None:
        """What a launch of `n` numbers was traced with; None where it took a graph that was there."""
        before = len(self.launched)
        self._function(torch.zeros(n, dtype=dtype))
        return self.launched[-1][:2] if len(self.launched) > before else None


def _compiled(launched: list[Any], graph: Any, _inputs: Any) -> Callable[..., Any]:
    for node in graph.graph.nodes:
        if node.op == "call_function" and "triton" in str(node.target):
            (config,) = kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).configs
            launched.append((config.kwargs, config.num_warps, node.kwargs["grid"]))
    return lambda *given: [torch.zeros(1)]


def tuned(configs: Any, n: int, block: int, warps: int, **changes: Any) -> None:
    problem = {
        "x_ptr": "float32",
        "y_ptr": "float32",
        "n": n,
        "KIND": "double",
        "WIDE": 1,
        "grid_0": n // 64,
        **changes,
    }
    write_tuned(configs, doubled, problem, NamedConfig(BLOCK=block, num_warps=warps), before=BEFORE)


def test_static_shapes_get_their_entries_without_a_break(configs):
    tuned(configs, 1024, 256, 8)
    tuned(configs, 4096, 512, 2)
    traced = Traced(fusetune.autotune(CONFIGS, ["n"])(doubled), dynamic=False)
    assert traced(1024) == ({"BLOCK": 256}, 8)
    assert traced.launched[0][2] == [(4, 1, 1)]
    assert traced(4000) == ({"BLOCK": 512}, 2)
    with pytest.warns(RuntimeWarning, match="no tuned config of .*doubled"):
        assert traced(4001) == ({"BLOCK": 64}, 4)
    assert traced(1024, torch.float16) == ({"BLOCK": 64}, 4)
    assert traced(1024) is None


def test_dynamic_shapes_are_guarded_by_their_buckets_alone(configs):
    tuned(configs, 4096, 512, 2)
    traced = Traced(fusetune.autotune(CONFIGS, ["n"], default=1)(doubled), dynamic=True)
    assert traced(4096) == ({"BLOCK": 512}, 2)
    assert [traced(n) for n in (4080, 3008, 2064)] == [None] * 3, "one graph for a bucket"
    with pytest.warns(RuntimeWarning, match="no tuned config"):
        assert traced(2048) == ({"BLOCK": 32}, 1)
    assert [traced(n) for n in (1024, 32, 160)] == [None] * 3


def test_without_an_entry_no_shape_is_guarded():
    traced = Traced(fusetune.autotune(CONFIGS, ["n"])(doubled), dynamic=True)
    with pytest.warns(RuntimeWarning, match="no tuned config"):
        traced(4096)
    assert [traced(n) for n in (4095, 17, 1 << 20)] == [None] * 3


def test_of_several_in_a_bucket_the_nearest_is_taken(configs):
    tuned(configs, 2064, 128, 2)
    tuned(configs, 4096, 512, 8)
    traced = Traced(fusetune.autotune(CONFIGS, ["n"])(doubled), dynamic=True)
    assert traced(2064) == ({"BLOCK": 128}, 2)
    assert traced(2080) == ({"BLOCK": 128}, 2)
    assert traced(4000) == ({"BLOCK": 512}, 8)
    assert traced(4096) == ({"BLOCK": 512}, 8)


@pytest.mark.parametrize("dynamic", [False, True])
def test_of_two_that_are_as_near_the_one_that_an_eager_launch_takes_is_taken(configs, dynamic):
    tuned(configs, 2304, 128, 2)
    tuned(configs, 3600, 512, 8)
    traced = Traced(fusetune.autotune(CONFIGS, ["n"])(doubled), dynamic=dynamic)
    assert traced(2880) == ({"BLOCK": 512}, 8), "2880 / 2304 is 3600 / 2880"
    given = {"x_ptr": torch.zeros(1), "y_ptr": torch.zeros(1), "n": 2880, "KIND": "double", "WIDE": 1}
    assert LAUNCH_CONFIGS.find(doubled, given, supplied={"BLOCK": 64}).constants == {"BLOCK": 512}


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_constants_count_and_dtypes_among_them_are_nothing_to_compare(configs):
    tuned(configs, 4096, 512, 8)
    tuned(configs, 4096, 256, 8, KIND="fp32")
    for kind, expected in (("double", 512), ("triple", 64), (tl.float32, 64)):
        torch._dynamo.reset()
        traced = Traced(fusetune.autotune(CONFIGS, ["n"])(doubled), dynamic=False, kind=kind)
        assert traced(4096)[0] == {"BLOCK": expected}


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_other_configs_that_are_loaded_are_traced_anew(configs):
    traced = Traced(fusetune.autotune(CONFIGS, ["n"])(doubled), dynamic=False)
    assert traced(4096) == ({"BLOCK": 64}, 4)
    tuned(configs, 4096, 512, 8)
    assert traced(4096) is None
    fusetune.reload()
    assert traced(4096) == ({"BLOCK": 512}, 8)


@pytest.mark.filterwarnings("ignore:fusetune has no tuned config")
def test_the_user_s_own_pruning_is_traced_for_the_default(configs):
    kernel = fusetune.autotune(
        CONFIGS,
        ["n"],
        {"early_config_prune": lambda configs, named_args, **kwargs: configs[1:] if named_args["n"] < 100 else configs},
    )(doubled)
    traced = Traced(kernel, dynamic=False)
    assert traced(64) == ({"BLOCK": 32}, 1)
    assert traced(128) == ({"BLOCK": 64}, 4)


def test_heuristics_below_are_computed_for_the_tuned_config(configs):
    problem = {"x_ptr": "float32", "n": 4096, "grid_0": 64}
    write_tuned(configs, evenly, problem, NamedConfig(BLOCK=1024, num_warps=8), before=BEFORE)
    values = {"EVEN": lambda args: args["n"] % args["BLOCK"] == 0}
    kernel = fusetune.autotune(CONFIGS, ["n"])(triton.heuristics(values)(evenly))
    launched = []

    def function(x: torch.Tensor) -> torch.Tensor:
        kernel[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, x.numel())
        return x

    backend = partial(_compiled, launched)
    torch.compile(function, fullgraph=True, dynamic=False, backend=backend)(torch.zeros(4096))
    assert [one[0] for one in launched] == [{"BLOCK": 1024, "EVEN": True}]


def test_where_torch_cannot_choose_below_heuristics_the_default_is_traced(configs, monkeypatch):
    monkeypatch.setattr("fusetune.runtime.autotune.traces_choices", lambda: False)
    values = {"EVEN": lambda args: args["n"] % args["BLOCK"] == 0}
    kernel = fusetune.autotune(CONFIGS, ["n"], default=1)(triton.heuristics(values)(evenly))
    launched: list[Any] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        kernel[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, x.numel())
        return x

    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=partial(_compiled, launched))
    with pytest.warns(RuntimeWarning, match="before 2.13 cannot choose"):
        compiled(torch.zeros(4096))
    assert [one[:2] for one in launched] == [({"BLOCK": 32, "EVEN": True}, 1)]
    assert kernel.configs == CONFIGS


def _wrapped_as_by_torch_2_11(self: Any, user_obj: Any, tx: Any, variable: Any, name: str) -> Any:
    from torch._dynamo.source import AttrSource
    from torch._dynamo.variables.builder import VariableBuilder

    return VariableBuilder(tx, AttrSource(variable.kernel_source, name))._wrap(user_obj)


@pytest.mark.parametrize("version", ["this", "2.11"])
def test_a_kernel_may_be_launched_twice_in_one_graph(configs, monkeypatch, version):
    if version == "2.11":
        from torch._dynamo.variables.functions import DynamoTritonHOPifier

        monkeypatch.setattr(DynamoTritonHOPifier, "wrap_user_defined_obj", _wrapped_as_by_torch_2_11)
    tuned(configs, 4096, 512, 2)
    kernel = fusetune.autotune(CONFIGS, ["n"])(doubled)
    launched: list[Any] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        y, n = torch.empty_like(x), x.numel()
        for given, made in ((x, y), (y, x)):
            kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](given, made, n, KIND="double")
        return x

    torch.compile(function, fullgraph=True, backend=partial(_compiled, launched))(torch.zeros(4096))
    assert [one[:2] for one in launched] == [({"BLOCK": 512}, 2)] * 2
