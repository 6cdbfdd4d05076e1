"""Files have another text for whatever imports, runs, opens or shows them, and nothing on disk is touched."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import linecache
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusetune.capture.overlay import Overlay

OLD = "def value():\n    return 1\n"
NEW = "# New.\n\n\ndef value():\n    return 2  # zwölf"


@contextmanager
def overlaid(**texts: str) -> Iterator[None]:
    overlay = Overlay({file: text.encode() for file, text in texts.items()})
    overlay.install()
    try:
        yield
    finally:
        overlay.remove()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "overlaid_module.py"
    path.write_text(OLD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("overlaid_module", None)


def test_an_import_and_its_source_are_those_of_the_new_text_though_the_old_is_compiled(file: Path) -> None:
    module = importlib.import_module("overlaid_module")
    assert inspect.getsource(module.value) == OLD
    del sys.modules["overlaid_module"]
    with overlaid(**{str(file): NEW}):
        module = importlib.import_module("overlaid_module")
        assert (module.value(), module.__file__) == (2, str(file))
        assert inspect.getsource(module.value) == "def value():\n    return 2  # zwölf\n"
        assert inspect.getsourcelines(module.value)[1] == 4
        linecache.clearcache()
        assert "zwölf" in inspect.getsource(module.value)
    del sys.modules["overlaid_module"]
    again = importlib.import_module("overlaid_module")
    assert (again.value(), inspect.getsource(again.value)) == (1, OLD)
    assert file.read_text(encoding="utf-8") == OLD


def test_a_script_and_what_is_opened_are_the_new_text_by_any_name_of_the_file(file: Path) -> None:
    link = file.with_name("link.py")
    link.symlink_to(file)
    with overlaid(**{str(link): NEW}):
        for path in (file, link):
            assert runpy.run_path(str(path))["value"]() == 2
            assert path.read_text(encoding="utf-8") == NEW
            assert path.read_bytes() == NEW.encode()
            with open(path, "rb") as one, io.open(str(path), encoding="utf-8") as other:  # noqa: PTH123, UP020
                assert (one.read().decode(), other.read()) == (NEW, NEW)
        file.with_name("other.txt").write_text("mine", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == OLD
    assert file.with_name("other.txt").read_text(encoding="utf-8") == "mine"


def test_a_file_that_is_not_there_yet_can_be_imported_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "not_there.py"
    with overlaid(**{str(path): NEW}):
        spec = importlib.util.spec_from_file_location("not_there", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["not_there"] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            assert module.value() == 2
            assert inspect.getsource(module.value).startswith("def value")
        finally:
            del sys.modules["not_there"]
    assert not path.parent.exists()


def test_a_test_that_pytest_rewrites_is_the_new_one_and_is_not_kept_for_the_old(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text("def test_it():\n    assert 1 == 1\n", encoding="utf-8")
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path.name]

    def ended(*command: str) -> int:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60).returncode

    assert ended(*run) == 0
    overlaid_run = (
        "import sys, pytest\nfrom fusetune.capture.overlay import Overlay\n"
        "sys.path.insert(0, '.')\n"
        "overlay = Overlay({'test_it.py': b'def test_it():\\n    assert 1 == 2\\n'})\noverlay.install()\n"
        "code = pytest.main(['-q', '-p', 'no:cacheprovider', 'test_it.py'])\noverlay.remove()\nsys.exit(code)\n"
    )
    assert ended(sys.executable, "-c", overlaid_run) == 1
    assert ended(*run) == 0
