"""What people call dtypes, and what they may have meant."""

from __future__ import annotations

import pytest

from fusetune.core.dtypes import ELEMENT_TYPES, dtype_name, element_type, unknown_dtype
from fusetune.errors import UsageError
from fusetune.ops.spec import Operand

CALLED = {
    "float64": ["fp64", "f64", "double"],
    "float32": ["fp32", "f32", "float", "FP32"],
    "float16": ["fp16", "f16", "half", "Half", "torch.half", "torch.float16"],
    "bfloat16": ["bf16", "BF16", "bfloat", "torch.bfloat16"],
    "float8_e4m3fn": ["fp8", "e4m3", "fp8e4nv", "float8-e4m3fn"],
    "float8_e5m2": ["fp8e5", "e5m2"],
    "int64": ["i64", "long"],
    "int32": ["i32", "int"],
    "uint8": ["u8", "byte"],
    "bool": ["i1"],
}


@pytest.mark.parametrize(("word", "name"), [(word, name) for name, words in CALLED.items() for word in words])
def test_a_dtype_is_known_by_what_people_call_it(word: str, name: str) -> None:
    assert dtype_name(word) == name


@pytest.mark.parametrize("name", ELEMENT_TYPES)
def test_a_dtype_is_known_by_its_own_name_and_by_tritons(name: str) -> None:
    assert dtype_name(name) == name
    assert dtype_name(ELEMENT_TYPES[name].triton) == name


def test_what_is_none_stays_as_it_is() -> None:
    assert dtype_name("Tf32") == "Tf32"
    assert dtype_name("") == ""


def test_a_slip_is_told_with_the_dtype_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"^dtype 'flaot32' is not known; use one of .*; did you mean float32\?$"):
        element_type("flaot32")
    assert unknown_dtype("bf61", ("float32", "bfloat16")).endswith(
        "use one of float32, bfloat16; did you mean bfloat16?"
    )


def test_a_dtype_that_an_op_does_not_take_is_no_slip() -> None:
    assert unknown_dtype("float64", ("float32", "float16")).endswith("use one of float32, float16")
    assert unknown_dtype("zzz", ("float32", "float16")).endswith("use one of float32, float16")


def test_an_operand_has_its_dtype_by_pytorchs_name() -> None:
    assert Operand("x", (4,), "fp16") == Operand("x", (4,), "float16")
    assert Operand("x", (4,), "fp17").dtype == "fp17"
