"""`.ci/matrix.py`: what it runs is there, and its table and exit code say what failed under which Triton."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "matrix.py"
INSTALLED = version("triton")


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("matrix", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TRITONS", tmp_path / "tritons")
    return module


def test_each_pattern_has_tests(matrix: ModuleType) -> None:
    found = matrix.files([*matrix.TESTS, *matrix.INTERPRETED])
    assert len(found) > len(matrix.TESTS) + len(matrix.INTERPRETED)
    with pytest.raises(matrix.CannotRunError, match=r"there is no tests/unit/test_nothing\.py"):
        matrix.files(["unit/test_nothing.py"])


def test_what_failed_under_which_triton_stands_below_the_table(
    matrix: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another Triton is a package of that name in its folder: it stands before the installed one."""
    other = matrix.TRITONS / "9.9.9" / "triton"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("__version__ = '9.9.9'\n")
    (other.parent / ".fetched").touch()
    test = tmp_path / "test_planted.py"
    test.write_text(
        "import pytest, triton\n"
        "def test_of_the_old():\n    assert triton.__version__ == '9.9.9'\n"
        "def test_of_any():\n    pass\n"
        "@pytest.mark.skip\ndef test_of_none():\n    pass\n"
    )
    more = [str(test), "-c", os.devnull, "--rootdir", str(tmp_path)]
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer to load than this runs
    assert matrix.main(["9.9.9", "--", *more]) == 0
    assert matrix.main([INSTALLED, "9.9.9", "--", *more]) == 1
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split()[:4] for line in lines[:3]] == [
        ["triton", "passed", "skipped", "failed"],
        [INSTALLED, "1", "1", "1"],
        ["9.9.9", "2", "1", "0"],
    ]
    assert lines[3] == f"failed under {INSTALLED}: test_planted::test_of_the_old"


def test_another_triton_than_was_asked_for_is_one_line(
    matrix: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (matrix.TRITONS / "9.9.9").mkdir(parents=True)
    (matrix.TRITONS / "9.9.9" / ".fetched").touch()
    assert matrix.main(["9.9.9"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"matrix: triton 9.9.9: {INSTALLED} ")
    monkeypatch.setattr(sys, "executable", "/bin/false")  # as pip where it gets nothing
    assert matrix.main(["9.9.8"]) == 2
    assert capsys.readouterr().err == "matrix: triton 9.9.8: pip did not get it, as it says above\n"
    with pytest.raises(SystemExit):
        matrix.main(["../3.9.0"])
