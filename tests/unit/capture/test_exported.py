"""Kernels go to files of their own with all that they name, and come back without the program."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton.language as tl

from fusetune.capture.exported import Exporter, NotExportedError, Place, load_kernel
from fusetune.errors import CaptureError
from fusetune.ops.sources import functions_of, source_hash_of
from tests.support.kept_kernels import helpers, kernels


def exported(folder: Path, *found: Any) -> list[Place]:
    exporter = Exporter()
    places = [exporter.function(one) for one in found]
    (folder / "kernels").mkdir()
    for name, text in {"__init__.py": "", **exporter.texts()}.items():
        (folder / "kernels" / name).write_text(text)
    return places


def values(kernel: Any, name: str) -> Any:
    return kernel.fn.__globals__[name].value


def test_a_kernel_comes_back_with_its_options_and_the_hash_of_its_code(tmp_path):
    (place,) = exported(tmp_path, kernels.combined)
    again = load_kernel(tmp_path, *place)
    assert again.do_not_specialize == ["n"]
    assert source_hash_of(again) == source_hash_of(kernels.combined)
    assert [one.__name__ for one in functions_of(again)] == ["combined", "doubled", "shifted", "shifted"]
    assert again.signature.parameters["LIMIT"].default.value == 1024
    assert load_kernel(tmp_path, *place) is again


def test_a_constant_that_is_a_function_comes_back_and_counts_in_the_hash(tmp_path, monkeypatch):
    (place,) = exported(tmp_path, kernels.in_wider)
    again = load_kernel(tmp_path, *place)
    wider = again.fn.__globals__["wider"]
    assert type(wider) is tl.constexpr
    assert (wider.value(tl.float16), wider.value(tl.int32)) == (tl.float32, tl.int32)
    assert source_hash_of(again) == source_hash_of(kernels.in_wider)
    hashed = source_hash_of(kernels.in_wider)
    monkeypatch.setattr(kernels, "wider", tl.constexpr(exported))
    assert source_hash_of(kernels.in_wider) != hashed


def test_functions_of_two_modules_with_one_name_stay_two(tmp_path):
    (place,) = exported(tmp_path, kernels.combined)
    around = load_kernel(tmp_path, *place).fn.__globals__
    assert values(around["shifted"], "THREE") == 3
    assert values(around["moved"], "OFFSETS") == (1, 2)
    assert around["helpers"].doubled is around["moved"].fn.__globals__["doubled"]


def test_no_file_imports_anything_of_the_program(tmp_path):
    exported(tmp_path, kernels.combined, kernels.with_library, kernels.times(2))
    for path in (tmp_path / "kernels").glob("*.py"):
        imported = [
            one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Import | ast.ImportFrom)
        ]
        for one in imported:
            names = [one.module or ""] if isinstance(one, ast.ImportFrom) else [name.name for name in one.names]
            own = isinstance(one, ast.ImportFrom) and one.level == 1
            assert own or all(name.split(".")[0] == "triton" for name in names), ast.unparse(one)


def test_kernels_of_one_factory_keep_what_each_closes_over(tmp_path):
    places = exported(tmp_path, kernels.times(2), kernels.times(5))
    loaded = [load_kernel(tmp_path, *place) for place in places]
    assert [values(one.fn.__globals__["inner"], "FACTOR") for one in loaded] == [2, 5]


def test_an_autotuner_around_a_kernel_does_not_change_the_hash(tmp_path):
    tuned = kernels.times(2)
    assert source_hash_of(tuned) == source_hash_of(tuned.fn)


def test_a_process_without_the_program_loads_them(tmp_path):
    (place,) = exported(tmp_path, kernels.with_library)
    code = (
        "import sys; from pathlib import Path; from fusetune.capture.exported import load_kernel;"
        f"kernel = load_kernel(Path({str(tmp_path)!r}), {place.module!r}, {place.name!r});"
        "assert not any(name.startswith('tests') for name in sys.modules); print(kernel.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "with_library", done.stderr


def test_an_object_of_the_program_is_told(tmp_path):
    with pytest.raises(NotExportedError, match="it uses SETTINGS, a Settings, which only the program has"):
        Exporter().function(kernels.with_settings)


def test_what_is_no_kernel_is_told(tmp_path):
    with pytest.raises(NotExportedError):
        Exporter().function(len)
    with pytest.raises(CaptureError, match="holds no kernels"):
        load_kernel(tmp_path, "a", "b")
    exported(tmp_path, helpers.shifted)
    with pytest.raises(CaptureError, match="cannot be loaded"):
        load_kernel(tmp_path, "nothing", "b")
    with pytest.raises(CaptureError, match="names no kernel"):
        load_kernel(tmp_path, "../a", "b")
