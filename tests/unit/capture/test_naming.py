"""Names of captured kernels and their values are such that files can have them."""

from __future__ import annotations

import re

import pytest

from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.core.text import OP_NAME
from fusetune.ops.naming import kernel_place, op_name, value_name


@pytest.mark.parametrize(
    ("module", "qualname", "file", "name"),
    [
        (
            "liger_kernel.ops.rms_norm",
            "_rms_norm_forward_kernel",
            "x.py",
            "liger_kernel_ops_rms_norm_rms_norm_forward_kernel",
        ),
        ("__main__", "add", "/home/me/bench.py", "bench_add"),
    ],
)
def test_a_plain_name_is_kept(module: str, qualname: str, file: str, name: str) -> None:
    assert op_name(module, qualname, file) == name


@pytest.mark.parametrize(
    ("module", "qualname"),
    [("m", "f.<locals>.k"), ("M", "K"), ("9m", "k"), ("m" * 200, "k"), ("ö", "k"), ("_", "_"), ("a.b", "../../etc")],
)
def test_whatever_it_is_called_a_file_can_be(module: str, qualname: str) -> None:
    assert re.match(OP_NAME, op_name(module, qualname, "f.py"))


def test_two_kernels_have_two_names() -> None:
    names = [op_name("m", name, "f.py") for name in ("add", "Add", "f.<locals>.add", "f.add")]
    assert len(set(names)) == 4


def test_a_script_is_called_as_its_file() -> None:
    assert kernel_place("__main__", "add", "/a/bench.py") == "bench:add"
    assert kernel_place("__mp_main__", "add", "/a/bench.py") == "bench:add"


@pytest.mark.parametrize("name", ["n", "_n", "__n", "values", "keys", "label", "sizes", "num_warps", "get", "order"])
def test_any_parameter_can_be_a_value(name: str) -> None:
    assert dict(NamedProblem(**{value_name(name): 3})) == {value_name(name): 3}
    assert NamedConfig(**{value_name(name): 3}) is not None
