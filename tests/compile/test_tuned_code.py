"""What `fusetune tune` hands out without a GPU is taken as its owner would: applied, imported, captured, compiled."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.support.warm import warm_python

ROOT = Path(__file__).parents[2]
MODEL = '''"""Mine."""
import torch
import triton
import triton.language as tl
from torch import nn

ROWS = 64  # of the test


# Twice of everything.
@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


@triton.autotune(configs=[triton.Config({"BLOCK": b}) for b in (256, 1024)], key=["n"])
@triton.jit
def add(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(x_ptr + at, mask=at < n) + tl.load(y_ptr + at, mask=at < n)
    tl.store(y_ptr + at, total, mask=at < n)


def launch(x):
    y, n = torch.empty_like(x), x.numel()
    double[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=1024, num_warps=2)
    add[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n)
    return y


class Model(nn.Module):
    def forward(self, x):
        return 3 * x


class ModelNew(nn.Module):
    def forward(self, x):
        return launch(x)


def get_inputs():
    return [torch.randn(ROWS, 1000)]


def get_init_inputs():
    return []
'''
REFERENCE = (
    "import torch\nfrom torch import nn\n\n" + MODEL[MODEL.index("class Model(") : MODEL.index("class ModelNew")]
)
REFERENCE += MODEL[MODEL.index("def get_inputs") :].replace("ROWS", "64")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    command = [warm_python(), "-m", "fusetune", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=280, env=environment
    )


def captured(folder: Path, *words: str) -> list[dict[str, Any]]:
    done = run(folder, "capture", "--target", "rtx4090", "--json", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.get("failed") is None
    cases: list[dict[str, Any]] = found["cases"]
    return cases


def test_a_module_and_a_patch_are_in_order_and_compile(tmp_path: Path) -> None:
    (tmp_path / "current.py").write_text(MODEL, encoding="utf-8")
    done = run(tmp_path, "tune", "current.py", "-o", "optimized.py", "--configs", "yaml", "--diff", "--apply")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "yaml").rglob("*.yaml"))
    assert (tmp_path / "current.py.orig").read_text(encoding="utf-8") == MODEL

    text = (tmp_path / "optimized.py").read_text(encoding="utf-8")
    names = [getattr(node, "name", type(node).__name__) for node in ast.parse(text).body]
    assert names == ["Expr", *["Import"] * 4, "double", "add", "launch", "ModelNew"]
    assert "nothing was timed" in text
    header = text[: text.index("import torch")].replace("\n#   ", " ")
    for kernel in ("double", "add"):
        told = header[header.index(f"# {kernel}: unverified") :]
        assert "memory-bound: " in told
        assert "(BASELINE): the conservative choice, always among them" in told
    assert "# Twice of everything." in text
    (tmp_path / "ref.py").write_text(REFERENCE, encoding="utf-8")
    kernels = {case["kernel"]["name"]: case for case in captured(tmp_path, "optimized.py", "--reference", "ref.py")}
    assert kernels.keys() == {"double", "add"}
    assert all(1 < case["proposals"] <= 3 for case in kernels.values())

    diff = done.stdout[done.stdout.index("--- a/current.py") :]
    applied = (tmp_path / "current.py").read_text(encoding="utf-8")
    (tmp_path / "current.py").write_text(MODEL, encoding="utf-8")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    assert (tmp_path / "current.py").read_text(encoding="utf-8") == applied
    assert len(captured(tmp_path, "current.py")) == 2


AUTOTUNED = """import torch
import triton
import triton.language as tl


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": 256}, num_warps=2),
        triton.Config({"BLOCK": 96}, num_warps=2),
        triton.Config({"BLOCK": 512}, num_warps=8),
        triton.Config({"BLOCK": 4096}, num_warps=16),
    ],
    key=["n"],
)
@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


x = torch.randn(5000, device="cuda")
double[lambda meta: (triton.cdiv(5000, meta["BLOCK"]),)](x, torch.empty_like(x), 5000)
"""


def test_of_the_author_s_own_list_stays_what_compiles_and_the_terminal_json_and_the_diff_say_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "bench.py").write_text(AUTOTUNED, encoding="utf-8")
    done = run(tmp_path, "tune", "bench.py", "--diff")
    assert done.returncode == 0, done.stderr
    configs = [line[1:].strip() for line in done.stdout.splitlines() if line[:1] in "+ " and "triton.Config(" in line]
    assert configs == [
        'triton.Config({"BLOCK": 256}, num_warps=2),',
        'triton.Config({"BLOCK": 512}, num_warps=8),',
        'triton.Config({"BLOCK": 256}, num_warps=4, num_stages=2),',
    ], "96 is no power of two"
    assert (
        "# fusetune: Of the program's own 4 configs 2 that compile, with 4 warps / 2 stages: the first" in done.stdout
    )
    tried = done.stdout.partition("to try on a GPU")[2].partition("time:")[0].strip().splitlines()[1:]
    assert len(tried) == 3
    assert "(Before): of the program's own list, as its author wrote it" in tried[0]
    everything = json.loads(run(tmp_path, "tune", "bench.py", "--diff", "--json").stdout)
    printed = done.stdout[done.stdout.index("--- a/bench.py\n") :]
    of_a_run = re.compile(r"\d+T\d+-\w+")  # Each has its own.
    assert of_a_run.sub("RUN", everything["diff"]) == of_a_run.sub("RUN", printed)
    assert everything["not_written_back"] == []
    assert everything["notes"] == [
        "no GPU was used: launches were compiled for NVIDIA GeForce RTX 4090, and nothing is timed",
        "what an autotuner chooses is not known: the first of its list that compiles is Before here",
    ]
    assert all(note in done.stdout for note in everything["notes"])
    told = everything["kernels"][0]["cases"][0]
    found = sorted((one["config"]["BLOCK"], one["config"]["num_warps"]) for one in told["best"])
    assert found == [(256, 2), (256, 4), (512, 8)]


def test_what_the_program_does_not_run_with_is_not_given_out(tmp_path: Path) -> None:
    text = MODEL.replace("    y, n = ", "    assert type(globals()['double']).__name__ == 'JITFunction'\n    y, n = ")
    (tmp_path / "current.py").write_text(text, encoding="utf-8")
    done = run(
        tmp_path, "tune", "current.py", "--kernel", "double", "-o", "optimized.py", "--configs", "yaml", "--apply"
    )
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "current.py").read_text(encoding="utf-8") == text
    for form in ("The module", "The changed files"):
        assert f"{form}: no launch is changed: the program fails with it: AssertionError" in done.stdout
    module = (tmp_path / "optimized.py").read_text(encoding="utf-8")
    assert "# No launch is changed: the program fails with it: AssertionError" in module
    assert "@triton.autotune" not in module[module.index("def double") - 200 : module.index("def double")]


def test_an_output_that_cannot_be_is_refused_before_the_program_runs(tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    refused = run(tmp_path, "tune", "bench.py", "-o", "optimized.py")
    assert refused.returncode == 2
    assert "writes the module of a program with ModelNew" in refused.stderr


def test_a_module_has_the_tuned_kernels_of_the_program_s_other_files(tmp_path: Path) -> None:
    own = ROOT / "tests" / "unit" / "code" / "patch" / "modules" / "own"
    for path in own.rglob("*.txt"):
        copied = tmp_path / "program" / path.relative_to(own).with_suffix("")
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    launchers = tmp_path / "program" / "launchers.py"  # With 4 warps there would be nothing to try.
    launchers.write_text(launchers.read_text().replace("BLOCK=BLOCK)", "BLOCK=BLOCK, num_warps=2)"), encoding="utf-8")
    (tmp_path / "ref.py").write_text(REFERENCE.replace("64, 1000", "1000"), encoding="utf-8")
    (tmp_path / "alone").mkdir()
    module = tmp_path / "alone" / "optimized.py"
    done = run(tmp_path, "tune", "program/model.py", "--reference", "ref.py", "--target", "rtx4090", "-o", str(module))
    assert done.returncode == 0, done.stderr
    text = module.read_text(encoding="utf-8")
    assert "# With what it uses of settings.py, kernels.py, launchers.py.\n" in text
    tuned = text[text.index("# fusetune: predicted") : text.index("def doubled(")]
    assert "@triton.autotune(" in tuned
    imported = [ast.unparse(one) for one in ast.parse(text).body if isinstance(one, ast.Import | ast.ImportFrom)]
    assert not [one for one in imported if "parts" in one or "launchers" in one]
