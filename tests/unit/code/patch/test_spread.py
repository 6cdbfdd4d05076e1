"""What stands behind `**` is a table, and no place for a number."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from fusetune.code.patch.change import Change, Launched
from fusetune.code.patch.plan import Plan, planned

BEFORE = {"BLOCK": 256, "num_warps": 4, "num_stages": 2}
KERNEL = """@triton.jit
def body(x, n, BLOCK: tl.constexpr):
    pass


"""
LAUNCH = "body[lambda meta: (n // meta['BLOCK'],)](x, n"
HELD = "HELD = {'num_warps': 4, 'num_stages': 2}\n\n\n"


def plan_of(folder: Path, text: str, wanted: dict[str, Any], listed: tuple[str, ...] = ()) -> Plan:
    file = folder / "program.py"
    file.write_text(text, encoding="utf-8")
    tree = ast.parse(text)
    call = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and isinstance(one.func, ast.Subscript)][-1]
    (kernel,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    line = min(one.lineno for one in kernel.decorator_list)
    place = (str(file), call.lineno, "body", str(file), line, ("x", "n", "BLOCK"), call.col_offset)
    launch = Launched(*place, given=("num_warps", "num_stages"), listed=listed)
    return planned([Change(launch, BEFORE, {**BEFORE, **wanted})])


def test_a_table_that_others_read_is_no_number_of_warps(tmp_path: Path) -> None:
    text = f"{HELD}{KERNEL}print(HELD)\n{LAUNCH}, BLOCK=256, **HELD)\n"
    plan = plan_of(tmp_path, text, {"num_warps": 8})
    assert plan.files == ()
    (finding,) = plan.findings
    assert "what num_warps is given feeds `print(HELD)`, too" in finding.text
    (patch,) = plan_of(tmp_path, text.replace("print(HELD)\n", ""), {"num_warps": 8}).files
    assert patch.after.decode() == text.replace("print(HELD)\n", "").replace("'num_warps': 4", "'num_warps': 8")


def test_a_config_that_is_given_a_table_is_written_out(tmp_path: Path) -> None:
    listed = ("BLOCK", "num_warps", "num_stages")
    for configs in (
        "[triton.Config({'BLOCK': 256}, **HELD)]",
        "[triton.Config({'BLOCK': size}, **HELD) for size in (128, 256)]",
    ):
        text = f"{HELD}@triton.autotune({configs}, key=['n'])\n{KERNEL}{LAUNCH})\n"
        (patch,) = plan_of(tmp_path, text, {"BLOCK": 128, "num_warps": 8}, listed).files
        after = text.replace(configs, '[triton.Config({"BLOCK": 128}, num_warps=8, num_stages=2)]')
        assert patch.after.decode() == after


def test_of_a_list_a_config_without_a_table_is_the_pattern(tmp_path: Path) -> None:
    listed = ("BLOCK", "num_warps", "num_stages")
    configs = "[triton.Config({'BLOCK': 64}, **HELD), triton.Config({'BLOCK': 256}, num_warps=4)]"
    text = f"{HELD}@triton.autotune({configs}, key=['n'])\n{KERNEL}{LAUNCH})\n"
    (patch,) = plan_of(tmp_path, text, {"num_warps": 8}, listed).files
    assert patch.after.decode() == text.replace(configs, "[triton.Config({'BLOCK': 256}, num_warps=8, num_stages=2)]")
