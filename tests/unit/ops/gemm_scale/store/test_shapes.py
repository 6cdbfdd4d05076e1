"""Lists of problems: what is read, and that every bad row is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.types import types_of
from fusetune.store import shapes
from fusetune.store.shapes import MOST_TOLD, Shape

DEFAULTS = {"op": "gemm_scale", "dtype": "float32", "precision": None, "mode": None}


def read_shapes(path: Path, given: Mapping[str, Any]) -> tuple[Shape, ...]:
    """As the command reads them, by the types of the ops alone."""
    defaults = {name: value for name, value in given.items() if name != "op"}
    return shapes.read_shapes(path, given["op"], defaults, lambda op, values: types_of(op).make(values))


def written(folder: Path, text: str, name: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "s.yaml",
            "- {M: 128, N: 512, K: 1024}\n- {M: 16, N: 64, K: 64, dtype: float16, op: gemm_scale_bn, mode: eval}\n",
        ),
        (
            "s.yml",
            "shapes:\n- {M: 128, N: 512, K: 1024}\n"
            "- {M: 16, N: 64, K: 64, dtype: float16, op: gemm_scale_bn, mode: eval}",
        ),
        ("s.csv", "M, N, K, dtype, op, mode\n128,512,1024,,,\n16,64,64,float16,gemm_scale_bn,eval\n"),
        (
            "s.json",
            json.dumps(
                [
                    {"M": 128, "N": 512, "K": 1024},
                    {"M": 16, "N": 64, "K": 64, "dtype": "float16", "op": "gemm_scale_bn", "mode": "eval"},
                ]
            ),
        ),
    ],
)
def test_yaml_csv_and_json_hold_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    found = read_shapes(written(tmp_path, text, name), DEFAULTS)
    assert [shape.op for shape in found] == ["gemm_scale", "gemm_scale_bn"]
    assert [shape.problem for shape in found] == [
        make_problem(128, 512, 1024, "float32"),
        make_problem(16, 64, 64, "float16", mode="eval"),
    ]


def test_options_are_for_rows_that_leave_them_out_and_a_precision_for_float32_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "M,N,K,dtype\n64,64,64,\n64,64,64,fp16\n", "s.csv")
    found = read_shapes(path, {**DEFAULTS, "precision": "tf32x3"})
    assert [shape.problem.precision for shape in found] == ["tf32x3", None]
    assert [shape.problem.dtype for shape in found] == ["float32", "float16"]


def test_every_bad_row_is_told_with_its_line_and_none_is_dropped(tmp_path: Path) -> None:
    text = """- {M: 128, N: 512, K: 1024}
- {M: 0, N: 512, K: 1024}
- {M: 128, N: 512}
- {M: 128, N: 512, K: many}
- {M: 128, N: 512, K: 64, dtype: float64}
- {M: 128, N: 512, K: 64, block: 3}
- 17
- {M: 128, N: 512, K: 1024, dtype: float32}
- {M: 128, N: 512, K: true}
"""
    path = written(tmp_path, text, "s.yaml")
    with pytest.raises(UsageError) as caught:
        read_shapes(path, DEFAULTS)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}, line {number}" for number in range(2, 10)]
    for line, word in zip(
        lines, ("M is 0", "K is missing", "'many'", "float64", "block", "17", "line 1", "'true'"), strict=True
    ):
        assert word in line


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("s.txt", "", "end in .yaml"),
        ("s.yaml", "", "holds no problems"),
        ("s.yaml", "M: 3", "expected a list"),
        ("s.yaml", "- {M: 1, N: [", "s.yaml, line [12]"),
        ("s.csv", "A,B\n1,2\n", "line 2: M, K, N are missing"),
        ("s.csv", "M,N,K\n1,2,3,4\n", "4 cells under 3 headings"),
    ],
)
def test_a_file_that_is_no_list_is_told_in_one_sentence(tmp_path: Path, name: str, text: str, why: str) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(UsageError, match=why) as caught:
        read_shapes(path, DEFAULTS)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_shapes(tmp_path / "none.yaml", DEFAULTS)


TABBED = json.dumps([{"M": 64, "N": 512, "K": 1024}], indent="\t")
ROW = "M,N,K\n64,512,1024\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("s.yaml", b"- {M: 0064, N: 512, K: 1024}"),
        ("s.yaml", b"- {M: '64', N: +512, K: \"1024\"}"),
        ("s.yaml", b"- {M: !!int 0064, N: 512, K: 1024, mode: ~, precision: null, op: }"),
        ("s.yaml", b"- &a {N: 512, K: 1024, M: 64}"),
        ("s.yaml", b"- {<<: {N: 512, K: 1024}, M: 64}"),
        ("s.json", TABBED.encode()),
        ("s.json", b'{"shapes":[{"M":64,"N":"512","K":1024}]}'),
        ("s.json", '[{"M": 64, "N": 512, "K": 1024}]'.encode("utf-8-sig")),
        ("s.csv", ROW.encode("utf-8-sig")),
        ("s.csv", ROW.encode("utf-16")),
        ("s.csv", ROW.replace(",", ";").encode()),
        ("s.csv", ROW.replace(",", "\t").encode()),
        ("s.csv", ROW.replace("\n", "\r\n").encode()),
        ("s.csv", ROW.replace("\n", "\r").encode()),
        ("s.csv", b'\n"M" , "N" , "K" ,\n 0064 , "512" , 1024 ,\n,,,\n\n'),
        ("S.CSV", ROW.encode()),
    ],
)
def test_a_size_is_what_its_digits_say_however_the_file_was_saved(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert [shape.problem for shape in read_shapes(path, DEFAULTS)] == [make_problem(64, 512, 1024, "float32")]


@pytest.mark.parametrize(
    "size",
    [
        *(
            "2:30",
            "2024-13-45",
            "2024-01-01",
            "0x40",
            "0b1",
            "0o100",
            "1_024",
            "1e3",
            "64.0",
            "6 4",
            "yes",
            "on",
            "true",
        ),
        *(".inf", ".nan", "1,024", "6\u0664", "[64]", "{a: 64}", "-64", "0", "2147483648", "9" * 5000, "64 rows"),
    ],
)
@pytest.mark.parametrize("form", ["yaml", "json", "csv"])
def test_a_size_that_is_no_number_of_rows_is_one_line_in_every_form(tmp_path: Path, size: str, form: str) -> None:
    text = {
        "yaml": f"- {{M: 128, N: 512, K: 1024}}\n- {{N: 512, K: 1024, M: {size}}}\n",
        "json": f'[{{"M": 128, "N": 512, "K": 1024}},\n {{"N": 512, "K": 1024, "M": {json.dumps(size)}}}]',
        "csv": f'M;N;K\n128;512;1024\n"{size}";512;1024\n',
    }[form]
    path = written(tmp_path, text, f"s.{form}")
    with pytest.raises(UsageError) as caught:
        read_shapes(path, DEFAULTS)
    told = str(caught.value)
    assert told.startswith(f"{path}, line {3 if form == 'csv' else 2}"), told
    assert "\n" not in told
    assert len(told) < 400
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("number", ["64.0", "1e3", "1" * 5000, "NaN", "-Infinity", "true", "[64]", '{"a": 1}'])
def test_a_number_of_json_is_not_believed_where_it_is_no_size(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, f'[\n\t{{"M": {number}, "N": 512, "K": 1024}}\n]', "s.json")
    with pytest.raises(UsageError, match=r"s\.json, line 2: M is ") as caught:
        read_shapes(path, DEFAULTS)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("s.yaml", b"- {M: 1, M: 2, N: 3, K: 4}", "line 1, column 10.*'M' is also on line 1"),
        ("s.yaml", b"- &a [*a]", "line 1: a list is not a problem"),
        ("s.yaml", b"- &a [x, x]\n- &b [*a, *a]\n", "line 2: a list is not a problem"),
        ("s.yaml", b"[" * 100_000, "nest"),
        ("s.yaml", b"- {M: 1, N: 2, K: 3}\n---\n- 1", "line 2"),
        ("s.yaml", b"- M: 1\x00", "not text"),
        ("s.yaml", b"- {M: \xff}", "not text"),
        ("s.yaml", b"- {M: 64, N: 64, K: 64, dtype: no}", "dtype 'no' is not known"),
        ("s.yaml", b"- {M: 64, N: 64, K: 64, mode: on}", "mode 'on' is not known"),
        ("s.yaml", b"- {M: 64, N: 64, K: 64, op: 3\x1b}", "line 1|special characters"),
        ("s.yaml", b"- {M: 64, N: 64, K: 64, op: 'os:system'}", "names no module to import"),
        ("s.yaml", b"- !!python/object/apply:os.system ['true']", "line 1"),
        ("s.yaml", b"shapes: {M: 64, N: 64, K: 64}", "expected a list"),
        ("s.json", b"[{'M': 64}]", "line 1: not JSON"),
        ("s.json", b'[{"M": 1, "M": 2, "N": 3, "K": 4}]', "a row with 'M' twice"),
        ("s.json", b"[" * 100_000, "nested too deep"),
        ("s.json", b'{"shapes": [{}], "more": 1}', "expected a list"),
        ("s.json", b"3", "expected a list"),
        ("s.csv", b"M,N,K,M\n1,2,3,4\n", "line 1: the header names 'M' twice"),
        ("s.csv", b"M,N,K\n1,2\n", "line 2: K is missing"),
        ("s.csv", b"M,N,K,blocks\n1,2,3,4\n", "line 2: 'blocks' is not known"),
        ("s.csv", b"M,N,K\n1," + b"2" * 200_000 + b",3\n", "line 2: not a row of a table"),
        ("s.csv", b"M,N,K\n", "holds no problems"),
        ("s.csv", b"PK\x03\x04\x00\x00", "not text"),
    ],
)
def test_an_odd_file_is_a_sentence_that_names_it(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageError, match=why) as caught:
        read_shapes(path, DEFAULTS)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_thousands_of_bad_rows_are_told_in_part_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "M,N,K\n" + "0,1,1\n" * 3000, "s.csv")
    with pytest.raises(UsageError, match="and 2950 more bad rows") as caught:
        read_shapes(path, DEFAULTS)
    assert len(str(caught.value).splitlines()) == MOST_TOLD + 1


def test_the_op_that_the_command_line_names_may_stand_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "- {M: 64, N: 64, K: 64, op: 'mine:SPEC'}", "s.yaml")
    (shape,) = read_shapes(path, {**DEFAULTS, "op": "mine:SPEC"})
    assert shape.op == "mine:SPEC"
