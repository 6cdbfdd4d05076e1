"""The pictures of README.md and docs/, from commands that are run here: `python docs/pictures.py`.

Each terminal of TERMINALS is a command of fusetune, run in a terminal of its own (a pty) and drawn as SVG with the
colours that came out. No line is typed by hand. It runs in a folder whose `.fusetune/runs` holds committed journals, as
the machine with the GPU had them. `--check` draws in memory and says which committed picture differs, with exit code
1.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
JOURNALS = ROOT / "benchmarks" / "results" / "family"
"""The journals of the sweeps whose configs are shipped, as an H200 left them."""
CONFIGS = ROOT / "configs" / "nvidia-h200" / "gemm_scale.yaml"
RUN = "20261126T050642-13bf2a"
"""The sweep of (128, 1024, 512), float32."""

THEME = TerminalTheme(
    (24, 27, 33),
    (208, 212, 220),
    [
        *((36, 40, 48), (224, 90, 90), (96, 190, 110), (214, 170, 80)),
        *((100, 150, 230), (190, 120, 210), (80, 185, 190), (208, 212, 220)),
    ],
    [
        *((110, 116, 128), (240, 120, 120), (120, 210, 130), (230, 190, 110)),
        *((130, 175, 245), (210, 150, 230), (110, 205, 210), (240, 243, 248)),
    ],
)


FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{
  font-family: system-ui, sans-serif;
  font-size: 18px;
  font-weight: bold;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""What rich puts its glyphs into. No font is loaded from the web: each glyph's place is given anyway."""


@dataclass(frozen=True)
class Terminal:
    """A picture of one command and what it prints, `columns` wide."""

    name: str
    command: str
    columns: int = 100


TERMINALS = (
    Terminal("report", "fusetune report --shipped --gpu h200 --op gemm_scale --dtype fp16"),
    Terminal("run", f"fusetune report --run {RUN}"),
    Terminal("inspect", "fusetune inspect --M 1024 --K 8192 --N 8192 --config 64,64,32,4,3 --target rtx4090", 120),
)


def record(command: str, columns: int) -> str:
    """What a command prints in a terminal so wide, its colours among it.

    Raises:
        SystemExit: It ended with something else than 0; with the command and what it said.

    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 200, columns, 0, 0))
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=_folder_of_the_runs(Path(home)),
            stdin=subprocess.DEVNULL,
            stdout=its,
            stderr=its,
            env=_environment(Path(home), columns),
        )
        os.close(its)
        printed = _until_it_ends(ours)
        if process.wait():
            raise SystemExit(f"`{command}` ended with {process.returncode}:\n{printed}")
    return printed


def _folder_of_the_runs(home: Path) -> Path:
    """A folder that has the journals of the pictures, and nothing else."""
    runs = home / "project" / ".fusetune" / "runs"
    runs.mkdir(parents=True)
    entries = yaml.safe_load(CONFIGS.read_text(encoding="utf-8"))["entries"]
    for run in {RUN, *(entry["run"] for entry in entries if entry["problem"]["dtype"] == "float16")}:
        shutil.copy(JOURNALS / f"{run}.jsonl.gz", runs)
    return home / "project"


def _environment(home: Path, columns: int) -> dict[str, str]:
    """As a new user has it: no configs, runs or settings of whoever draws the picture."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FUSETUNE_", "XDG_"))}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        kept.pop(name, None)
    paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH", "")) if path)
    own = {"HOME": str(home), "PYTHONPATH": paths, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    return {**kept, **own}


def _until_it_ends(terminal: int) -> str:
    parts: list[bytes] = []
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # Linux says so where the other end of a terminal is closed
                break
            if not part:
                break
            parts.append(part)
    return b"".join(parts).decode().replace("\r\n", "\n")


def drawn(terminal: Terminal) -> str:
    """The SVG of a command that is run now."""
    console = Console(
        record=True, width=terminal.columns, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    typed = Text.assemble(("$ ", "bold green"), (terminal.command, "bold"))
    printed = Text.from_ansi(record(terminal.command, terminal.columns).rstrip("\n"))
    for line in (typed, *printed.split("\n", allow_blank=True)):
        for row in line.divide(range(terminal.columns, len(line), terminal.columns)):  # as a terminal breaks it
            console.print(row, soft_wrap=True)
    svg = console.export_svg(
        title=terminal.command.split(" --")[0], theme=THEME, code_format=FRAME, unique_id=terminal.name
    )
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


def main() -> None:
    """Draw all, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="These terminals alone, as report.")
    parser.add_argument("--check", action="store_true", help="Write nothing; exit 1 where a picture differs.")
    asked = parser.parse_args()
    differing = []
    for terminal in TERMINALS:
        if asked.names and terminal.name not in asked.names:
            continue
        path, svg = IMAGES / f"{terminal.name}.svg", drawn(terminal)
        if not asked.check:
            path.write_text(svg, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != svg:
            differing.append(path.name)
    if differing:
        raise SystemExit(f"{', '.join(differing)}: not what the commands print now; run `python docs/pictures.py`")


if __name__ == "__main__":
    main()
