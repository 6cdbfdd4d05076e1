"""Direct launches of kernels compiled for a GPU that is not there: which argument gets which pointer."""

from __future__ import annotations

import pytest
import torch
import triton

from fusetune.nn.plans import EPS, OPERANDS, direct_launches
from fusetune.ops import direct
from fusetune.ops.device import Gpu
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launches import KERNELS, PADDED_KERNELS, gemm_launches, workspace
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.stand_in import StandIn
from tests.support.fake_gpu import fake_gpu

M, N, K = 128, 512, 1024
PERSISTENT = Config(variant="persistent", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3)
SPLIT = Config(variant="split_k", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, SPLIT_K=8)
JOINED = Config(variant="split_k", BLOCK_M=128, BLOCK_N=16, BLOCK_K=32, SPLIT_K=2)
PERSISTENT_JOINED = Config(variant="persistent", BLOCK_M=128, BLOCK_N=16, BLOCK_K=32, SPLIT_K=2, num_stages=3)
PADDED = Config(variant="padded", BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_stages=3)
PADDED_SPLIT = Config(variant="padded", BLOCK_M=128, BLOCK_N=64, BLOCK_K=32, SPLIT_K=4, num_stages=3)
PADDED_JOINED = Config(variant="padded", BLOCK_M=128, BLOCK_N=16, BLOCK_K=32, SPLIT_K=2, num_stages=3)
POINTERS = {name: 4096 + 256 * place for place, name in enumerate(OPERANDS)}
VALUES = [*POINTERS.values(), 0.5, 0.25]
FOLLOWED = {"mean_ptr": "running_mean", "var_ptr": "running_var", "tracked_ptr": "num_batches_tracked"}


@pytest.fixture
def utils():
    """A driver of an sm_90 GPU, active for one test."""
    with fake_gpu((*KERNELS, *PADDED_KERNELS)) as fake:
        yield fake


def _launches(config, ending, N=N, K=K):
    mode = None if ending == "scale" else ending
    problem = make_problem(M, N, K, "float32", mode=mode)
    names = ["x", "weight", "bias", "scale"]
    if mode:
        names += ["gamma", "beta", "running_mean", "running_var"]
    shapes = {"x": (M, K), "weight": (N, K), "y": (M, N)}
    device = torch.device("cpu")
    tensors = {name: StandIn(shapes.get(name, (N,)), torch.float32, device) for name in [*names, "y"]}
    if mode == "train":
        tensors["num_batches_tracked"] = StandIn((), torch.int64, device)
    scratch = {
        one.name: StandIn(one.shape, getattr(torch, one.dtype), device) for one in workspace(problem, config, ending)
    }
    for tensor in tensors.values():
        tensor.gpu = Gpu(90, 132)
    counter = "count" if mode == "train" else "none"
    launches = list(gemm_launches(problem, config, {**tensors, **scratch}, ending, counter=counter))
    return launches, direct_launches(launches, tensors, scratch)


def _given(utils, launch):
    """What the C function got for the kernel's arguments, and what it got beside them."""
    (arguments,) = utils.launched
    utils.launched.clear()
    if isinstance(launch, direct._FlatLaunch):
        return list(arguments[13:]), arguments[:13]
    return arguments[-1], arguments[:-1]


@pytest.mark.parametrize("config", [BASELINE, SPLIT, JOINED], ids=Config.label)
@pytest.mark.parametrize("ending", ["scale", "eval", "train"])
def test_each_argument_gets_its_own_pointer_and_the_rest_is_as_described(utils, config, ending):
    launches, directs = _launches(config, ending)
    for described, launch in zip(launches, directs, strict=True):
        launch(99, VALUES)
        given, beside = _given(utils, launch)
        assert beside[:5] == (*(*described.grid, 1, 1)[:3], 99, 4242)
        assert True in beside, "programmatic dependent launch"
        for name, value in zip(described.kernel.arg_names, given, strict=True):
            operand = FOLLOWED.get(name, name.removesuffix("_ptr"))
            operand = {"w": "weight", "moments": "scratch", "partial": "scratch"}.get(operand, operand)
            if name in {"eps", "momentum"}:
                assert value == VALUES[EPS + (name == "momentum")]
            elif not name.endswith("_ptr"):
                assert value == {**described.arguments, **described.constants}[name], name
            elif value is None:  # not followed
                assert ending != "train" or operand == "scratch" or described is launches[0], name
            elif name == "y_ptr" and launches[0] is described and config == SPLIT:
                assert value == POINTERS["scratch"], "the summands"
            else:
                assert value == POINTERS[operand], name


@pytest.mark.parametrize("ending", ["scale", "eval"])
def test_a_pointer_that_an_ending_follows_is_always_given(utils, ending):
    launches, directs = _launches(BASELINE, ending)
    directs[0](1, VALUES)
    given, _ = _given(utils, directs[0])
    by_name = dict(zip(launches[0].kernel.arg_names, given, strict=True))
    wanted = {"x_ptr", "w_ptr", "bias_ptr", "scale_ptr", "y_ptr"}
    if ending == "eval":
        wanted |= {"gamma_ptr", "beta_ptr", "mean_ptr", "var_ptr"}
    assert {name for name, value in by_name.items() if name.endswith("_ptr") and value is not None} == wanted


@pytest.mark.parametrize("config", [JOINED, PERSISTENT_JOINED], ids=Config.label)
@pytest.mark.parametrize("ending", ["scale", "eval", "train"])
def test_a_kernel_that_joins_summands_is_the_only_one_and_gets_summands_and_counts(utils, config, ending):
    (described,), (launch,) = _launches(config, ending)
    launch(1, VALUES)
    given, _ = _given(utils, launch)
    by_name = dict(zip(described.kernel.arg_names, given[-len(described.kernel.arg_names) :], strict=True))
    assert by_name["partial_ptr"] == POINTERS["scratch"]
    assert by_name["arrivals_ptr"] == POINTERS["arrivals"]
    assert by_name["y_ptr"] == POINTERS["y"]


@pytest.mark.parametrize("config", [PADDED, PADDED_SPLIT, PADDED_JOINED], ids=Config.label)
@pytest.mark.parametrize("ending", ["scale", "eval", "train"])
def test_copies_are_made_of_x_and_weight_and_loaded_by_the_products(utils, config, ending):
    described, directs = _launches(config, ending, N=509, K=1021)
    given = []
    for launch in directs:
        launch(1, VALUES)
        values, _ = _given(utils, launch)
        given.append(values)
    names = described[0].kernel.arg_names
    copied = dict(zip(names, given[0], strict=True))
    pointers = {"x_ptr": "x", "w_ptr": "weight", "x_padded_ptr": "x_padded", "w_padded_ptr": "weight_padded"}
    assert {name: copied[name] for name in pointers} == {name: POINTERS[of] for name, of in pointers.items()}
    assert (copied["stride_xm"], copied["stride_wn"], copied["K"]) == (1021, 1021, 1021)
    # Rows of 1024 elements are described, of which the kernel is told the first 1021.
    assert given[1][:5] == [("map", POINTERS["x_padded"]), M, 1024, 1024, 1]
    assert ("map", POINTERS["weight_padded"]) in given[1]
    assert [call[0] for call in utils.encoded] == [POINTERS["x_padded"], POINTERS["weight_padded"]]
    behind_descriptors = described[1].kernel.arg_names[2:]
    products = dict(zip(behind_descriptors, given[1][-len(behind_descriptors) :], strict=True))
    if config == PADDED_JOINED:
        assert products["partial_ptr"] == POINTERS["scratch"]
        assert (products["arrivals_ptr"], products["y_ptr"]) == (POINTERS["arrivals"], POINTERS["y"])
    elif config == PADDED_SPLIT:
        assert products["y_desc"] == POINTERS["scratch"], "the summands"
    else:
        assert products["y_desc"] == POINTERS["y"]
    if config == PADDED and ending == "train":
        assert products["moments_ptr"] == POINTERS["scratch"]
    left = {"scale": 0, "eval": 0, "train": 1}[ending] if config == PADDED else int(config == PADDED_SPLIT)
    assert len(given) == 2 + left
    for one, values in zip(described[2:], given[2:], strict=True):
        after = dict(zip(one.kernel.arg_names, values, strict=True))
        assert after["y_ptr"] == POINTERS["y"]
        assert after["partial_ptr" if config == PADDED_SPLIT else "moments_ptr"] == POINTERS["scratch"]


def test_descriptors_are_encoded_once_an_address_and_forgotten_before_they_are_too_many(utils):
    _, (launch,) = _launches(PERSISTENT, "scale")
    for _ in range(3):
        launch(1, VALUES)
    assert [call[0] for call in utils.encoded] == [POINTERS["x"], POINTERS["weight"], POINTERS["y"]]
    given, _ = _given_all(utils, launch)
    assert given[:5] == [("map", POINTERS["x"]), M, K, K, 1]
    assert ("map", POINTERS["weight"]) in given
    assert ("map", POINTERS["y"]) in given
    for place in range(3 * direct.MOST_TENSOR_MAPS):
        launch(1, [1 << 20 | place << 8, *VALUES[1:]])
    assert all(len(maps) <= direct.MOST_TENSOR_MAPS for _, _, maps in launch._maps)


def _given_all(utils, launch):
    utils.launched[:] = utils.launched[-1:]
    return _given(utils, launch)


def test_tf32_is_rounded_in_the_copies(utils):
    _, (launch,) = _launches(PERSISTENT, "scale")
    launch(1, VALUES)
    elements = {call[0]: call[3] for call in utils.encoded}
    assert elements[POINTERS["x"]] == elements[POINTERS["weight"]] == 11  # CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
    assert elements[POINTERS["y"]] != 11


def test_a_launch_hook_sees_the_kernel_with_its_name(utils):
    _, (launch,) = _launches(BASELINE, "scale")
    seen = []

    def hook(metadata):
        seen.append(metadata.get()["name"])

    chain = triton.knobs.runtime.launch_enter_hook
    launch(1, VALUES)
    assert not any(callable(one) for one in utils.launched[-1]), "nobody listens"
    chain.add(hook)
    try:
        launch(1, VALUES)
    finally:
        chain.remove(hook)
    metadata = next(one for one in utils.launched[-1] if hasattr(one, "get"))
    chain_given = [one for one in utils.launched[-1] if one is chain]
    assert len(chain_given) == 1
    hook(metadata)
    assert seen == ["tiled_products"]


def test_another_version_of_triton_is_launched_by_its_own_jit(utils, monkeypatch):
    monkeypatch.setattr(direct, "_LAYOUTS", {})
    direct._layout.cache_clear()
    try:
        _, found = _launches(BASELINE, "scale")
    finally:
        direct._layout.cache_clear()
    assert found is None


def test_triton_3_6_takes_everything_in_one_row(utils, monkeypatch):
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    monkeypatch.setattr(direct, "_LAYOUTS", {version: direct._FlatLaunch})
    direct._layout.cache_clear()
    try:
        launches, (launch,) = _launches(BASELINE, "scale")
    finally:
        direct._layout.cache_clear()
    launch(99, VALUES)
    (arguments,) = utils.launched
    # As in its C launcher: grid, stream, function, two flags, two scratches, metadata, what hooks get, two hooks.
    assert arguments[:5] == (*(*launches[0].grid, 1, 1)[:3], 99, 4242)
    assert arguments[7:9] == (None, None)
    assert arguments[9] == launch.compiled.packed_metadata
    assert arguments[10:13] == (None, None, None)
    assert len(arguments) == 13 + len(launches[0].kernel.arg_names)
