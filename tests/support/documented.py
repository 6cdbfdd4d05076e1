"""The command lines that README.md and docs/ show, and a folder with the files that they name.

A fenced block of `sh` or `console` holds commands, and so does a `run:` of a block of `yaml`. Each is either run by the
tests, or says in a comment above its block, which no page shows, why not:

    <!-- skip: needs a GPU -->
    <!-- skip "fusetune gate --against": needs a git repository of yours -->
    <!-- skip all: needs a GPU -->
    <!-- exit 4 "fusetune doctor": there is no GPU -->

The second form is for the lines of the block that begin so, the third for all that follow on the page, the last for
what ends with another exit code than 0. All lines are parsed, skipped or not.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
REASONS: Final = ("needs ", "takes ")
"""How the reason to skip a command has to begin."""

_FENCE: Final = re.compile(r"^ *(```+) *(?P<language>\w*)")
_NOTE: Final = re.compile(
    r"^ *<!-- (?:skip(?P<all> all)?|exit (?P<code>\d+))(?: \"(?P<of>[^\"]+)\")?: (?P<why>.+?) -->$"
)
_HERE: Final = re.compile(r"<<-? *['\"]?(?P<end>\w+)['\"]?")
"""A text that a command reads, up to a line that is `end`."""
_SHELLS: Final = ("sh", "bash", "shell", "console")
_ENDS: Final = {"|", "||", "&&", ";", "&"}
_CODE: Final = re.compile(r"(?<!`)(`+)(?!`)(?P<text>(?:(?!\n\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
_OURS: Final = re.compile(r"(?:fusetune|python benchmarks/\S+|make) ")


class Shown(NamedTuple):
    """A command line of a page; `skip` is why the tests do not run it, `code` what it ends with without a GPU."""

    page: Path
    line: int
    text: str
    skip: str | None = None
    code: int = 0

    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Its commands as words, without what a shell takes for itself: variables, redirections, pipes, texts."""
        lexer = shlex.shlex(self.text.split("\n")[0], posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        found: list[list[str]] = [[]]
        for word in _without_comment(lexer):
            if word in _ENDS:
                found.append([])
            else:
                found[-1].append(word)
        return [words for one in found if (words := _bare(one))]


def shown_in(page: Path) -> Iterator[Shown]:
    """The command lines of the blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    notes: list[re.Match[str]] = []
    lasting: list[re.Match[str]] = []
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            note = _NOTE.match(lines[number])
            if note:
                (lasting if note["all"] else notes).append(note)
            elif lines[number].strip():
                notes = []
            number += 1
            continue
        begin = number + 1
        number = begin
        while number < len(lines) and not lines[number].strip().startswith(opened[1]):
            number += 1
        for at, text in _lines_of(opened["language"], lines[begin:number]):
            told = [note for note in (*notes, *lasting) if text.startswith(note["of"] or "")]
            skip = next((note["why"] for note in told if not note["code"]), None)
            code = next((int(note["code"]) for note in told if note["code"]), 0)
            yield Shown(page, begin + at + 1, text, skip, code)
        notes = []
        number += 1


def named_in(page: Path) -> Iterator[Shown]:
    """The command lines that stand as code in the sentences and tables of a page."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(
        r"^ *```.*?^ *```", lambda block: re.sub(r"[^\n]", "", block[0]), text, flags=re.MULTILINE | re.DOTALL
    )
    for found in _CODE.finditer(text):
        command = " ".join(found["text"].replace("\\|", "|").split())
        if _OURS.match(command):
            yield Shown(page, text.count("\n", 0, found.start()) + 1, command, "needs its context")


def _lines_of(language: str, lines: list[str]) -> Iterator[tuple[int, str]]:
    """The commands of a block, each whole, with the number of its first line."""
    if language == "yaml":
        for at, line in enumerate(lines):
            run = re.match(r" *(?:- )?run: (?!\|)(.+)", line)
            if run:
                yield at, run[1]
        return
    if language not in _SHELLS:
        return
    text, first, until = "", 0, ""
    for at, line in enumerate(lines):
        if until:
            text += f"\n{line}"
            if line.strip() == until:
                yield first, text
                text, until = "", ""
            continue
        prompted = line.strip().startswith("$ ")
        if not text and (language == "console" and not prompted):
            continue
        first = first if text else at
        text += line.strip().removeprefix("$ ") if not text else " " + line.strip().removeprefix("> ")
        if text.endswith("\\"):
            text = text[:-1]
            continue
        here = _HERE.search(text)
        if here:
            until = here["end"]
            continue
        if text and not text.startswith("#"):
            yield first, text
        text = ""


def _without_comment(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        if word.startswith("#"):
            return
        yield word


def _bare(words: list[str]) -> list[str]:
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word and set(word) <= set("<>&"):
            next(rest, None)
            if kept and kept[-1].isdigit():  # `2>`
                kept.pop()
        elif kept or not re.match(r"[A-Z_]+=", word):
            kept.append(word)
    return kept


_SCRIPT: Final = """import torch
import triton
import triton.language as tl

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


def function(x):
    if DEVICE == "cpu":
        return 2 * x
    y = torch.empty_like(x)
    double[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024)
    return y


"""
_REFERENCE: Final = """import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def get_inputs():
    return [torch.randn(5000).cuda()]


def get_init_inputs():
    return []
"""
_PROGRAM: Final = f"{_SCRIPT}print(function(torch.ones(5000, device=DEVICE)).sum().item())\n"
_FILES: Final = {
    "bench.py": _PROGRAM,
    "train.py": _PROGRAM,
    "package/module.py": _SCRIPT,
    "tests/test_norm.py": f"{_SCRIPT}def test_a():\n    function(torch.randn(5000, device=DEVICE))\n",
    "src/kernels.py": _SCRIPT,
    "current.py": f"{_SCRIPT}class ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return function(x)\n",
    "ref.py": _REFERENCE,
}


def write_samples(folder: Path) -> None:
    """The files that commands of the docs name: programs, ops, a profile, and configs with their pins for one GPU."""
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (profile,) = json.loads((ROOT / "examples" / "seed" / "metrics.json").read_text(encoding="utf-8")).values()
    (folder / "metrics.json").write_text(json.dumps(profile), encoding="utf-8")
    runs = folder / ".fusetune" / "runs"
    runs.mkdir(parents=True)
    for path in (ROOT / "tests" / "support" / "journals").glob("*.gz"):
        (runs / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    for gpu in ("nvidia-geforce-rtx-4090", "nvidia-h200"):
        _write_one_entry_of(min((ROOT / "configs" / gpu).glob("*.yaml")), folder)


def _write_one_entry_of(configs: Path, folder: Path) -> None:
    """The first entry of a file of shipped configs, and its pins."""
    for path in (configs, configs.parent / "pins" / configs.name):
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
        whole["entries"] = whole["entries"][:1]
        copied = folder / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
