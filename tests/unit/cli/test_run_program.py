"""A program under `fusetune run` is as under plain Python: arguments, paths, streams, signals and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.capture.serving.settings import STARTUP, Settings, variables_of
from fusetune.cli import run as run_command
from fusetune.cli.main import main

ROOT = Path(__file__).parents[3]
ABOUT = """import json, os, sys
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "name": __name__, "file": __file__, "stdin": sys.stdin.read(),
    "main": sys.modules["__main__"].__dict__ is globals(), "modules": bool({"triton", "msgspec"} & sys.modules.keys()),
}))
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fusetune", "run", *words]


def ran(folder: Path, words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=60, env=environment, input="given"
    )


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return ran(folder, command(*words), **more)


@pytest.fixture
def about(tmp_path: Path) -> Path:
    (tmp_path / "about.py").write_text(ABOUT, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("words", [["about.py", "--configs", "x", "--", "-m"], ["-m", "about", "-x", "--report"]])
def test_a_program_sees_what_it_sees_under_plain_python(about, words):
    done, plain = run(about, *words), ran(about, [sys.executable, *words])
    assert done.returncode == plain.returncode == 0, done.stderr
    told, expected = json.loads(done.stdout), json.loads(plain.stdout)
    assert told == expected
    assert (told["stdin"], told["main"], told["modules"]) == ("given", True, False)


def test_a_program_may_have_as_many_arguments_as_under_plain_python(tmp_path):
    (tmp_path / "count.py").write_text("import sys\nprint(len(sys.argv))\n", encoding="utf-8")
    done = run(tmp_path, "--quiet", "count.py", *(f"{number:0100}" for number in range(2000)))
    assert (done.returncode, done.stdout) == (0, "2001\n"), done.stderr[-300:]


def test_somebody_s_own_sitecustomize_and_path_still_hold(about):
    (about / "more").mkdir()
    (about / "more" / "sitecustomize.py").write_text("print('theirs')\n", encoding="utf-8")
    path = os.pathsep.join([str(about / "more"), str(ROOT)])
    done = run(about, "about.py", PYTHONPATH=path)
    plain = ran(about, [sys.executable, "about.py"], PYTHONPATH=path)
    assert done.stdout == f"theirs\n{plain.stdout}", "once by the command itself"
    assert plain.stdout.startswith("theirs\n")


@pytest.mark.parametrize(
    ("text", "code", "shown"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit(1)", 1, ""),
        ("import sys; sys.exit('so it ends')", 1, "so it ends\n"),
        ("import os; os._exit(4)", 4, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, ""),
        ("raise ValueError('mine')", 6, "ValueError: mine\n"),
        ("def f(:", 6, "SyntaxError"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    import sys\n    sys.last_value = e\nsys.exit(1)", 1, ""),
    ],
)
def test_its_exit_code_is_its_own_but_for_an_error_that_reaches_python(tmp_path, text, code, shown):
    (tmp_path / "ends.py").write_text(text, encoding="utf-8")
    done = run(tmp_path, "--quiet", "ends.py")
    assert (done.returncode, done.stdout) == (code, "")
    assert shown in done.stderr
    assert bool(done.stderr) == bool(shown)


def test_a_function_with_arguments_and_a_command_of_the_path_are_programs_too(tmp_path):
    (tmp_path / "some.py").write_text(
        "def told(*words):\n    print(words)\n    raise ValueError('f')\n", encoding="utf-8"
    )
    function = run(tmp_path, "some:told", "--args", "1, 'a'")
    assert function.returncode == 2, "options stand before the program"
    assert "no arguments" in function.stderr or "--args" in function.stderr
    pytest.importorskip("torch")
    function = run(tmp_path, "--quiet", "--args", "1, 'a'", "some:told")
    assert (function.returncode, function.stdout) == (6, "(1, 'a')\n")
    assert function.stderr.startswith("Traceback")
    assert "fusetune" not in function.stderr
    found = run(tmp_path, "--quiet", "sh", "-c", "echo $0 here; exit 5")
    assert (found.returncode, found.stdout) == (5, "sh here\n")


def test_what_runs_by_itself_does_and_a_folder_of_a_command_s_name_is_no_script(tmp_path):
    (tmp_path / "serve").mkdir()
    texts = {"bin/serve": "#!/bin/sh\necho found $1\n", "launch.sh": "#!/bin/sh\necho shell $1\n"}
    texts |= {"script": f"#!{sys.executable} -E\nimport sys\nprint('python', sys.argv[1])\n"}
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    words = ["serve", "./launch.sh", "launch.sh", "./script"]
    found = [run(tmp_path, "--quiet", word, "it", PATH=path) for word in words]
    assert [one.stdout for one in found] == ["found it\n", "shell it\n", "shell it\n", "python it\n"]
    done = run(tmp_path, "--quiet", sys.executable, "-c", "print('by Python')")
    assert (done.returncode, done.stdout) == (0, "by Python\n")


@pytest.mark.parametrize(
    ("words", "module", "named"),
    [
        (["about.py", "4"], None, "about.py 4"),
        (["about.py", "--target", "a b"], None, "-- about.py --target 'a b'"),
        (["4"], "about", "-m about 4"),
        (["-o", "x"], "about", "-m about -- -o x"),
    ],
)
def test_a_command_that_is_shown_takes_no_option_of_the_program_for_its_own(about, monkeypatch, words, module, named):
    monkeypatch.chdir(about)
    assert run_command._command(words, module, None) == (
        [sys.executable, *(["-m", module] if module else []), *words],
        named,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_the_program_s(tmp_path, number):
    text = (
        "import signal, sys\n"
        "signal.signal(int(sys.argv[1]), lambda number, _: sys.exit(40 + number))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    (tmp_path / "waits.py").write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command("--quiet", "waits.py", str(int(number))),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == 40 + number


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no program is given"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["--configs", "nowhere", "about.py"], "nowhere: no such file or folder"),
        (["--on-miss", "never", "about.py"], "'never' is not one of 'default', 'tune', 'error'"),
        (["--args", "1", "about.py"], "--args belongs to package.module:function"),
        (["-m"], "requires an argument"),
    ],
)
def test_a_mistake_is_one_line_and_2_and_nothing_runs(about, words, told):
    done = run(about, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr.splitlines()[-1]


def test_the_report_of_a_program_that_launches_nothing_is_whole_and_one_that_cannot_be_written_is_told(about):
    done = run(about, "--report", "served.json", "about.py")
    assert done.returncode == 0
    assert done.stderr == "fusetune: the program launched no Triton kernel that could be seen\n"
    assert json.loads((about / "served.json").read_text(encoding="utf-8"))["kernels"] == []
    done = run(about, "--report", "no/served.json", "about.py")
    assert (done.returncode, done.stdout, "cannot write no/served.json" in done.stderr) == (2, "", True)
    done = run(about, "--report", str(about), "about.py")
    assert (done.returncode, done.stdout, "it is a folder" in done.stderr) == (2, "", True)


def test_what_fusetune_itself_starts_is_not_served(tmp_path):
    text = "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'fusetune', *sys.argv[1:]])\n"
    (tmp_path / "outer.py").write_text(text, encoding="utf-8")
    text = "import os\nprint(os.environ['PYTHONPATH'].count('startup'), os.environ['FUSETUNE_RUN'].count('inner.py'))\n"
    (tmp_path / "inner.py").write_text(text, encoding="utf-8")
    done = run(tmp_path, "--quiet", "outer.py", "run", "--quiet", "inner.py")
    assert (done.returncode, done.stdout) == (0, "1 1\n"), done.stderr


def test_commands_of_ours_hand_nothing_on_to_what_they_start(monkeypatch):
    for name, value in variables_of(Settings(), {"PYTHONPATH": "/mine"}).items():
        monkeypatch.setenv(name, value)
    assert os.environ["PYTHONPATH"] == os.pathsep.join([STARTUP, "/mine"])
    monkeypatch.setattr(sys, "argv", ["fusetune", "targets"])
    with pytest.raises(SystemExit):
        main()
    assert ("FUSETUNE_RUN" in os.environ, os.environ["PYTHONPATH"]) == (False, "/mine")
