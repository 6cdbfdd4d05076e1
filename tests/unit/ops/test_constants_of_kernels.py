"""The hash of a kernel's source: what it reads of its module counts, and nothing else that stands there."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from fusetune.ops.sources import constants_of, source_hash_of

NUMBERS = itertools.count()
BESIDE = """
FAR = 2.5
UNREAD = 1
"""
TEXT = """
import triton
import triton.language as tl
import {beside} as beside

ROUNDS = tl.constexpr({group})
UNREAD = {unread}
SIZES = (16, {size})
MODE: tl.constexpr = tl.constexpr("fast")


@triton.jit
def inner(x):
    return x * beside.FAR + SIZES[1]


@triton.jit
def kernel(x_ptr, BLOCK: tl.constexpr, dtype: tl.constexpr = tl.float32):
    UNSEEN = 3
    for _ in range(ROUNDS):
        if MODE == "fast":
            tl.store(x_ptr, inner(tl.load(x_ptr)) + UNSEEN)
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel of a new module with these numbers."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(group: int = 8, unread: int = 1, size: int = 32, far: float = 2.5):
        number = next(NUMBERS)
        (tmp_path / f"beside_{number}.py").write_text(BESIDE.replace("2.5", str(far)))
        path = tmp_path / f"module_{number}.py"
        path.write_text(TEXT.format(group=group, unread=unread, size=size, beside=f"beside_{number}"))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.kernel

    return made


def test_the_constants_that_a_kernel_and_what_it_calls_read_are_found(kernel):
    assert constants_of(kernel()) == ("MODE = 'fast'", "ROUNDS = 8", "SIZES = (16, 32)", "beside.FAR = 2.5")


def test_a_constant_that_is_read_is_part_of_the_hash_and_another_is_not(kernel):
    assert source_hash_of(kernel()) == source_hash_of(kernel()) == source_hash_of(kernel(unread=2))
    changed = [source_hash_of(kernel(**one)) for one in ({"group": 4}, {"size": 64}, {"far": 3.5})]
    assert len({source_hash_of(kernel()), *changed}) == 4
