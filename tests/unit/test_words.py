"""`.ci/words.py`: words of our own op are found wherever they may not stand, and nowhere else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "words.py"


def told(root: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(root)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def plant(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


LEAKS = (
    "from fusetune.ops.gemm_scale import config",
    "# A GEMM's epilogue",
    "Config(BLOCK_M=64)",
    "smaller tiles or SPLIT_K would",
    "nn.BatchNorm1d",
    "fused_gemm_scale_batch_norm",
    "the running_mean of a column",
    'if config.variant == "tiled":',
    "`persistent 128x256x32 w8 s3`",
    "self.gemm.bias",
    "class FusedLinearScale:",
    "y = x @ W.T",
    "rows = problem.M",
    "fusetune sweep --M 128",
    'mode == "train"',
    'make_problem(mode="eval")',
    "(gamma, beta)",
    'tensors["bias"]',
)
FINE = (
    "an estimate that is biased; rebias",
    "its owner may write; a persistent cache",
    "ast.parse(text, mode='eval')",
    'code = compile(tree, "", "eval")',
    "eval(code)",
    "tf32 and float16; alphabet; training",
    "M, N = shape; re.MULTILINE; --Models; x.Name",
)


def test_each_word_is_told_with_its_file_and_line(tmp_path: Path) -> None:
    for number, text in enumerate(LEAKS):
        plant(tmp_path, f"fusetune/core/n{number:02}.py", f"\n{text}\n")
    code, lines = told(tmp_path)
    assert code == 1
    places = [f"fusetune/core/n{number:02}.py:2" for number in range(len(LEAKS))]
    assert [line.partition(": ")[0] for line in lines] == places
    assert all(line.endswith(text) for line, text in zip(lines, LEAKS, strict=True))


@pytest.mark.parametrize("name", ["report/page.html.j2", "report/page.js", "report/page.css", "core/targets.yaml"])
def test_what_is_no_python_is_read_too(tmp_path: Path, name: str) -> None:
    plant(tmp_path, f"fusetune/{name}", "BLOCK_K")
    assert told(tmp_path) == (1, [f"fusetune/{name}:1: 'BLOCK_K' in: BLOCK_K"])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "tests/unit/tune/test_race.py",
            "tests/compile/test_pool.py",
            "tests/conftest.py",
            "tests/support/files/a.yaml",
        ),
        *("benchmarks/another.py", "examples/row_softmax.py", ".ci/another.py"),
    ],
)
def test_tests_benchmarks_examples_and_this_folder_are_read_as_the_package_is(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name, "bias = None")
    assert told(tmp_path) == (1, [f"{name}:1: 'bias' in: bias = None"])


def test_our_op_s_own_places_are_not_read_and_others_of_their_names_are(tmp_path: Path) -> None:
    for folder in ("ops/gemm_scale", "nn", "nn/export"):
        plant(tmp_path, f"fusetune/{folder}/module.py", "BLOCK_M: int")
        plant(tmp_path, f"tests/unit/{folder}/test_module.py", "bias = None")
    plant(tmp_path, "tests/compile/gemm_scale/test_build.py", "bias = None")
    plant(tmp_path, "benchmarks/peers.py", "bias = None")
    assert told(tmp_path) == (0, [])
    plant(tmp_path, "fusetune/report/nn/page.py", "bias = None")
    plant(tmp_path, "tests/compile/nn/test_page.py", "bias = None")
    assert len(told(tmp_path)[1]) == 2


def test_every_own_place_is_there() -> None:
    spec = importlib.util.spec_from_file_location("words", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    words = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(words)
    assert [place for place in (*words.OWN, *words.READ) if not (SCRIPT.parents[1] / place).exists()] == []


def test_what_kernelbench_calls_a_model_is_no_word_of_ours(tmp_path: Path) -> None:
    plant(tmp_path, "fusetune/capture/programs.py", 'if "ModelNew" in names:')
    assert told(tmp_path) == (0, [])
    plant(tmp_path, "fusetune/capture/launches.py", "BLOCK_M")
    assert told(tmp_path)[0] == 1


def test_what_means_something_else_is_no_leak(tmp_path: Path) -> None:
    plant(tmp_path, "fusetune/core/fine.py", "\n".join(FINE))
    assert told(tmp_path) == (0, [])
