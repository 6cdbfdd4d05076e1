"""A repository of somebody's kernels, tuned: what the gate of such a one is tried on, with regressions to plant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import yaml

from fusetune.core.decision import Gain
from fusetune.store.schema import Entry, Times
from fusetune.store.yaml_files import dump_config_file, read_config_file
from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
CONFIGS = Path("configs", "nvidia-geforce-rtx-4090")
HEAD = "import triton\nimport triton.language as tl\n\n\n"
KERNELS = {
    "copies": """@triton.jit
def copies(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)
""",
    "wide": """@triton.jit
def wide(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, 64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(y_ptr + at, x * 2)
""",
    "sums": """@triton.jit
def sums(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at) + 1)
""",
    "scaled": """from norms.helpers import twice


@triton.jit
def scaled(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, twice(tl.load(x_ptr + at)))
""",
}
ALIKE = ("grown", "lost", "imports")
"""Kernels as `sums`, for what is planted in them alone."""
KERNELS |= {name: KERNELS["sums"].replace("sums", name) for name in ALIKE}
HELPERS = """@triton.jit
def twice(x):
    return 2 * x
"""
PROGRAM = """import torch

from norms import copies, grown, imports, lost, scaled, sums, wide

x = torch.randn(64, 64, device="cuda")
y = torch.empty_like(x)
n = x.numel()
copies.copies[(4,)](x, y, n, BLOCK=1024, num_warps=4)
wide.wide[(1,)](x, y, n, BLOCK=1024, num_warps=1)
sums.sums[(1,)](x, y, n, BLOCK=1024, num_warps=4)
scaled.scaled[(1,)](x, y, n, BLOCK=1024, num_warps=4)
grown.grown[(1,)](x, y, n, BLOCK=1024, num_warps=4)
lost.lost[(1,)](x, y, n, BLOCK=1024, num_warps=4)
imports.imports[(1,)](x, y, n, BLOCK=1024, num_warps=4)
raise SystemExit(0)
"""
"""It has no `if __name__ == "__main__"`, as many have none."""


class Repository:
    """A package `norms` of kernels, a script that launches them, and what `fusetune tune` writes for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "norms"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("", encoding="utf-8")
        (package / "helpers.py").write_text(HEAD + HELPERS, encoding="utf-8")
        for name in KERNELS:
            self.restore(name)
        (folder / "bench.py").write_text(PROGRAM, encoding="utf-8")

    def file(self, name: str) -> Path:
        """The file of a kernel."""
        return self.folder / "norms" / f"{name}.py"

    def restore(self, name: str) -> None:
        """The kernel as it was tuned."""
        self.file(name).write_text(HEAD + KERNELS[name], encoding="utf-8")

    def plant(self, name: str, old: str, new: str) -> None:
        """Change a kernel."""
        text = self.file(name).read_text(encoding="utf-8")
        assert old in text
        self.file(name).write_text(text.replace(old, new), encoding="utf-8")

    def forget(self, name: str) -> None:
        """Have the pins of a kernel hold nothing."""
        path = self.folder / CONFIGS / "pins" / self.yaml(name).name
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump({**document, "entries": []}), encoding="utf-8")

    def yaml(self, name: str) -> Path:
        """The file of configs of a kernel."""
        return self.folder / CONFIGS / f"norms_{name}_{name}.yaml"

    def keep(self, name: str) -> Entry:
        """Have the file say that its one entry was measured and kept, as a GPU would."""
        file = read_config_file(self.yaml(name))
        (entry,) = file.entries
        kept = msgspec.structs.replace(
            entry,
            evidence="measured",
            verdict="keep",
            reason="gain_confirmed",
            predicted_us=None,
            gain=Gain(median=0.5, low=0.49, high=0.51, confidence=0.95, min_gain=0.02, blocks=50),
            time_us=Times(before=20.0 if entry.before else None, baseline=20.0, conservative=20.0, config=10.0),
        )
        text = dump_config_file(msgspec.structs.replace(file, entries=(kept,)))
        self.yaml(name).write_text(text, encoding="utf-8")
        return kept

    def fusetune(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command, in the repository's folder."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("FUSETUNE_", "GITHUB_"))}
        own = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.folder.parent / "state"), **environment}
        return subprocess.run(
            [warm_python(), "-m", "fusetune", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**plain, "COLUMNS": "200", **own},
        )
