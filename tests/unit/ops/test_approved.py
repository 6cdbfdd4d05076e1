"""A user's own op is found again where the user named it; what a file says of it imports nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fusetune.errors import UsageError
from fusetune.ops import approved, loading
from fusetune.ops.approved import Approved, approve, approved_as, approved_ops, book_path, digest_of
from fusetune.ops.hashing import functions_in, hash_kernels, hash_sources
from fusetune.ops.loading import known_ops, load_spec, place_of, remember, spec_named

OP = """
import pathlib
import fusetune
pathlib.Path({mark!r}).touch()

class Mine(fusetune.KernelSpec):
    name = {name!r}
    def operands(self, problem): ...
    def launches(self, problem, config, tensors): ...
    def reference(self, problem, inputs): ...

SPEC = Mine()
"""


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for module, name in ((loading, "_given"), (loading, "_places"), (approved, "_named_in_files")):
        monkeypatch.setattr(module, name, {})
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "written", raising=False)


def written(tmp_path: Path, name: str = "written_op", file: str = "written.py") -> tuple[str, Path]:
    """The place of an op, and the file that is there once its module has been imported."""
    mark = tmp_path / f"{file}.imported"
    (tmp_path / file).write_text(OP.format(mark=str(mark), name=name))
    return f"{tmp_path / file}:SPEC", mark


def forget(monkeypatch: pytest.MonkeyPatch, mark: Path) -> None:
    """As a process that begins later."""
    monkeypatch.setattr(loading, "_given", {})
    monkeypatch.setattr(loading, "_places", {})
    monkeypatch.delitem(sys.modules, "written")
    mark.unlink()


def test_an_op_that_the_user_named_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    place, mark = written(tmp_path)
    assert remember(load_spec(place)) is None
    forget(monkeypatch, mark)
    monkeypatch.chdir("/")
    assert "written_op" in known_ops()
    assert not mark.exists(), "nothing is imported to list names"
    assert spec_named("written_op").name == "written_op"
    assert place_of("written_op") == place


def test_a_module_is_found_in_the_folder_in_which_it_was(tmp_path, monkeypatch):
    _, mark = written(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert remember(load_spec("written:SPEC")) is None
    assert approved_ops()["written:SPEC"].folder == str(tmp_path)
    forget(monkeypatch, mark)
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert spec_named("written_op").name == "written_op"


def test_what_a_file_of_configs_names_is_not_imported_unless_the_user_has_named_it_too(tmp_path, monkeypatch):
    place, mark = written(tmp_path)
    approved.note_place("written_op", place)
    with pytest.raises(UsageError, match="imported only where you name it yourself: once, as in `fusetune inspect"):
        spec_named("written_op")
    assert not mark.exists()
    remember(load_spec(place))
    forget(monkeypatch, mark)
    assert spec_named("written_op").name == "written_op"


def test_a_file_that_names_another_place_does_not_lead_to_the_one_that_was_named(tmp_path, monkeypatch):
    place, mark = written(tmp_path)
    remember(load_spec(place))
    forget(monkeypatch, mark)
    approved.note_place("written_op", str(tmp_path / "other.py") + ":SPEC")
    with pytest.raises(UsageError, match=r"other\.py:SPEC, which is imported only"):
        spec_named("written_op")
    assert not mark.exists()


def test_of_two_places_for_one_name_a_file_says_which(tmp_path):
    for place in ("/a/op.py:SPEC", "/b/op.py:SPEC"):
        assert approve(place, Approved("twice")) is None
    assert approved_as("twice") is None
    with pytest.raises(UsageError, match="op 'twice' is not known"):
        spec_named("twice")
    approved.note_place("twice", "/b/op.py:SPEC")
    assert approved.approved("twice") == ("/b/op.py:SPEC", Approved("twice"))


def test_a_place_whose_op_has_another_name_by_now_says_so(tmp_path, monkeypatch):
    place, mark = written(tmp_path)
    remember(load_spec(place))
    forget(monkeypatch, mark)
    written(tmp_path, name="renamed")
    with pytest.raises(UsageError, match=r"written\.py:SPEC is the op renamed by now"):
        spec_named("written_op")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1, "ops": {"a:b": {"name": "../x"}}}', '{"ops": 3}', "\xff"]
)
def test_a_book_that_is_none_is_an_empty_one_and_is_written_anew(text):
    book_path().parent.mkdir(parents=True)
    book_path().write_text(text, encoding="latin-1")
    assert approved_ops() == {}
    assert approve("/a/op.py:SPEC", Approved("op")) is None
    assert json.loads(book_path().read_text())["ops"]["/a/op.py:SPEC"]["name"] == "op"
    assert [path.name for path in book_path().parent.iterdir()] == ["ops.json"], "nothing is left beside it"


def test_a_folder_that_cannot_be_written_to_is_told_and_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    place, _ = written(tmp_path)
    assert remember(load_spec(place)) == "Not a directory"


def test_the_hash_that_is_kept_holds_while_the_files_are_what_they_were(tmp_path):
    file = tmp_path / "kernels.py"
    file.write_text("x = 1\n")
    op = Approved("op", source_hash="0" * 16, sources={str(file): digest_of(str(file)) or ""})
    assert op.unchanged_hash() == "0" * 16
    file.write_text("x = 2\n")
    assert op.unchanged_hash() is None
    file.unlink()
    assert op.unchanged_hash() is None
    assert Approved("op", source_hash="0" * 16).unchanged_hash() is None, "no files, nothing that holds"


def test_a_function_s_source_is_that_of_inspect_decorators_and_all():
    own = functions_in(Path(__file__).read_text())
    assert hash_sources(own["test_a_book_that_is_none_is_an_empty_one_and_is_written_anew"]) == hash_kernels(
        test_a_book_that_is_none_is_an_empty_one_and_is_written_anew
    )
