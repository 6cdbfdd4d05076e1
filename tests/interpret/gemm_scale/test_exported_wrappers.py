"""Exported wrappers called as no example does: they compute what PyTorch does, or say in one sentence why not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import batch_norm, linear

from fusetune.core.target import find_target
from tests.support.gemm_scale.exporting import (
    DEFERRED,
    JOINED,
    OWNER,
    PADDED,
    PERSISTENT,
    REREAD,
    SPLIT,
    TILED,
    exported,
)
from tests.support.gemm_scale.handed_out import FUNCTIONS, loaded

M, N, K = 48, 40, 96
MODULES = {
    "tiled": (TILED, "float32", False),
    "autotuned": (TILED, "float32", True),
    "split_k": (SPLIT, "float32", False),
    "joined": (JOINED, "float32", False),
    "persistent": (PERSISTENT, "float32", False),
    "padded": (PADDED, "float32", False),
    "reread": (REREAD, "float32", False),
    "owner": (OWNER, "float32", False),
    "half": (TILED, "float16", False),
    "deferred": (DEFERRED, "float16", False),
}
WALKING = {"persistent", "reread", "owner", "deferred"}
NAMES = ("x", "weight", "bias", "scale", "gamma", "beta", "running_mean", "running_var")
every_wrapper = pytest.mark.parametrize(
    ("label", "mode"), [(label, mode) for label in MODULES for mode in FUNCTIONS if mode or label not in WALKING]
)
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def module_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str | None], ModuleType]:
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def module_of(label: str, mode: str | None) -> ModuleType:
        config, dtype, autotune = MODULES[label]
        op = "gemm_scale_bn" if mode else "gemm_scale"
        if (label, op) not in made:
            text = exported(op, config, find_target("h200"), dtype=dtype, autotune=autotune)  # type: ignore[arg-type]
            made[label, op] = loaded(folder / f"{label}_{op}.py", text)
            for kernel in vars(made[label, op]).values():
                if hasattr(kernel, "configs"):
                    vars(kernel)["do_bench"] = run_once  # There is no GPU to time on.
        return made[label, op]

    return module_of


def run_once(kernel_call: Callable[[], object], quantiles: tuple[float, ...]) -> list[float]:
    kernel_call()
    return [1.0 for _ in quantiles]


def tensors(label: str, mode: str | None) -> Tensors:
    torch.manual_seed(0)
    dtype = getattr(torch, MODULES[label][1])
    found: Tensors = {"x": torch.randn(M, K), "weight": torch.randn(N, K) / 10}
    found |= {name: torch.randn(N) for name in NAMES[2 : None if mode else 4]}
    if mode:
        found["running_var"] = torch.rand(N) + 0.5
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def call(module: ModuleType, mode: str | None, given: Tensors, tracked: Any = None) -> torch.Tensor:
    rest: dict[str | None, tuple[Any, ...]] = {
        None: (),
        "eval": (1e-5,),
        "train": (torch.zeros((), dtype=torch.int64) if tracked is None else tracked, 0.1, 1e-5),
    }
    y: torch.Tensor = getattr(module, FUNCTIONS[mode])(*given.values(), *rest[mode])
    return y


def by_pytorch(mode: str | None, given: Tensors) -> torch.Tensor:
    """The same in float64; running statistics are updated in place."""
    wide = {name: tensor.detach().double() for name, tensor in given.items()}
    y = linear(wide["x"], wide["weight"], wide["bias"]) * wide["scale"]
    if mode is None:
        return y
    running = wide["running_mean"].clone(), wide["running_var"].clone()
    y = batch_norm(y, *running, wide["gamma"], wide["beta"], mode == "train", 0.1, 1e-5)
    if mode == "train":
        for name, value in zip(("running_mean", "running_var"), running, strict=True):
            given[name].copy_(value)
    return y


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, every other element of a larger tensor."""
    larger = torch.full([2 * side for side in tensor.shape], 1e4, dtype=tensor.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in tensor.shape)]
    view.copy_(tensor)
    return view


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers without gaps, from an address that 16 does not divide."""
    larger = torch.full((tensor.numel() + 1,), 1e4, dtype=tensor.dtype)
    view = larger[1:].view(tensor.shape)
    view.copy_(tensor)
    return view


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "strided": strided,
    "misaligned": misaligned,
    "transposed": lambda one: one.T.contiguous().T if one.dim() == 2 else strided(one),
    "flipped twice": lambda one: one.flip(0).flip(0),
}


@every_wrapper
def test_of_any_layout_the_numbers_count(label: str, mode: str | None, module_of: Any) -> None:
    module = module_of(label, mode)
    limit = 2e-2 if MODULES[label][1] == "float16" else 2e-4
    for layout in LAYOUTS.values():
        given = {name: layout(tensor) for name, tensor in tensors(label, mode).items()}
        other = tensors(label, mode)
        y = call(module, mode, given)
        assert float((y - by_pytorch(mode, other)).abs().max()) < limit
        for name in ("running_mean", "running_var") if mode else ():
            assert float((given[name] - other[name]).abs().max()) < limit, name
    # What stands still is read as often as it says.
    given = tensors(label, mode)
    for name in ("scale", "bias"):
        given[name] = torch.ones(1, dtype=given[name].dtype).expand(N)
    given["x"] = given["x"][:1].expand(M, K) + 0 if mode == "train" else given["x"][:1].expand(M, K)
    if mode != "train":
        assert float((call(module, mode, given) - by_pytorch(mode, given)).abs().max()) < limit


@pytest.mark.parametrize(("label", "mode"), [("tiled", None), ("persistent", "eval"), ("deferred", "eval")])
def test_one_row_whose_stride_is_odd_is_a_row_like_others(label: str, mode: str | None, module_of: Any) -> None:
    given = tensors(label, mode)
    given["x"] = torch.cat([given["x"], given["x"][:, :1]], 1)[:1, :K]
    assert given["x"].stride(0) == K + 1
    assert float((call(module_of(label, mode), mode, given) - by_pytorch(mode, given)).abs().max()) < 2e-2


@pytest.mark.parametrize("name", ["x", "weight"])
def test_numbers_too_far_apart_for_32_bits_are_read_right(name: str, module_of: Any) -> None:
    given = tensors("tiled", None)
    given |= {one: given[one][:, :33].contiguous() for one in ("x", "weight")}
    expected = by_pytorch(None, given)
    # In a huge storage, of which nothing else is ever touched.
    far = torch.empty_strided(given[name].shape, (1, 70_000_000), dtype=given[name].dtype)
    given[name] = far.copy_(given[name])
    assert float((call(module_of("tiled", None), None, given) - expected).abs().max()) < 2e-4


@every_wrapper
def test_no_rows_give_no_rows_but_in_training(label: str, mode: str | None, module_of: Any) -> None:
    given = tensors(label, mode)
    given["x"] = given["x"][:0]
    if mode == "train":
        with pytest.raises(ValueError, match="more than one row"):
            call(module_of(label, mode), mode, given)
    else:
        assert call(module_of(label, mode), mode, given).shape == (0, N)


def wrong(label: str, given: Tensors) -> Iterator[tuple[str, Tensors]]:
    """Inputs that are to be refused, each with what the sentence has to name."""
    vectors = [name for name in given if name not in {"x", "weight"}]
    yield "x must be", {"x": given["x"][0]}
    yield "x must be", {"x": given["x"][None]}
    yield "x must be", {"x": given["x"][:, :-8]}
    yield "weight", {"weight": given["weight"][0]}
    for name in vectors:
        one = given[name]
        yield f"{name} must be", {name: one[: N // 2]}
        yield f"{name} must be", {name: one[:1]}
        yield f"{name} must be", {name: one[0]}
        yield f"{name} must be", {name: one[None]}
        yield f"{name} must be", {name: torch.cat([one, one])}
    for name in given:
        yield name, {name: None}
        yield name, {name: given[name].double()}
        yield name, {name: given[name].to(torch.bfloat16)}
        yield name, {name: given[name].to("meta")}
    if label == "padded":
        yield "K=0", {"x": given["x"][:, :0], "weight": given["weight"][:, :0]}
    if label in WALKING:
        yield "16 bytes", {"x": given["x"][:, :-1], "weight": given["weight"][:, :-1]}
        yield "16 bytes", {"x": given["x"][:, :0], "weight": given["weight"][:, :0]}
        yield "16 bytes", {name: given[name][: N - 1] for name in given if name != "x"}


@every_wrapper
def test_what_does_not_fit_is_refused_in_one_sentence_that_names_it(
    label: str, mode: str | None, module_of: Any
) -> None:
    for names, changed in wrong(label, tensors(label, mode)):
        given = {**tensors(label, mode), **changed}
        running = [given[name] for name in ("running_mean", "running_var") if torch.is_tensor(given.get(name))]
        kept = [one.clone() for one in running]
        with pytest.raises((TypeError, ValueError)) as raised:
            call(module_of(label, mode), mode, given)
        assert names in str(raised.value), (changed.keys(), str(raised.value))
        assert "\n" not in str(raised.value)
        assert all(torch.equal(now, before) for now, before in zip(running, kept, strict=True) if not now.is_meta)


def test_a_counter_that_is_none_is_refused_and_a_single_row_is_counted(module_of: Any) -> None:
    module, given = module_of("tiled", "train"), tensors("tiled", "train")
    for counter in (3, torch.zeros(2, dtype=torch.int64), torch.zeros(())):
        with pytest.raises(TypeError, match="num_batches_tracked must be one int64"):
            call(module, "train", given, counter)
    tracked = torch.zeros((), dtype=torch.int64)
    with pytest.raises(ValueError, match="more than one row"):
        call(module, "train", {**given, "x": given["x"][:1]}, tracked)
    assert int(tracked) == 1, "nn.BatchNorm1d counts it too"


def test_batch_norm_may_stay_float32_beside_16_bits(module_of: Any) -> None:
    for mode in ("train", "eval"):
        given = tensors("half", mode)
        given |= {name: given[name].float() for name in NAMES[4:]}
        other = {name: tensor.clone() for name, tensor in given.items()}
        assert float((call(module_of("half", mode), mode, given) - by_pytorch(mode, other)).abs().max()) < 2e-2


# --- no gradient


@every_wrapper
def test_a_backward_pass_is_refused_and_all_else_works(label: str, mode: str | None, module_of: Any) -> None:
    module, plain = module_of(label, mode), tensors(label, mode)
    wanted = call(module, mode, {name: one.clone() for name, one in plain.items()})
    for name in ("x", "beta" if mode else "scale"):
        given = {other: one.clone().requires_grad_(other == name) for other, one in plain.items()}
        y = call(module, mode, given)
        assert torch.equal(y, wanted)
        with pytest.raises(RuntimeError, match="forward only"):
            (2 * y.relu_()).sum().backward()
    with torch.inference_mode():
        assert not call(module, mode, {other: one.clone() for other, one in plain.items()}).requires_grad
    assert not wanted.requires_grad


@pytest.mark.parametrize(("label", "mode"), [("tiled", None), ("joined", "eval"), ("persistent", "eval")])
def test_a_module_in_training_says_that_it_is_forward_only(label: str, mode: str | None, module_of: Any) -> None:
    model = module_of(label, mode).ModelNew(K, N, (N,))
    x = torch.randn(M, K)
    y = model(x)
    with pytest.raises(RuntimeError, match="forward only"):
        y.sum().backward()
    assert model.gemm.weight.grad is None
    model.eval()
    assert torch.isfinite(model(x)).all()
    with pytest.raises(RuntimeError, match="forward only"):
        model(x).sum().backward()


@pytest.mark.parametrize("op", [None, "eval"])
@pytest.mark.parametrize("shape", [(1,), (), (80,), (N, 1), (1, 1, N), (2, N)])
def test_a_scale_of_another_shape_is_refused_when_the_module_is_made(
    shape: Any, op: str | None, module_of: Any
) -> None:
    with pytest.raises(ValueError, match=rf"scale_shape must be \({N},\), got"):
        module_of("tiled", op).ModelNew(K, N, shape)


@pytest.mark.parametrize("shape", [N, (N,), (1, N), torch.Size([N])])
def test_a_scale_of_one_factor_a_column_is_taken(shape: Any, module_of: Any) -> None:
    for op, momentum in itertools.product((None, "eval"), (0.1, None)):
        model = module_of("tiled", op).ModelNew(K, N, shape, momentum=momentum)
        x = torch.randn(M, K)
        plain = torch.nn.BatchNorm1d(N, momentum=momentum)
        wanted = plain(linear(x, model.gemm.weight, model.gemm.bias) * model.scale)
        assert float((model(x) - wanted).detach().abs().max()) < 2e-4
        assert int(model.bn.num_batches_tracked) == 1
        model.train(), model.bn.eval()
        plain.eval()
        wanted = plain(linear(x, model.gemm.weight, model.gemm.bias) * model.scale)
        assert float((model(x) - wanted).detach().abs().max()) < 2e-4
