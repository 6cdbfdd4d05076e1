from __future__ import annotations

from fusetune.compiler.sass import InstructionCounts, count_instructions, sum_counts

LISTING = """
	code for sm_89
		Function : tiled_products
	.headerflags	@"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS EF_CUDA_SM89"
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;       /* 0x00000a00ff017624 */
                                                                                 /* 0x000fe400078e00ff */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R5], [R2.64] ;           /* 0x0000000000057919 */
        /*0020*/               @P1 LDSM.16.M88.4 R4, [R9] ;                      /* 0x0000000000057919 */
        /*0030*/                   HMMA.1688.F32.TF32 R4, R4, R8, R4 ;           /* 0x0000000000057919 */
        /*0040*/             @UP0  HGMMA.64x64x8.F32.TF32 R24, gdesc[UR8] ;      /* 0x0000000000057919 */
        /*0050*/                   UTMALDG.2D [UR8], [UR4] ;                     /* 0x0000000000057919 */
        /*0060*/                   UTMASTG.2D [UR8], [UR4] ;                     /* 0x0000000000057919 */
        /*0070*/                   STL [R1+0x8], R3 ;                            /* 0x0000000000057919 */
        /*0080*/                   STL.64 [R1+0x10], R4 ;                        /* 0x0000000000057919 */
        /*0090*/                   LDL.LU.128 R4, [R1+0x10] ;                    /* 0x0000000000057919 */
        /*00a0*/                   LDL.U8 R4, [R1+0x10] ;                        /* 0x0000000000057919 */
        /*00b0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                 /* 0x0000000000057919 */
        /*1000c0*/                 EXIT ;                                        /* 0x000000000000794d */
        /*1000d0*/                 NOP;                                          /* 0x0000000000007918 */
"""


def test_instructions_are_counted_by_what_they_are_for_whatever_predicate_stands_before_them() -> None:
    counts = count_instructions(LISTING)
    assert (counts.mma, counts.wgmma, counts.ldmatrix, counts.cp_async) == (1, 1, 1, 1)
    assert (counts.tma_load, counts.tma_store, counts.barrier) == (1, 1, 1)
    assert counts.tensor_core == 2


def test_the_padding_after_the_last_instruction_does_not_count() -> None:
    assert count_instructions(LISTING).total == 13


def test_a_spill_s_bytes_follow_the_width_of_each_load_and_store() -> None:
    counts = count_instructions(LISTING)
    assert (counts.local_store, counts.spill_store_bytes) == (2, 4 + 8)
    assert (counts.local_load, counts.spill_load_bytes) == (2, 16 + 1)
    assert counts.spill_bytes == 29


def test_the_encoding_beside_an_instruction_is_not_taken_for_one() -> None:
    assert count_instructions("                                  /* 0x000fe400078e00ff */") == InstructionCounts()


def test_counts_of_several_kernels_add_up() -> None:
    one = count_instructions(LISTING)
    both = sum_counts([one, one])
    assert (both.total, both.mma, both.spill_store_bytes) == (26, 2, 24)
    assert sum_counts([]) == InstructionCounts()
