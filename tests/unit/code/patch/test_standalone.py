"""One module in the strict order from a user's own, with nothing that tests, and everything else as it was."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.code.patch.edits import NotWritableError
from fusetune.code.patch.standalone import IMPORTS, standalone

HERE = Path(__file__).with_name("modules")
ROOT = Path(__file__).parents[4]
MESSY = (HERE / "messy_before.txt").read_text(encoding="utf-8")
SMALL = """import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def k(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr, 1)


class ModelNew(nn.Module):
    def forward(self, x):
        k[(1,)](x, BLOCK=1)
        return x
"""


def made(text: str, **more: object) -> str:
    return standalone("m.py", text.encode(), **more)[0]  # type: ignore[arg-type]


def order(text: str) -> list[str]:
    kinds = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            kind = "import"
        elif isinstance(node, ast.FunctionDef):
            kind = "kernel" if "triton.jit" in map(ast.unparse, node.decorator_list) else "wrapper"
        else:
            kind = getattr(node, "name", "constant")
        kinds += [] if kinds[-1:] == [kind] else [kind]
    return kinds


def test_a_module_is_put_in_the_strict_order_without_code_that_tests() -> None:
    text, findings, _ = standalone("m.py", MESSY.encode(), ["Made by a test"])
    golden = HERE / "messy_after.txt"
    if os.environ.get("FUSETUNE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    assert findings == []


def test_a_module_that_is_in_order_stays_as_it_is_below_its_header() -> None:
    assert made(SMALL, header=["One", "", "Two"]) == "# One\n#\n# Two\n\n" + SMALL
    assert made(made(SMALL)) == SMALL
    assert order(SMALL) == ["import", "kernel", "ModelNew"]


def test_the_four_imports_are_there_and_others_stay() -> None:
    text = made(SMALL.replace("import torch.nn as nn\n", "from torch import nn\nimport torch.nn.functional as F\n"))
    assert text.startswith("\n".join((*IMPORTS, "import torch.nn.functional as F\n")))
    assert "from torch import nn" not in text


def test_what_is_run_at_import_finds_what_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "optimized.py"
    file.write_text(made(MESSY), encoding="utf-8")
    command = [sys.executable, "-I", "-c", f"import runpy; print(sorted(runpy.run_path({str(file)!r})))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "ModelNew" in done.stdout
    assert "get_inputs" not in done.stdout


def test_what_the_model_needs_stays_whatever_it_is_called() -> None:
    text = made("def main_part(x):\n    return x\n\n\n" + SMALL.replace("return x", "return main_part(x)"))
    assert "def main_part" in text
    assert "def check" not in made(SMALL + "\n\ndef check():\n    pass\n")
    assert "def helper" in made(SMALL + "\n\ndef helper():\n    pass\n")
    kept = "torch.backends.cuda.matmul.allow_tf32 = True\n"
    assert kept in made(SMALL + kept + "torch.manual_seed(0)\n")
    assert "manual_seed" not in made(SMALL + kept + "torch.manual_seed(0)\n")


FILLED = """SIZES = []
for size in (1, 2):
    SIZES.append(size)
SIZES.append(4)
NAMES = {}
with torch.no_grad():
    NAMES["a"] = 3
    TABLE = torch.ones(2)
"""
TRIED = """x = torch.ones(4)
x.add_(1)
seen = []
for x in (x, x):
    seen.append(ModelNew()(x))
"""


def test_what_fills_a_table_that_the_model_needs_stays_and_what_tries_the_model_goes() -> None:
    model = SMALL.replace("return x", "seen = len(SIZES) + NAMES['a'] + TABLE[0]\n        return x + seen")
    text = made(model.replace("\n\n@triton.jit", f"\n\n{FILLED}\n\n@triton.jit") + TRIED)
    begin = text.index("SIZES = []")
    assert "".join(line for line in text[begin:].splitlines(keepends=True) if line.strip()).startswith(FILLED)
    assert "ones(4)" not in text
    assert "seen.append" not in text
    assert order(text) == ["import", "constant", "kernel", "ModelNew"]


def test_a_constant_that_a_class_has_under_its_own_name_stays() -> None:
    model = SMALL.replace("    def forward", "    SIZE = SIZE\n\n    def forward")
    text = made(model.replace("\n\n@triton.jit", "\n\nSIZE = 4\n\n\n@triton.jit") + "print(SIZE)\n")
    assert "\nSIZE = 4\n" in text
    assert "print" not in text


def test_what_triton_lacks_is_said_and_a_sigmoid_is_written_out() -> None:
    text, findings, _ = standalone("m.py", SMALL.replace("x_ptr, 1)", "x_ptr, tl.sigmoid(1) + tl.tanh(2))").encode())
    assert "(1 / (1 + tl.exp(-(1))))" in text
    assert ["tl.tanh is not in every Triton" in one.text for one in findings] == [True]


def test_a_file_without_a_model_is_refused() -> None:
    with pytest.raises(NotWritableError, match="no class ModelNew"):
        standalone("m.py", b"import torch\n")
