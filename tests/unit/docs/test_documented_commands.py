"""Every command line that README.md and docs/ show is one that there is: its options, its files, its targets."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from fusetune.cli.commands import COMMANDS, cli
from tests.support.documented import PAGES, REASONS, ROOT, Shown, named_in, shown_in, write_samples

SHOWN = [shown for page in PAGES for shown in shown_in(page)]
NAMED = [shown for page in PAGES for shown in named_in(page)]
OTHERS = set(
    re.findall(
        r"\S+",
        """
    git cd export source eval docker sudo nvidia-smi echo cat head mkdir cp kubectl dask sbatch srun scancel hostname
""",
    )
)
"""Commands that are not ours to check."""
OF_PROGRAMS = {"--epochs", "--nproc-per-node"}
"""Options of programs that the docs run."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented")
    write_samples(folder)
    return folder


@pytest.mark.parametrize("shown", SHOWN, ids=Shown.place)
def test_a_command_line_is_one_that_there_is(shown: Shown, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(samples)
    assert shown.commands()
    check_all(shown)


@pytest.mark.parametrize("shown", NAMED, ids=Shown.place)
def test_a_command_in_a_sentence_has_options_that_there_are(shown: Shown) -> None:
    for words in shown.commands():
        if words[0] != "fusetune":
            check(words)
            continue
        named = [word for word in words[1:] if not word.startswith("-")]
        known = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
        if not named or not named[0].islower():
            continue  # `fusetune COMMAND --help`
        assert named[0] in known
        command = known[named[0]]
        assert command is not None
        there = {name for parameter in command.params for name in parameter.opts} | OF_PROGRAMS | {"-h", "--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"} <= there


@pytest.mark.parametrize("shown", [shown for shown in SHOWN if shown.skip], ids=Shown.place)
def test_what_is_not_run_says_what_it_needs(shown: Shown) -> None:
    assert shown.skip is not None
    assert shown.skip.startswith(REASONS)


def test_the_docs_show_every_command() -> None:
    shown = {words[1] for one in SHOWN for words in one.commands() if words[0] == "fusetune" and len(words) > 1}
    assert shown >= set(COMMANDS)


def check_all(shown: Shown) -> None:
    """Fail for a line one of whose commands cannot be given as it is."""
    for words in shown.commands():
        check(words)


def check(words: list[str]) -> None:
    """Fail for a command that cannot be given as it is."""
    words = words[1:] if words[0] == "(" else words  # what a variable is the output of
    name = Path(words[0]).name
    if words[1:3] == ["-m", "fusetune"] and name.startswith("python"):
        name, words = "fusetune", words[2:]
    known = CHECKS.get(name)
    assert known or name in OTHERS, f"{name} is neither ours nor known: see OTHERS"
    if known:
        known(words[1:])


def check_fusetune(words: list[str]) -> None:
    with cli.make_context("fusetune", list(words)) as context:
        name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        if rest in (["--help"], ["-h"]):
            return
        with command.make_context(name, rest, parent=context) as made:
            given = made.params.get("program", ())
    if name == "run":
        return  # All behind the program is the program's, and what is before it was parsed.
    own = given[: given.index("--")] if "--" in given else given
    unknown = [word for word in own if word.startswith("-") and word not in OF_PROGRAMS]
    assert not unknown, f"{name} has no {unknown}, and gives it to the program"


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def check_pip(words: list[str]) -> None:
    assert words[0] in {"install", "download"}
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for word in words:
        named = re.fullmatch(r"(?:fusetune|\.)\[([\w,]+)\](?: @ .+)?", word)
        assert not named or set(named[1].split(",")) <= set(extras)


def check_python(words: list[str]) -> None:
    if words[0] in {"-m", "-c"}:
        return
    path = next((place / words[0] for place in (ROOT, Path.cwd()) if (place / words[0]).is_file()), None)
    assert path, f"there is no {words[0]}"
    texts = texts_of(path)
    for option in (word.partition("=")[0] for word in words[1:] if word.startswith("--")):
        assert f'"{option}"' in texts, f"{words[0]} has no {option}"


def texts_of(path: Path) -> str:
    """The source of a script, and of the modules beside it that it imports."""
    text = path.read_text(encoding="utf-8")
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    beside = (path.parent / f"{(name or '').rpartition('.')[2]}.py" for name in imported)
    return "\n".join([text, *(other.read_text(encoding="utf-8") for other in beside if other.is_file())])


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "fusetune": check_fusetune,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "python3": check_python,
}


@pytest.mark.parametrize(
    "line",
    [
        "fusetune sweep --outptu x",
        "fusetune sweeep --size n=1",
        "fusetune sweep --space all",
        "fusetune tune bench.py --dif",
        "fusetune report | less --sometimes",
        "FUSETUNE_RUNS=x fusetune report --form table > out.txt",
        "make swep",
        "pip install 'fusetune[reports]'",
        "python benchmarks/decisions.py",
        "python benchmarks/decision.py --repeats 3",
    ],
)
def test_a_command_that_there_is_not_is_found_out(line: str, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(samples)
    with pytest.raises((AssertionError, click.ClickException)):
        check_all(Shown(ROOT / "README.md", 1, line))


def test_a_block_is_read_as_a_shell_would(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        """
<!-- skip "fusetune gate": needs a GPU -->
```sh
fusetune report  # what there is, isn't it
# a comment
fusetune sweep \\
  --size 'n=1 2'
fusetune gate configs | head -1
```

<!-- skip: needs a network -->

```console
$ A=1 fusetune env > out 2>&1 && make sweep
its output
```
Not skipped any more:
```yaml
    - run: fusetune gate --static
```
<!-- exit 4 "fusetune env": there is no GPU -->
<!-- skip all: needs time -->
```sh
fusetune env
cat > a.csv <<'END'
fusetune nothing
END
```
Further on, still so.
```sh
fusetune targets
```
""",
        encoding="utf-8",
    )
    shown = list(shown_in(page))
    assert [one.commands() for one in shown] == [
        [["fusetune", "report"]],
        [["fusetune", "sweep", "--size", "n=1 2"]],
        [["fusetune", "gate", "configs"], ["head", "-1"]],
        [["fusetune", "env"], ["make", "sweep"]],
        [["fusetune", "gate", "--static"]],
        [["fusetune", "env"]],
        [["cat"]],
        [["fusetune", "targets"]],
    ]
    skipped = [None, None, "needs a GPU", "needs a network", None, *["needs time"] * 3]
    assert [one.skip for one in shown] == skipped
    assert [one.line for one in shown] == [4, 6, 8, 14, 19, 24, 25, 31]
    assert [one.code for one in shown] == [0, 0, 0, 0, 0, 4, 0, 0]
