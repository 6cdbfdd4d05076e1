"""A kernel is given an autotuner only where that is its one launch's alone, and where each case keeps what it runs."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fusetune.code.patch.change import Change, Launched
from fusetune.code.patch.plan import Plan, planned
from fusetune.code.patch.source_file import Sources
from fusetune.code.patch.written import sha256_of

OPTIONS = {"num_warps": 8, "num_stages": 3}
SAFE = {"BLOCK": 512, "num_warps": 4, "num_stages": 2}
BEFORE = {"BLOCK": 512, **OPTIONS}
KERNEL = """@triton.jit
def body(x, y, n, BLOCK: tl.constexpr):
    tl.store(y, tl.load(x))
"""
TOP = "import triton\nimport triton.language as tl\n\n\n"
LAUNCH = """

def launch(x, y, n, **options):
    body[(n // 512,)](x, y, n, BLOCK=512, num_warps=8)
"""
PROGRAM = TOP + KERNEL + LAUNCH


def launched(file: Path, kernel_file: Path | None = None, name: str = "body", **more: Any) -> Launched:
    """The first launch in a file of the kernel that another one has."""
    calls = [one for one in ast.walk(ast.parse(file.read_bytes())) if isinstance(one, ast.Call)]
    call = next(one for one in calls if isinstance(one.func, ast.Subscript))
    kernel_file = kernel_file or file
    text = kernel_file.read_text(encoding="utf-8")
    (kernel,) = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef) and one.name == "body"]
    line = min([kernel.lineno, *(one.lineno for one in kernel.decorator_list)])
    given = more.pop("given", ("num_warps",))
    parameters = ("x", "y", "n", "BLOCK")
    place = (str(file), call.lineno, name, str(kernel_file), line, parameters, call.col_offset)
    return Launched(*place, given=given, **more)


def predicted(launch: Launched, before: Mapping[str, Any] = BEFORE, **more: Any) -> Change:
    """A case whose Before is to be tried beside 4 warps / 2 stages."""
    tried = (before, {**before, **{one: SAFE[one] for one in OPTIONS}})
    return Change(launch, before, before, **{"tried": tried, "key": ("n",), **more})


def plan_of(folder: Path, text: str, **more: Any) -> Plan:
    file = folder / "program.py"
    file.write_text(text, encoding="utf-8")
    return planned([predicted(launched(file, **more))])


def why_not(plan: Plan) -> str:
    assert not plan.files
    (finding,) = plan.findings
    return finding.text


def test_its_launch_gives_no_options_then(tmp_path: Path) -> None:
    (patch,) = plan_of(tmp_path, PROGRAM).files
    assert b"@triton.autotune(\n" in patch.after
    assert b"body[(n // 512,)](x, y, n, BLOCK=512)" in patch.after


@pytest.mark.parametrize(
    "more",
    [
        "\n\n@triton.jit\ndef twice(x, y, n, BLOCK: tl.constexpr):\n    body(x, y, n, BLOCK)\n",
        "\n\nhanded = partial(body[(1,)], BLOCK=512, num_warps=4)\n",
        "\n\ndef registers(x, y):\n    return body.warmup(x, y, 1, BLOCK=512, grid=(1,)).n_regs\n",
        "\n\nKERNELS = {'body': body}\n",
    ],
)
def test_a_kernel_that_is_used_elsewhere_too_is_given_none(tmp_path: Path, more: str) -> None:
    assert "body is used here, too" in why_not(plan_of(tmp_path, PROGRAM + more))


def test_a_name_of_something_else_is_no_use_of_it(tmp_path: Path) -> None:
    more = "\n\ndef other(html, body):\n    return html.body + body\n"
    assert len(plan_of(tmp_path, PROGRAM + more).files) == 1


@pytest.mark.parametrize(
    "other",
    [
        "from program import body\n\nbody[(1,)](1, 2, 3, BLOCK=256, num_warps=4)\n",
        "from program import body as other\n\nother[(1,)](1, 2, 3, BLOCK=256, num_warps=4)\n",
        "import program\n\nlaunch = program.body[(1,)]\n",
        "from program import *\n\nlaunch = body[(1,)]\n",
    ],
)
def test_another_file_of_the_program_may_use_it(tmp_path: Path, other: str) -> None:
    file, second = tmp_path / "program.py", tmp_path / "other.py"
    file.write_text(PROGRAM, encoding="utf-8")
    second.write_text(other, encoding="utf-8")
    measured = {str(one): sha256_of(one.read_bytes()) for one in (file, second)}
    plan = planned([predicted(launched(file))], Sources(measured=measured))
    (finding,) = plan.findings
    assert (finding.file, plan.files) == (str(second), ())


def test_what_imports_it_to_launch_it_is_no_other_use(tmp_path: Path) -> None:
    file, second = tmp_path / "kernels.py", tmp_path / "program.py"
    file.write_text(TOP + KERNEL, encoding="utf-8")
    second.write_text("from kernels import body as one\n" + LAUNCH.replace("body", "one"), encoding="utf-8")
    plan = planned([predicted(launched(second, file))])
    assert {Path(one.file).name for one in plan.files} == {"kernels.py", "program.py"}


def test_options_that_no_keyword_gives_would_be_given_twice(tmp_path: Path) -> None:
    text = PROGRAM.replace("BLOCK=512, num_warps=8", "BLOCK=512, **options")
    assert "num_warps is given by no keyword here" in why_not(plan_of(tmp_path, text))


def test_it_stands_below_what_gives_no_kernel(tmp_path: Path) -> None:
    inner = "".join(f"    {line}\n" for line in f"@staticmethod\n{KERNEL}".splitlines())
    text = f"{TOP}class Ops:\n{inner}{LAUNCH.replace('body[', 'Ops.body[')}"
    (patch,) = plan_of(tmp_path, text, name="Ops.body").files
    (definition,) = [
        one for one in ast.walk(ast.parse(patch.after)) if isinstance(one, ast.FunctionDef) and one.name == "body"
    ]
    assert [ast.unparse(one).partition("(")[0] for one in definition.decorator_list] == [
        "staticmethod",
        "triton.autotune",
        "triton.jit",
    ]


def test_a_kernel_that_a_call_makes_has_no_place_for_it(tmp_path: Path) -> None:
    text = PROGRAM.replace("@triton.jit\n", "") + "\n\nmade = triton.jit(body)\n"
    assert "has no decorator" in why_not(plan_of(tmp_path, text))


def test_triton_is_called_as_the_file_calls_it(tmp_path: Path) -> None:
    (patch,) = plan_of(
        tmp_path, PROGRAM.replace("import triton\n", "import triton as tr\n").replace("triton.jit", "tr.jit")
    ).files
    assert b"@tr.autotune(\n    configs=[\n        tr.Config({}, num_warps=8, num_stages=3)," in patch.after
    text = PROGRAM.replace("import triton\n", "from triton import Config, jit\n").replace("triton.jit", "jit")
    assert "no name for triton.autotune" in why_not(plan_of(tmp_path, text))


def test_cases_of_one_launch_keep_what_each_of_them_runs(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    launch = launched(file)
    large = {"BLOCK": 4096, "num_warps": 16, "num_stages": 3}
    stays = Change(launch, SAFE, SAFE, stays=True)
    (patch,) = planned([stays, predicted(launch), predicted(launch, large)]).files
    kept = [line.strip() for line in patch.after.decode().splitlines() if "triton.Config(" in line]
    assert kept == [
        "triton.Config({}, num_warps=8, num_stages=3),",
        "triton.Config({}, num_warps=16, num_stages=3),",
        "triton.Config({}, num_warps=4, num_stages=2),",
    ]
    more = predicted(launch, {**large, "num_warps": 2})
    told = why_not(planned([stays, predicted(launch), predicted(launch, large), more]))
    assert "its 4 cases run more configs than an autotuner is given" in told


def test_what_a_trial_changes_has_to_be_something_that_can_be_given_back(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM, encoding="utf-8")
    launch = launched(file)
    told = why_not(planned([predicted(launch, unrestored=("x.0",))]))
    assert "an autotuner cannot give x.0 back between its trials what it held" in told
    told = why_not(planned([predicted(launch, restored=("y",)), predicted(launch)]))
    assert "its 2 cases change other tensors in place" in told
