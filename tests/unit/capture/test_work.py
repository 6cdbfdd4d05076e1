"""What a kernel multiplies and stages, read from the text of its intermediate code."""

from __future__ import annotations

import pytest

from fusetune.capture.cases import WorkSeen
from fusetune.capture.work import work

DOT = "%d = tt.dot %a, %b, %c, inputPrecision = tf32 : tensor<64x32xf32> * tensor<32x16xf32> -> tensor<64x16xf32>"
HALVES = "%d = tt.dot %a, %b, %c : tensor<64x32xf16> * tensor<32x16xf16> -> tensor<64x16xf32> loc(#loc3)"
SIGNATURE = {"x": "*fp32", "K": "i32", "BLOCK": "constexpr"}
ONCE = 2.0 * 64 * 32 * 16


def module(*lines: str, parameters: str = "%arg0: !tt.ptr<f32>, %arg1: i32") -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"module {{\n  tt.func public @k({parameters}) attributes {{noinline = false}} {{\n{body}\n  }}\n}}\n"


def read(*lines: str, grid: tuple[int, ...] = (1,), size: int = 100) -> WorkSeen:
    return work(module(*lines), SIGNATURE, grid, {"x": object(), "K": size, "BLOCK": 32})


def loop(*inside: str, until: str = "%arg1") -> list[str]:
    return [
        "%c0 = arith.constant 0 : i32",
        "%c32 = arith.constant 32 : i32",
        f"%r:2 = scf.for %k = %c0 to {until} step %c32 iter_args(%p = %x) -> (tensor<64x16xf32>)  : i32 {{",
        *inside,
        "scf.yield %d : tensor<64x16xf32>",
        "} loc(#loc1)",
    ]


def test_products_count_once_for_each_turn_of_a_loop_and_for_each_program() -> None:
    found = read(*loop("%a = tt.load %p : tensor<64x32x!tt.ptr<f32>>", DOT), grid=(3, 2))
    assert found == WorkSeen(multiplies=True, kind="tf32", flops=ONCE * 4 * 6, staged_loads=1)


def test_a_bound_that_is_computed_is_followed() -> None:
    """cdiv(K, 32) * 32 of K = 100."""
    computed = [
        "%c31 = arith.constant 31 : i32",
        "%c32_0 = arith.constant 32 : i32",
        "%s = arith.addi %arg1, %c31 : i32 loc(#loc2)",
        "%t = arith.divsi %s, %c32_0 : i32",
        "%u = arith.muli %t, %c32_0 : i32",
    ]
    assert read(*computed, *loop(HALVES, until="%u")) == WorkSeen(multiplies=True, kind="float16", flops=ONCE * 4)


def test_names_may_hold_signs_and_dots() -> None:
    """cdiv(K - 1, 32) turns, of a K that Triton 3.8 calls a part of something."""
    computed = [
        "%c-1_i32 = arith.constant -1 : i32",
        "%shape.1 = arith.addi %arg1, %c-1_i32 : i32 loc(#loc2)",
    ]
    assert read(*computed, *loop(HALVES, until="%shape.1"), size=97).flops == ONCE * 3


def test_a_bound_that_follows_the_program_counts_as_in_the_middle_of_the_grid() -> None:
    causal = [
        "%pid = tt.get_program_id x : i32",
        "%c64 = arith.constant 64 : i32",
        "%end = arith.muli %pid, %c64 : i32",
    ]
    assert read(*causal, *loop(HALVES, until="%end"), grid=(9,)).flops == ONCE * (4 * 64 / 32) * 9


def test_a_bound_that_is_loaded_leaves_the_count_open() -> None:
    found = read("%n = tt.load %arg0 : !tt.ptr<i32>", *loop(DOT, until="%n"))
    assert found == WorkSeen(multiplies=True, kind="tf32", flops=None)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (DOT, "tf32"),
        (DOT.replace("inputPrecision = tf32 ", ""), "ieee"),
        (HALVES.replace("f16>", "bf16>"), "bfloat16"),
        (HALVES.replace("xf16>", "xi8>"), None),
        (DOT.replace("tt.dot", "tt.dot_scaled"), None),
    ],
)
def test_the_kind_of_products_is_told_where_a_peak_is_stated_of_it(line: str, kind: str | None) -> None:
    assert read(line).kind == kind


def test_two_kinds_are_none_and_a_kernel_without_products_multiplies_nothing() -> None:
    assert read(DOT, HALVES).kind is None
    assert read("%a = tt.load %arg0 : !tt.ptr<f32>") == WorkSeen(multiplies=False)


def test_loads_count_in_the_innermost_loop_that_has_most() -> None:
    load = "%a = tt.load %p : tensor<64x32x!tt.ptr<f32>>"
    inner = ["%q = scf.for %j = %c0 to %arg1 step %c32 : i32 {", load, load, load, "}"]
    assert read(load, *loop(load, load, *inner)).staged_loads == 3


def test_what_is_no_text_of_its_kind_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not known"):
        work("}\n", SIGNATURE, (1,), {})
