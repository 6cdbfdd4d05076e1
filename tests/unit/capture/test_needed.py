"""Of a file with a kernel, what the kernel needs of it: neither its program nor what only that uses."""

from __future__ import annotations

import ast

from fusetune.capture.needed import needed

FILE = '''"""A script."""
from __future__ import annotations
import os, torch.nn as nn
import package.part
from somewhere import *
try:
    from fast import helper
except ImportError:
    def helper(x): return x
SIZES = [1]
SIZES.append(2)
TABLE = {}
TABLE["a"] = package.part.one()
TABLE["a"].more = 3
UNUSED = run_the_program()
def configs(): return [c for c in SIZES]
@tuned(configs())
def kernel(x, BLOCK=TABLE): return helper(x)
kernel.warmup(1)
for later in kernel(1): print(later)
'''


def kept(*names: str) -> list[str]:
    return [ast.unparse(one).splitlines()[0] for one in needed(ast.parse(FILE), names).body]


def test_a_kernel_needs_what_it_and_its_decorators_name_and_what_these_need() -> None:
    assert kept("kernel") == [
        "from __future__ import annotations",
        "import package.part",
        "from somewhere import *",
        "try:",
        "SIZES = [1]",
        "SIZES.append(2)",
        "TABLE = {}",
        "TABLE['a'] = package.part.one()",
        "TABLE['a'].more = 3",
        "def configs():",
        "@tuned(configs())",
    ]


def test_what_a_loop_at_the_top_binds_needs_the_loop_and_nothing_binds_an_unknown_name() -> None:
    assert kept("later")[-1] == "for later in kernel(1):"
    assert kept("unknown") == ["from __future__ import annotations", "from somewhere import *"]


def test_lines_are_those_of_the_file() -> None:
    (last,) = [one for one in needed(ast.parse(FILE), ["kernel"]).body if isinstance(one, ast.FunctionDef)][1:]
    assert FILE.splitlines()[last.lineno - 1].startswith("def kernel")


def test_a_function_s_own_parameters_and_variables_are_none_of_the_program_s() -> None:
    file = """
n = int(sys.argv[1])
x = torch.randn(n, device="cuda")
y = x + 1
TILE = 4
SIZES = [1]
ROWS = 8
i = 3
@jit
def kernel(x, n, BLOCK=TILE):
    y = x + n
    for i in range(n): y += i
    return [ROWS for ROWS in y] + ROWS
def counts():
    global SIZES
    SIZES = SIZES + (lambda x: [x])(1)
@tuned(key=lambda n: n)
def other(*x, **y): counts()
"""
    bodies = {
        name: [ast.unparse(one).splitlines()[0] for one in needed(ast.parse(file), [name]).body]
        for name in ("kernel", "other")
    }
    assert bodies["kernel"] == ["TILE = 4", "ROWS = 8", "@jit"]
    assert bodies["other"] == ["SIZES = [1]", "def counts():", "@tuned(key=lambda n: n)"]
