"""A launch is kept and launched again in a process that never saw the program: it writes the very same bytes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from fusetune.capture.cases import Case
from fusetune.capture.keeping import Keeper
from fusetune.capture.kept import Kept, read_kept
from fusetune.capture.launches import kernel_seen
from tests.support.kept_kernels import kernels
from tests.support.warm import warm_python

AGAIN = """
import sys
from pathlib import Path
import torch
from fusetune.capture.kept import read_kept
from fusetune.capture.restore import arguments_of, load_kept_kernel, make_storage

folder = Path(sys.argv[1])
kept = read_kept(folder)
storages = [make_storage(one, folder, "cpu", torch.Generator()) for one in kept.storages]
load_kept_kernel(kept, folder)[kept.case.grid](**arguments_of(kept, folder, storages), **kept.options)
assert not any(name.partition(".")[0] == "tests" for name in sys.modules)
for one, storage in zip(kept.storages, storages, strict=True):
    assert bytes(storage.tolist()) == (folder / (one.after or one.file)).read_bytes(), one
print("equal", sum(one.after is not None for one in kept.storages))
"""


def kept_launch(folder: Path, kernel: Any, grid: tuple[int, ...], **arguments: Any) -> Kept:
    keeper = Keeper(folder, exact=False, quota_bytes=1 << 20, program="a.py")
    pending = keeper.before("a", kernel, arguments)
    assert pending is not None
    kernel[grid](**arguments)
    keeper.after(pending)
    constants = {"BLOCK": arguments["BLOCK"]}
    found = keeper.keep(pending, Case(kernel_seen(kernel), grid, "tuple", {}, {}, constants, {}, {}))
    assert found is not None, pending.why
    return read_kept(Path(found))


def again(kept: Kept) -> str:
    """What a new process says that launches it, somewhere else."""
    folder = Path(kept.case.kept or "")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [warm_python(), "-c", AGAIN, str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_kernel_with_helpers_of_two_modules(tmp_path):
    x = torch.arange(64.0)
    kept = kept_launch(tmp_path / "run", kernels.combined, (1,), x_ptr=x[8:], n=40, BLOCK=64)
    assert again(kept) == "equal 1"


def test_a_kernel_that_is_given_a_function_and_reads_by_an_index(tmp_path):
    x, out = torch.randn(50), torch.randn(100)
    index = torch.randperm(50).repeat(2)
    arguments = {"x_ptr": x, "index_ptr": index, "out_ptr": out, "n": 90, "APPLY": kernels.doubled_in_place}
    kept = kept_launch(tmp_path / "run", kernels.gathered, (4,), **arguments, BLOCK=32)
    assert again(kept) == "equal 1"


def test_two_views_of_one_storage_are_written_through(tmp_path):
    x = torch.randn(128)
    index = torch.arange(32)
    views = {"x_ptr": x[:32], "index_ptr": index, "out_ptr": x[64:]}
    arguments = {**views, "n": 32, "APPLY": kernels.doubled_in_place, "BLOCK": 32}
    kept = kept_launch(tmp_path / "run", kernels.gathered, (1,), **arguments)
    assert len(kept.storages) == 2
    assert again(kept) == "equal 1"
