"""What Triton's JIT makes of arguments, asked without a GPU, is what our own ops' launches are compiled with."""

from __future__ import annotations

from typing import Any

import pytest
import triton
import triton.language as tl

from fusetune.compiler.build import abstract_launches, compile_launch, specialize
from fusetune.compiler.jit_signature import jit_signature
from fusetune.core.target import find_target
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import AbstractTensor, Launch, TileDescriptor
from tests.support.sample import OP

ADA, HOPPER = find_target("rtx4090"), find_target("h100")


@triton.jit
def strange(x_ptr, y_ptr, n, one, flag, scale, left_out, pair, BLOCK: tl.constexpr, KIND: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at * one, mask=at < n)
    tl.store(y_ptr + at, (x * scale + pair[0]).to(KIND), mask=at < n)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["x_ptr"])
def careful(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, at, mask=at < n)


def launch_of_strange(**more: Any) -> Launch:
    arguments = {
        "x_ptr": AbstractTensor((1000,), "float16", aligned=False),
        "y_ptr": AbstractTensor((1000,), "float32"),
        "n": 1000,
        "one": 1,
        "flag": True,
        "scale": 2.0,
        "left_out": None,
        "pair": (3, 16),
    }
    return Launch(strange, (8,), arguments | more, {"BLOCK": 128, "KIND": tl.float32}, {"num_warps": 2}, by_jit=True)


@pytest.mark.parametrize("target", [ADA, HOPPER], ids=["ada", "hopper"])
def test_our_own_launches_are_specialized_alike(target) -> None:
    spec = load_spec(OP)
    problem = spec.problem({"M": 128, "K": 1024, "N": 512})
    for launch in abstract_launches(spec, problem, spec.baseline(problem), target):
        assert jit_signature(launch, target.sm) == specialize(launch)


def test_arguments_of_every_kind() -> None:
    signature, constants, attributes = jit_signature(launch_of_strange(), 89)
    assert signature == {
        "x_ptr": "*fp16",
        "y_ptr": "*fp32",
        "n": "i32",
        "one": "constexpr",
        "flag": "u1",
        "scale": "fp32",
        "left_out": "constexpr",
        "pair": ("i32", "i32"),
        "BLOCK": "constexpr",
        "KIND": "constexpr",
    }
    assert constants == {(3,): 1, (6,): None, (8,): 128, (9,): tl.float32}
    assert attributes[(1,)] == [["tt.divisibility", 16]]
    assert attributes[(0,)] == [], "it does not begin on 16 bytes"
    assert attributes[(7, 1)] == [["tt.divisibility", 16]]


def test_what_is_not_to_be_specialized_is_not() -> None:
    launch = Launch(careful, (1,), {"x_ptr": AbstractTensor((16,), "int32"), "n": 1}, {"BLOCK": 16}, by_jit=True)
    signature, constants, attributes = jit_signature(launch, 89)
    assert signature["n"] == "i32"
    assert constants == {(2,): 16}
    assert not attributes.get((0,)), "its alignment is not looked at"


def test_it_is_compiled() -> None:
    assert compile_launch(launch_of_strange(), ADA).registers > 0


@triton.jit
def by_tiles(x_desc, y_ptr, BLOCK: tl.constexpr):
    x = x_desc.load([0, 0])
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at[:, None] * BLOCK + at[None, :], x)


def test_descriptors_are_known_by_their_tiles() -> None:
    x = TileDescriptor(AbstractTensor((64, 64), "float16"), (32, 32))
    arguments = {"x_desc": x, "y_ptr": AbstractTensor((64, 64), "float16")}
    launch = Launch(by_tiles, (1,), arguments, {"BLOCK": 32}, by_jit=True)
    assert jit_signature(launch, 90)[0]["x_desc"] == "tensordesc<fp16[32, 32]>"
    assert compile_launch(launch, HOPPER).registers > 0
