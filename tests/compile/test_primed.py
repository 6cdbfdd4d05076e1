"""What compiling processes inherit, so that none of them loads it."""

from __future__ import annotations

import subprocess
import sys

from fusetune.ops.built_in import built_in_ops, spec_modules

_SHOW = """
import sys, time
import fusetune.compiler.build, triton
{loads}
import fusetune.compiler.primed
before = set(sys.modules)
from fusetune.core.target import find_target
from fusetune.compiler.build import compile_config
from fusetune.ops.loading import load_spec
from tests.support.sample import BASELINE, OP, make_problem
loaded = set(sys.modules)
compile_config(load_spec(OP), make_problem(128, 512, 1024, "float16"), BASELINE, find_target("h200"))
print(len([name for name in set(sys.modules) - loaded if name.split(".")[0] in ("triton", "fusetune")]))
"""


def test_a_first_kernel_loads_nothing_more_of_triton_or_of_the_op() -> None:
    loads = "\n".join(f"import {name}" for name in spec_modules())
    done = subprocess.run([sys.executable, "-c", _SHOW.format(loads=loads)], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 2, "of some forty"


def test_the_modules_of_built_in_ops_are_those_that_hold_their_specs() -> None:
    assert set(spec_modules()) == {place.split(":")[0] for place in built_in_ops().values()}
