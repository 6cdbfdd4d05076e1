"""Lists of problems: what is read, and that every bad row is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusetune.core.problem import make_problem
from fusetune.errors import UsageError
from fusetune.store.shapes import read_shapes

DEFAULTS = {"op": "gemm_scale", "dtype": "float32", "precision": None, "mode": None}


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
    shapes = read_shapes(written(tmp_path, text, name), DEFAULTS)
    assert [shape.op for shape in shapes] == ["gemm_scale", "gemm_scale_bn"]
    assert [shape.problem for shape in shapes] == [
        make_problem(128, 512, 1024, "float32"),
        make_problem(16, 64, 64, "float16", mode="eval"),
    ]


def test_options_are_for_rows_that_leave_them_out_and_a_precision_for_float32_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "M,N,K,dtype\n64,64,64,\n64,64,64,float16\n", "s.csv")
    found = read_shapes(path, {**DEFAULTS, "precision": "tf32x3"})
    assert [shape.problem.precision for shape in found] == ["tf32x3", None]


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
        lines, ("M is 0", "K is missing", "'many'", "float64", "block", "17", "line 1", "True"), strict=True
    ):
        assert word in line


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("s.txt", "", "end in .yaml"),
        ("s.yaml", "", "holds no problems"),
        ("s.yaml", "M: 3", "expected a list"),
        ("s.yaml", "- {M: 1, N: [", "line 1"),
        ("s.csv", "A,B\n1,2\n", "header has to name M, N and K"),
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
