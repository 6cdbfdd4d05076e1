"""A program is read as its user wrote it, and run as Python would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fusetune.capture.programs import Program, parse_program, run_program
from fusetune.errors import UsageError

REFERENCE = "class Model: ...\ndef get_inputs(): return [2]\ndef get_init_inputs(): return [3]\n"
MODEL = "class ModelNew:\n    def __init__(self, n): self.n = n\n    def __call__(self, x): return self.n * x\n"
MAIN = "if __name__ == '__main__':\n    ModelNew(1)\n"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mine", "new", "ref"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def written(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def refused(*words: str, args: str | None = None, reference: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        parse_program(words, args=args, reference=reference)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Forms


def test_a_file_is_a_script_with_the_words_behind_it() -> None:
    written("bench.py", "raise SystemExit('nothing is run here')")
    assert parse_program(["bench.py", "a", "--b"]) == Program("script", "bench.py", ("a", "--b"))


def test_m_takes_a_module_and_leaves_its_options_alone() -> None:
    found = parse_program(["-m", "pytest", "tests/x.py::test", "-m", "slow"])
    assert found == Program("module", "pytest", ("tests/x.py::test", "-m", "slow"))


def test_a_module_and_a_name_are_a_function_with_its_arguments() -> None:
    assert parse_program(["a.b:C.run"], args="1, y=[2]") == Program("function", "a.b:C.run", expression="1, y=[2]")
    assert parse_program(["a.b:run"]) == Program("function", "a.b:run")


@pytest.mark.parametrize("name", ["ref.py", "reference.py", "level2_45.py"])
def test_a_model_finds_the_file_beside_it_that_says_its_inputs(name: str) -> None:
    written("sub/new.py", MODEL)
    written("sub/helpers.py", "x = 1")
    written(f"sub/{name}", REFERENCE)
    assert parse_program(["sub/new.py"]) == Program("model", "sub/new.py", reference=f"sub/{name}")


def test_a_model_in_the_file_of_its_reference_needs_no_other() -> None:
    written("new.py", MODEL + REFERENCE)
    written("ref.py", REFERENCE)
    assert parse_program(["new.py"]) == Program("model", "new.py", reference="new.py")


def test_a_model_that_makes_its_inputs_without_a_reference_has_none() -> None:
    written("new.py", MODEL + REFERENCE.partition("\n")[2])
    assert parse_program(["new.py"]) == Program("model", "new.py", reference=None)


def test_a_reference_that_is_named_goes_before_all_that_is_found() -> None:
    written("new.py", MODEL + MAIN)
    written("ref.py", REFERENCE)
    other = written("other.py", REFERENCE)
    assert parse_program(["new.py"], reference=Path(other)) == Program("model", "new.py", reference="other.py")


def test_a_file_with_a_model_that_runs_itself_is_a_script() -> None:
    written("new.py", MODEL + MAIN)
    assert parse_program(["new.py", "x"]) == Program("script", "new.py", ("x",))


# Refusals


def test_what_cannot_be_a_program_is_told_in_one_line_with_what_to_do() -> None:
    written("bad.py", "def (:\n")
    written("zero.py", "a\0b")
    written("plain.py", "")
    Path("folder").mkdir()
    assert "no program" in refused()
    assert "there is no file gone.py" in refused("gone.py")
    assert "bad.py is no Python that this interpreter reads, line 1: " in refused("bad.py")
    assert "bad.py::test_a is a test of pytest; write -m pytest bad.py::test_a" in refused("bad.py::test_a")
    assert "zero.py is no Python" in refused("zero.py")
    assert "folder is a folder" in refused("folder")
    assert "-m needs a module" in refused("-m")
    assert "there is no file plain.py:run" in refused("plain.py:run")


@pytest.mark.parametrize("place", [":run", "a.b:", "a-b:run", "a:run()", "a:b:c"])
def test_a_function_needs_a_module_and_a_name(place: str) -> None:
    assert "write package.module:function" in refused(place)


@pytest.mark.parametrize("expression", ["1,,2", "1) + (2", "x = ", "1); f(2", "#"])
def test_args_are_an_argument_list_and_nothing_else(expression: str) -> None:
    if expression == "#":
        assert parse_program(["a:f"], args=expression).expression == "#"  # A comment alone: no arguments.
        return
    assert '--args "x, y=2"' in refused("a:f", args=expression)


def test_options_that_do_not_go_with_a_form_are_refused() -> None:
    written("plain.py", "")
    written("ref.py", REFERENCE)
    assert "--args belongs to" in refused("plain.py", args="1")
    assert "--args belongs to" in refused("-m", "json", args="1")
    assert "--reference belongs to" in refused("plain.py", reference=Path("ref.py"))
    assert "write the arguments of a function as --args" in refused("a:f", "1")


def test_a_model_without_inputs_anywhere_asks_for_a_reference() -> None:
    written("new.py", MODEL)
    assert "give --reference FILE" in refused("new.py")
    written("a.py", REFERENCE)
    written("b.py", REFERENCE)
    written("broken.py", "def (")
    assert "a.py and b.py; say which with --reference" in refused("new.py")
    assert "new.py does not define Model;" in refused("new.py", reference=Path("new.py"))
    assert "there is no file gone.py" in refused("new.py", reference=Path("gone.py"))
    written("ref.py", REFERENCE)
    assert "takes no arguments such as 'x'" in refused("new.py", "x")


# Runs


def test_a_script_is_main_with_its_folder_first(tmp_path: Path) -> None:
    written("sub/beside.py", "value = 7")
    written("sub/bench.py", "import sys, beside\ntold = (beside.value, sys.path[0], __file__)\n")
    argv, path = sys.argv[:], sys.path[:]
    told = run_program(parse_program(["sub/bench.py", "a", "-b"]))
    script = str(tmp_path / "sub/bench.py")
    assert told["__name__"] == "__main__"
    assert told["told"] == (7, str(tmp_path / "sub"), script)
    assert (sys.argv, sys.path) == (argv, path)


def test_a_script_reads_its_own_arguments_as_python_gives_them() -> None:
    written("bench.py", "import sys\nargv = list(sys.argv)\n")
    ours = run_program(parse_program(["bench.py", "a", "-b"]))["argv"]
    assert ours[1:] == ["a", "-b"]
    assert Path(ours[0]).name == "bench.py"


def test_a_module_is_run_from_the_current_folder(tmp_path: Path) -> None:
    written("pack/__init__.py", "")
    written("pack/__main__.py", "import sys\ntold = [__package__, list(sys.argv), sys.path[0]]\n")
    told = run_program(Program("module", "pack", ("x",)))["told"]
    assert told == ["pack", [str(tmp_path / "pack/__main__.py"), "x"], str(tmp_path)]


def test_a_function_is_called_with_what_its_arguments_say() -> None:
    written("mine.py", "def f(a, *, b=1): return (a, b)\nclass C:\n    @staticmethod\n    def g(): return 5\n")
    assert run_program(Program("function", "mine:f", expression="[1, 2][1], b='x'")) == (2, "x")
    assert str(run_program(Program("function", "mine:f", expression="torch.float16"))[0]) == "torch.float16"
    assert run_program(Program("function", "mine:C.g")) == 5


def test_a_function_that_is_not_there_is_the_user_s_mistake() -> None:
    written("mine.py", "x = 1")
    written("lacking.py", "import a_module_that_is_not_there")
    for place, what in {
        "mine:f": "has no function f",
        "mine:x": "has no function x",
        "gone:f": "no module gone",
    }.items():
        with pytest.raises(UsageError, match=what):
            run_program(Program("function", place))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        run_program(Program("function", "lacking:f"))
    written("mine2.py", "def f(x): return x")
    with pytest.raises(UsageError, match=r"cannot be evaluated: NameError"):
        run_program(Program("function", "mine2:f", expression="nowhere"))


def test_a_model_is_made_from_its_reference_s_inputs() -> None:
    written("new.py", MODEL)
    written("ref.py", REFERENCE)
    assert run_program(parse_program(["new.py"])) == 6
    assert not hasattr(sys.modules["new"], "get_inputs")


def test_a_model_s_file_takes_no_module_s_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    written("json.py", MODEL + REFERENCE)
    assert run_program(parse_program(["json.py"])) == 6
    assert sys.modules["json"] is json
    monkeypatch.delitem(sys.modules, "json_2")


@pytest.mark.parametrize("code", ["0", "None", ""])
def test_an_exit_without_a_fault_is_a_normal_end(code: str) -> None:
    written("bench.py", f"raise SystemExit({code})")
    assert run_program(Program("script", "bench.py")) is None


@pytest.mark.parametrize(
    ("statement", "error"),
    [("raise SystemExit(3)", SystemExit), ("raise SystemExit('no')", SystemExit), ("1 / 0", ZeroDivisionError)],
)
def test_every_other_end_goes_through(statement: str, error: type[BaseException]) -> None:
    written("bench.py", statement)
    path = sys.path[:]
    with pytest.raises(error):
        run_program(Program("script", "bench.py"))
    assert sys.path == path


def test_pytest_is_run_as_a_module_and_its_failures_are_its_exit_code() -> None:
    written("test_x.py", "def test_fine(): pass\ndef test_not(): assert 0\n")
    driver = "import sys; from fusetune.capture.programs import *; run_program(parse_program(sys.argv[1:]))"
    for node, code in {"test_fine": 0, "test_not": 1}.items():
        words: list[Any] = [sys.executable, "-c", driver, "-m", "pytest", "-q", f"test_x.py::{node}"]
        root = str(Path(__file__).parents[3])
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={"PYTHONPATH": root, "PATH": ""})
        assert done.returncode == code, done.stdout + done.stderr
