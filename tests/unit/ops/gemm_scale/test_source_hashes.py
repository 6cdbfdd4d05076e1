"""Our own ops' hashes of their sources."""

from __future__ import annotations

import pytest

from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.launches import (
    DEFERRED_KERNELS,
    KERNELS,
    MASKED_KERNELS,
    OWNER_KERNELS,
    PADDED_KERNELS,
    VECTORED_KERNELS,
)
from fusetune.ops.gemm_scale.linear_scale import GemmScale
from fusetune.ops.gemm_scale.sources import (
    DEFERRED,
    GUARD,
    MASKED,
    OWNER,
    PADDED,
    SHARED,
    VECTORED,
    hashes_so_far,
    source_hash,
)
from fusetune.ops.hashing import hash_kernels, hash_sources


def test_our_own_hashes_are_the_same_with_and_without_triton():
    later = (*VECTORED_KERNELS, *MASKED_KERNELS, *PADDED_KERNELS)
    assert source_hash("gemm_scale") == hash_kernels(*KERNELS, *DEFERRED_KERNELS, *later)
    assert source_hash("gemm_scale_bn") == hash_kernels(*KERNELS, *DEFERRED_KERNELS, *OWNER_KERNELS, *later)
    of_code = {
        SHARED: KERNELS,
        DEFERRED: DEFERRED_KERNELS,
        OWNER: OWNER_KERNELS,
        VECTORED: VECTORED_KERNELS,
        MASKED: MASKED_KERNELS,
        PADDED: PADDED_KERNELS,
    }
    for code, kernels in of_code.items():
        assert [name for _, name in code] == [kernel.__name__ for kernel in kernels]


def test_an_op_that_is_derived_from_ours_has_the_hash_of_the_code_that_it_launches():
    class Derived(GemmScale):
        name = "derived_from_ours"

    assert Derived().source_hash() == source_hash("gemm_scale")


def test_what_is_guarded_for_some_variants_is_no_part_of_what_the_others_were_tuned_with():
    variants, constant = GUARD
    besides = {"masked": (), "padded": PADDED_KERNELS}
    assert set(variants) == set(besides)
    for variant in variants:
        guarded = source_hash("gemm_scale", Config(variant=variant))
        assert guarded == hash_kernels(*KERNELS, *MASKED_KERNELS, *besides[variant])
    assert source_hash("gemm_scale", Config()) == hash_kernels(*KERNELS, without=constant) != hash_kernels(*KERNELS)
    # What configs/ was tuned with, before there was anything to guard.
    assert source_hash("gemm_scale", Config()) == "1e2cd6611574435d"


BEFORE = """
def outer(x, WIDTH: tl.constexpr):
    if WIDTH == 1:
        inner(x, WIDTH)
    else:
        inner(x, 2 * WIDTH)


def inner(x, WIDTH: tl.constexpr):
    x += 1
    if WIDTH > 3:
        x *= 2
    store(x)
"""
AFTER = """
def outer(x, WIDTH: tl.constexpr, THEIRS: tl.constexpr):
    if WIDTH == 1:
        inner(x, WIDTH, THEIRS)
    else:
        inner(x, 2 * WIDTH, THEIRS)


def inner(x, THEIRS: tl.constexpr, WIDTH: tl.constexpr):
    if THEIRS:
        if WIDTH:
            x -= 1
    x += 1
    if THEIRS:
        store_theirs(x)
    else:
        if WIDTH > 3:
            x *= 2
        store(x)
"""


def test_a_constant_that_is_false_leaves_nothing_of_what_it_guards():
    assert hash_sources(AFTER, without="THEIRS") == hash_sources(BEFORE) == hash_sources(BEFORE, without="THEIRS")
    assert hash_sources(AFTER) != hash_sources(BEFORE)


@pytest.mark.parametrize(
    ("old", "new"), [("x += 1", "x += 2"), ("x *= 2", "x *= 3"), ("inner(x, WIDTH,", "inner(y, WIDTH,")]
)
def test_all_else_still_tells(old, new):
    assert old in AFTER
    assert hash_sources(AFTER.replace(old, new), without="THEIRS") != hash_sources(BEFORE)


def test_what_is_guarded_tells_where_it_runs():
    assert hash_sources(AFTER.replace("x -= 1", "x -= 2")) != hash_sources(AFTER)
    assert hash_sources(AFTER.replace("x -= 1", "x -= 2"), without="THEIRS") == hash_sources(BEFORE)


def test_the_hash_of_all_is_known_for_each_variant_that_was_added():
    first, deferred, vectored, masked, padded = hashes_so_far("gemm_scale")
    assert (first, deferred, padded) == ("1e2cd6611574435d", "293402c2f3128a4c", source_hash("gemm_scale"))
    assert masked == hash_kernels(*KERNELS, *DEFERRED_KERNELS, *VECTORED_KERNELS, *MASKED_KERNELS)
    assert vectored == hash_kernels(*KERNELS, *DEFERRED_KERNELS, *VECTORED_KERNELS, without="MASKED")
    first, *_, before, vectored, masked, now = hashes_so_far("gemm_scale_bn")
    assert len({before, vectored, masked, now}) == 4
    assert (first, before, now) == ("1e2cd6611574435d", "92ecdb7495707e7c", source_hash("gemm_scale_bn"))
