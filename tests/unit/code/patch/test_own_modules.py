"""What a program's file uses of its own modules is in the one module that is handed out: a golden file, and errors.

`modules/own` has the files, with `.txt` behind their names; FUSETUNE_GOLDEN=1 writes `own_after.txt` anew.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fusetune.code.patch.edits import NotWritableError
from fusetune.code.patch.own_modules import OwnModules
from fusetune.code.patch.standalone import Standalone, standalone

HERE = Path(__file__).with_name("modules")
HEAD = "import torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n"
MODEL = "\n\nclass ModelNew(nn.Module):\n    def forward(self, x):\n        return {}\n"


def written(folder: Path, files: Mapping[str, str]) -> Path:
    """The files in a folder; the first one is the program's."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / next(iter(files))


def made(file: Path, texts: Mapping[str, bytes] = {}) -> Standalone:
    def read(name: str) -> bytes:
        return texts.get(name) or Path(name).read_bytes()

    return standalone(str(file), file.read_bytes(), modules=OwnModules(file.parent, {}, read))


def together(folder: Path, imports: str, result: str, **modules: str) -> Standalone:
    """A model that imports and gives back something, beside modules."""
    files = {"model.py": HEAD + imports + MODEL.format(result)}
    return made(written(folder, {**files, **{f"{name}.py": text for name, text in modules.items()}}))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((HERE / "own").rglob("*.txt"))}
    files = {str(path.relative_to(HERE / "own")).removesuffix(".txt"): text for path, text in texts.items()}
    written(tmp_path, files)
    return tmp_path / "model.py"


def test_what_is_used_of_own_modules_is_in_the_module_in_order_under_its_names(own: Path) -> None:
    found = made(own)
    golden = HERE / "own_after.txt"
    if os.environ.get("FUSETUNE_GOLDEN"):
        golden.write_text(found.text, encoding="utf-8")
    assert found.text == golden.read_text(encoding="utf-8")
    assert found.findings == []
    assert [Path(one).name for one in found.inlined] == ["settings.py", "kernels.py", "launchers.py"]
    names = [one.name for one in ast.parse(found.text).body if isinstance(one, ast.FunctionDef | ast.ClassDef)]
    assert names == ["_sum_of", "doubled", "incremented", "launched", "plus_one", "scaled", "ModelNew"]


def test_the_module_stands_alone(own: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    file = alone / "optimized.py"
    file.write_text(made(own).text, encoding="utf-8")
    command = [sys.executable, "-I", "-c", f"import runpy; print(sorted(runpy.run_path({str(file)!r})))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=alone)
    assert "'ModelNew'" in done.stdout
    assert "'double_of'" in done.stdout


def test_another_text_of_an_own_module_is_what_is_taken(own: Path) -> None:
    settings = own.parent / "parts" / "settings.py"
    text = settings.read_bytes().replace(b"BLOCK = 256", b"BLOCK = 1024")
    assert "BLOCK = 1024  # Of all kernels.\n" in made(own, {str(settings): text}).text


def test_what_both_files_have_word_for_word_is_there_once(tmp_path: Path) -> None:
    same = "def ceiling(a, b):\n    return (a + b - 1) // b\n"
    other = f"{same}\n\ndef twice(x):\n    return ceiling(x, 1)\n"
    found = together(tmp_path, f"from other import twice\n\n\n{same}", "ceiling(twice(x), 2)", other=other)
    assert found.text.count("def ceiling") == 1


@pytest.mark.parametrize(
    ("imports", "result", "modules", "why"),
    [
        (
            "from other import twice\n\nSIZE = 2\n",
            "twice(x) * SIZE",
            {"other": "SIZE = 4\n\n\ndef twice(x):\n    return SIZE * x\n"},
            r"SIZE is something else here than in .*/(model|other).py:\d+, and one module has one of a name",
        ),
        (
            "import math as fn\nfrom other import twice\n",
            "fn.sqrt(twice(x))",
            {"other": "import operator as fn\n\n\ndef twice(x):\n    return fn.add(x, x)\n"},
            r"fn is something else here than in .*/(model|other).py:\d+",
        ),
        (
            "from other import max\nfrom third import most\n",
            "max(most(x))",
            {"other": "def max(x):\n    return x\n", "third": "def most(x):\n    return max(x, 1)\n"},
            r"other.py:1: max is Python's own in .*/third.py:1",
        ),
        (
            "from other import twice as their\n\n\ndef twice(x):\n    return x\n",
            "their(twice(x))",
            {"other": "def twice(x):\n    return 2 * x\n"},
            r"twice is something else here than in .*/(model|other).py:\d+",
        ),
    ],
)
def test_what_cannot_be_one_module_is_an_error_that_names_both(
    tmp_path: Path, imports: str, result: str, modules: dict[str, str], why: str
) -> None:
    with pytest.raises(NotWritableError, match=why):
        together(tmp_path, imports, result, **modules)


@pytest.mark.parametrize(
    ("imports", "result", "why"),
    [
        ("import other\n", "other", "the module other is used as a whole, and not a name of it"),
        ("import other\n", "[other.A for other.A in x]", "other.A is given a value here, and A alone would be another"),
        ("import other\n", "other.B", "B is not to be found at the top of "),
        ("from other import B\n", "B", "B is not to be found at the top of "),
        ("import other\n", "[other.A for A in x]", "other.A cannot be A alone, which is something else here"),
        (
            "import other\n\n\ndef A():\n    return other.A\n",
            "A()",
            "other.A cannot be A alone, which is something else",
        ),
    ],
)
def test_an_import_that_names_cannot_be_put_for_stays_and_is_told(
    tmp_path: Path, imports: str, result: str, why: str
) -> None:
    found = together(tmp_path, f"import third\n{imports}", f"{result}, third.C", other="A = 1\n", third="C = 2\n")
    (finding,) = found.findings
    assert finding.text.startswith(why)
    assert finding.text.endswith("what is imported here has to be beside the module")
    assert imports.partition("\n")[0] in found.text
    assert f"return {result}, C\n" in found.text
    assert [Path(one).name for one in found.inlined] == ["third.py"]


def test_a_value_that_a_module_is_given_is_not_a_variable_s(tmp_path: Path) -> None:
    model = (
        HEAD
        + "import other\n"
        + MODEL.format("other.f()").replace("        return", "        other.a = 2\n        return")
    )
    files = {"model.py": model, "other.py": "a = 1\n\n\ndef f():\n    return a\n"}
    found = made(written(tmp_path, files))
    assert "import other\n" in found.text
    assert "other.a = 2" in found.text
    assert ["other.a is given a value here" in one.text for one in found.findings] == [True]


def test_what_asks_where_its_file_is_is_told(tmp_path: Path) -> None:
    found = together(
        tmp_path, "from other import HERE\n", "HERE", other="import os\n\nHERE = os.path.dirname(__file__)\n"
    )
    (finding,) = found.findings
    assert (Path(finding.file).name, finding.line) == ("other.py", 3)
    assert "has to be beside the module" in finding.text


def test_a_name_that_clashes_and_is_not_used_is_no_error(tmp_path: Path) -> None:
    found = together(tmp_path, "from other import A\n\nSIZE = 2\n", "A * SIZE", other="SIZE = 4\nA = 1\n")
    assert "SIZE = 4" not in found.text
    assert "A = 1\n" in found.text


def test_a_name_that_a_package_passes_on_is_taken_from_where_it_is_made(tmp_path: Path) -> None:
    files = {
        "model.py": HEAD + "import parts\nfrom parts import tiles" + MODEL.format("parts.A * tiles.B * x"),
        "parts/__init__.py": "from .inner import *\n",
        "parts/inner.py": "from .tiles import B\n\nA = B + 1\nC = 3\n",
        "parts/tiles.py": "B = 2\nC = 4\n",
    }
    text = made(written(tmp_path, files)).text
    assert "\n\nB = 2\n\n\nA = B + 1\n\n\nclass" in text
    assert "return A * B * x" in text
    assert "C = " not in text


def test_what_is_imported_inside_a_function_is_told(tmp_path: Path) -> None:
    inner = "\n\ndef late(x):\n    from other import A\n\n    return A * x\n"
    found = together(tmp_path, inner, "late(x)", other="A = 1\n")
    (finding,) = found.findings
    assert finding.text.startswith("A is imported of ")
    assert "so that has to be beside the module" in finding.text


def test_other_imports_of_a_line_stay_and_so_do_installed_modules(tmp_path: Path) -> None:
    found = together(tmp_path, "import math, other\nimport json\n", "math.sqrt(json.loads(other.A))", other="A = '1'\n")
    assert "import math\nimport json\n" in found.text
    assert "import other" not in found.text
    assert "json.loads(A)" in found.text
