"""Our own ops' hashes of their sources."""

from __future__ import annotations

from fusetune.ops.gemm_scale.launches import DEFERRED_KERNELS, KERNELS, OWNER_KERNELS, VECTORED_KERNELS
from fusetune.ops.gemm_scale.linear_scale import GemmScale
from fusetune.ops.gemm_scale.sources import DEFERRED, OWNER, SHARED, VECTORED, source_hash
from fusetune.ops.hashing import hash_kernels


def test_our_own_hashes_are_the_same_with_and_without_triton():
    assert source_hash("gemm_scale") == hash_kernels(*KERNELS, *DEFERRED_KERNELS, *VECTORED_KERNELS)
    later = (*DEFERRED_KERNELS, *OWNER_KERNELS, *VECTORED_KERNELS)
    assert source_hash("gemm_scale_bn") == hash_kernels(*KERNELS, *later)
    of_names = {SHARED: KERNELS, DEFERRED: DEFERRED_KERNELS, OWNER: OWNER_KERNELS, VECTORED: VECTORED_KERNELS}
    for code, kernels in of_names.items():
        assert [name for _, name in code] == [kernel.__name__ for kernel in kernels]


def test_an_op_that_is_derived_from_ours_has_the_hash_of_the_code_that_it_launches():
    class Derived(GemmScale):
        name = "derived_from_ours"

    assert Derived().source_hash() == source_hash("gemm_scale")
