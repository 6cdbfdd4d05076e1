"""What kernels do to their tensors, by what Triton's compiler makes of them for a GPU that is not there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as triton_compile

from fusetune.capture.roles import Role, aliases, roles, roles_of


def roles_for(kernel, constants=None, capability=90, **signature):
    constants = constants or {}
    signature = {**signature, **dict.fromkeys(constants, "constexpr")}
    ordered = {name: signature[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, ordered, places, {})
    return roles_of(triton_compile(source, target=GPUTarget("cuda", capability, 32)))


@triton.jit
def _plain(x_ptr, y_ptr, sum_ptr, both_ptr, spare_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x, mask=at < n)
    tl.atomic_add(sum_ptr, tl.sum(x))
    tl.store(both_ptr + at, tl.load(both_ptr + at) + x)


def test_each_kind_of_access_is_told():
    pointers = dict.fromkeys(["x_ptr", "y_ptr", "sum_ptr", "both_ptr", "spare_ptr"], "*fp32")
    found = roles_for(_plain, {"BLOCK": 128}, **pointers, n="i32")
    assert found == {
        "x_ptr": Role("read"),
        "y_ptr": Role("written"),
        "sum_ptr": Role("atomic"),
        "both_ptr": Role("both"),
        "spare_ptr": Role("unused"),
    }


@triton.jit
def _moving(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x, y = x_ptr + at, y_ptr + at
    for _ in range(n):
        tl.store(y, tl.load(x))
        x += BLOCK
        y += BLOCK
    left = n
    while left > 0:
        tl.store(y, 0.0)
        y += BLOCK
        left -= 1


def test_pointers_that_loops_move_are_followed():
    found = roles_for(_moving, {"BLOCK": 128}, x_ptr="*fp32", y_ptr="*fp32", n="i32")
    assert found == {"x_ptr": Role("read"), "y_ptr": Role("written")}


@triton.jit
def _moving_together(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    both = (x_ptr + at, y_ptr + at)
    for _ in range(n):
        tl.store(both[1], tl.load(both[0]))
        both = (both[0] + BLOCK, both[1] + BLOCK)


def test_parts_of_a_tuple_are_followed_whatever_they_are_called():
    found = roles_for(_moving_together, {"BLOCK": 128}, x_ptr="*fp32", y_ptr="*fp32", n="i32")
    assert found == {"x_ptr": Role("read"), "y_ptr": Role("written")}
    as_3_8_writes_it = """
      tt.func public @k(%x_ptr: !tt.ptr<f32> loc("x"), %y_ptr: !tt.ptr<f32>, %n: i32) attributes {noinline = false} {
        %both:2 = scf.for %_ = %c-1_i32 to %n step %c1_i32 iter_args(%both.0 = %x_ptr, %both.1 = %y_ptr) -> (f)  : i32 {
          %0 = tt.load %both.0 : !tt.ptr<f32>
          tt.store %both.1, %0 : !tt.ptr<f32>
          %both.0_3 = tt.addptr %both.0, %c1_i32 : !tt.ptr<f32>, i32
          %both.1_3 = tt.addptr %both.1, %c1_i32 : !tt.ptr<f32>, i32
          scf.yield %both.0_3, %both.1_3 : !tt.ptr<f32>, !tt.ptr<f32>
        } loc(#loc1)
        tt.return
      }
    """
    assert roles(as_3_8_writes_it, {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32"}) == found


@triton.jit
def _chosen(a_ptr, b_ptr, y_ptr, n):
    if n > 3:
        chosen = a_ptr
        tl.store(y_ptr, 1.0)
    else:
        chosen = b_ptr + 1
    tl.store(y_ptr + 1, tl.load(chosen))


def test_a_pointer_that_an_if_chooses_may_be_either():
    found = roles_for(_chosen, a_ptr="*fp32", b_ptr="*fp32", y_ptr="*fp32", n="i32")
    assert found == {"a_ptr": Role("read", sure=False), "b_ptr": Role("read", sure=False), "y_ptr": Role("written")}


@triton.jit
def _early(x_ptr, y_ptr, n):
    if n > 3:
        return
    at = x_ptr
    if tl.load(x_ptr) > 1.0:
        at = x_ptr + 2
    tl.store(y_ptr, tl.load(at))


def test_blocks_after_an_early_return_are_followed():
    found = roles_for(_early, x_ptr="*fp32", y_ptr="*fp32", n="i32")
    assert found == {"x_ptr": Role("read"), "y_ptr": Role("written")}


@triton.jit
def _through_table(table_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    address = tl.load(table_ptr + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    tl.store(address + at, tl.load(y_ptr + at))


def test_integers_that_are_used_as_pointers_make_a_table():
    found = roles_for(_through_table, {"BLOCK": 128}, table_ptr="*i64", y_ptr="*fp32", n="i32")
    assert found == {"table_ptr": Role("read", table=True, behind="written"), "y_ptr": Role("read")}


@triton.jit
def _gathered(x_ptr, index_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + tl.load(index_ptr + at)))


def test_indices_make_no_table():
    found = roles_for(_gathered, {"BLOCK": 128}, x_ptr="*fp32", index_ptr="*i64", y_ptr="*fp32")
    assert found == {"x_ptr": Role("read"), "index_ptr": Role("read"), "y_ptr": Role("written")}


@triton.jit(noinline=True)
def _copy(to_ptr, from_ptr, n):
    tl.store(to_ptr + n, tl.load(from_ptr + n))


@triton.jit
def _calls(a_ptr, b_ptr, n):
    _copy(b_ptr, a_ptr, n)


def test_a_function_that_is_not_inlined_is_followed():
    assert roles_for(_calls, a_ptr="*fp32", b_ptr="*fp32", n="i32") == {"a_ptr": Role("read"), "b_ptr": Role("written")}


@triton.jit
def _described(x, y, z_ptr, n):
    block = x.load([0, 0])
    y.store([0, 0], block)
    made = tl.make_tensor_descriptor(z_ptr, [n, n], [n, 1], [16, 16])
    made.atomic_add([0, 0], block)


@pytest.mark.parametrize("capability", [80, 90])
def test_descriptors_are_followed(capability):
    kind = "tensordesc<fp32[16, 16]>"
    found = roles_for(_described, capability=capability, x=kind, y=kind, z_ptr="*fp32", n="i32")
    assert found == {"x": Role("read"), "y": Role("written"), "z_ptr": Role("atomic")}


@triton.jit
def _by_hand(x_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.inline_asm_elementwise(
        "ld.global.nc.b32 $0, [$1];", "=r,l", [x_ptr + at], dtype=tl.int32, is_pure=False, pack=1
    )
    tl.inline_asm_elementwise(
        "st.global.b32 [$1], $2; mov.u32 $0, 0;", "=r,l,r", [y_ptr + at, x], dtype=tl.int32, is_pure=False, pack=1
    )


def test_ptx_that_a_kernel_brings_is_read_for_whether_it_writes():
    found = roles_for(_by_hand, {"BLOCK": 128}, x_ptr="*i32", y_ptr="*i32")
    assert found == {"x_ptr": Role("read"), "y_ptr": Role("both")}


@triton.jit
def _locked(lock_ptr, y_ptr, BLOCK: tl.constexpr):
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:
        pass
    at = tl.arange(0, BLOCK)
    total = tl.sum(tl.load(y_ptr + at))
    tl.store(y_ptr, total)
    tl.atomic_xchg(lock_ptr, 0)


def test_a_lock_is_atomic():
    found = roles_for(_locked, {"BLOCK": 128}, lock_ptr="*i32", y_ptr="*fp32")
    assert found == {"lock_ptr": Role("atomic"), "y_ptr": Role("both")}


def test_the_same_name_in_both_branches_of_an_if_is_not_one_value():
    text = """module {
  tt.func public @k(%a: !tt.ptr<f32>, %b: !tt.ptr<f32>, %c: i1, %v: f32) {
    scf.if %c {
      %0 = tt.addptr %a, %c : !tt.ptr<f32>, i32
      tt.store %0, %v : !tt.ptr<f32>
    } else {
      %0 = tt.addptr %b, %c : !tt.ptr<f32>, i32
      %1 = tt.load %0 : !tt.ptr<f32>
    }
    tt.return
  }
}"""
    found = roles(text, {"a": "*fp32", "b": "*fp32", "c": "i1", "v": "fp32"})
    assert found == {"a": Role("written"), "b": Role("read")}


def test_tensors_in_a_tuple_have_names_of_their_own():
    text = "tt.func public @k(%a: !tt.ptr<f32>, %b: !tt.ptr<f32>) {\n%0 = tt.load %b : !tt.ptr<f32>\n}"
    assert roles(text, {"t": ("*fp32", "*fp32")}) == {"t.0": Role("unused"), "t.1": Role("read")}


def test_tensors_that_share_a_storage_are_aliases():
    whole = torch.empty(8, 16)
    tensors = {"whole": whole, "row": whole[3], "other": torch.empty(4), "again": whole, "none": None, "n": 3}
    assert aliases(tensors) == (("whole", "row", "again"),)


def test_halves_of_one_storage_are_aliases_since_both_are_within_it():
    whole = torch.empty(32)
    assert aliases({"low": whole[:16], "high": whole[16:]}) == (("low", "high"),)


def test_what_a_descriptor_describes_is_an_alias_and_what_holds_no_byte_is_none():
    whole = torch.empty(32)
    tensors = {"x": whole, "described": SimpleNamespace(base=whole), "empty": torch.empty(0), "other": torch.empty(0)}
    assert aliases(tensors) == (("x", "described"),)
