"""What is kept of storages and arguments, how much of it, and for whom."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton.language as tl
from triton.runtime.jit import reinterpret
from triton.tools.tensor_descriptor import TensorDescriptor

from fusetune.capture import captures, keeping
from fusetune.capture.cases import Case
from fusetune.capture.keeping import Keeper
from fusetune.capture.kept import FloatKept, Kept, PlainKept, TensorKept, TypeKept, read_kept
from fusetune.capture.launches import described, kernel_seen
from fusetune.capture.naming import problem_of
from fusetune.capture.restore import arguments_of, load_kept_kernel, make_storage
from fusetune.errors import CaptureError
from fusetune.ops.naming import argument_value, value_name
from fusetune.ops.spec import TileDescriptor
from tests.support.kept_kernels.kernels import combined, doubled_in_place, with_settings


def keep(
    folder: Path, arguments: dict[str, Any], kernel: Any = combined, launch: Any = None, tables: Any = None, **more: Any
) -> Kept:
    options = {"exact": False, "quota_bytes": 1 << 30, "program": "a.py", **more}
    keeper = Keeper(folder, **options)
    pending = keeper.before("a", kernel, arguments)
    assert pending is not None
    if launch is not None:
        launch()
    keeper.after(pending)
    tensors, values, constants = described(kernel, arguments)
    case = Case(kernel_seen(kernel), (1,), "tuple", tensors, values, constants, {}, {}, tables=tables or {})
    found = keeper.keep(pending, case)
    assert found is not None, pending.why
    return read_kept(Path(found))


def again(kept: Kept, folder: Path, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [make_storage(one, Path(kept.case.kept or ""), "cpu", generator) for one in kept.storages]


def test_integers_and_small_floats_keep_all_their_bytes_and_what_was_written(tmp_path):
    x = torch.arange(100.0)
    kept = keep(tmp_path / "a", {"x_ptr": x[3:], "n": 5, "BLOCK": 8}, launch=lambda: x.mul_(2))
    (storage,) = kept.storages
    (made,) = again(kept, tmp_path)
    assert storage.how == "exact"
    assert made.view(torch.float32).equal(torch.arange(100.0))
    folder = Path(kept.case.kept or "")
    assert (folder / storage.after).read_bytes() == x.numpy().tobytes()
    found = arguments_of(kept, folder, [made])
    assert found["x_ptr"].equal(torch.arange(100.0)[3:])
    assert (found["n"], found["BLOCK"]) == (5, 8)
    assert load_kept_kernel(kept, folder).__name__ == "combined"


def test_what_a_launch_only_reads_has_no_bytes_after(tmp_path):
    kept = keep(tmp_path / "a", {"x_ptr": torch.ones(5), "n": 5, "BLOCK": 8})
    assert kept.storages[0].after is None


def test_tensors_of_one_storage_share_it(tmp_path):
    x = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    kept = keep(tmp_path / "a", {"x_ptr": x.t(), "y_ptr": x[1:, 1:], "z_ptr": x.view(torch.float32)})
    assert len(kept.storages) == 1
    found = arguments_of(kept, Path(kept.case.kept or ""), again(kept, tmp_path))
    assert found["x_ptr"].equal(x.t())
    found["x_ptr"][3, 2] = 99
    assert found["y_ptr"][1, 2] == 99


def test_large_floats_are_drawn_from_some_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "WHOLE_BYTES", 1000)
    x = torch.randint(0, 2, (5000,)).to(torch.bfloat16) * 3
    kept = keep(tmp_path / "a", {"x_ptr": x, "n": 5, "BLOCK": 8})
    assert kept.storages[0].how == "sampled"
    made = again(kept, tmp_path)[0].view(torch.bfloat16)
    assert set(made.tolist()) == {0.0, 3.0}
    assert 1.2 < made.float().mean() < 1.8
    assert made.equal(again(kept, tmp_path)[0].view(torch.bfloat16))
    assert not made.equal(again(kept, tmp_path, seed=1)[0].view(torch.bfloat16))


def test_equal_floats_are_one_of_them_whatever_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "WHOLE_BYTES", 1000)
    kept = keep(tmp_path / "a", {"x_ptr": torch.full((5000,), float("nan")), "n": 5, "BLOCK": 8})
    assert kept.storages[0].how == "constant"
    assert again(kept, tmp_path)[0].view(torch.float32).isnan().all()


def test_on_request_large_floats_keep_all_their_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "WHOLE_BYTES", 1000)
    x = torch.randn(5000)
    kept = keep(tmp_path / "a", {"x_ptr": x, "n": 5, "BLOCK": 8}, exact=True)
    assert again(kept, tmp_path)[0].view(torch.float32).equal(x)


def test_what_does_not_fit_into_the_quota_cannot_be_launched_again_and_leaves_no_bytes(tmp_path):
    arguments = {"x_ptr": torch.ones(10), "index_ptr": torch.arange(1000)}
    kept = keep(tmp_path / "a", arguments, quota_bytes=5000)
    assert kept.unlaunchable == "its 8000 bytes of integers do not fit into the quota of 5000 bytes; raise --quota"
    assert {one.how for one in kept.storages} == {"nothing"}
    assert not list(Path(kept.case.kept or "").glob("*.bin"))
    assert captures._run(tmp_path / "a").bytes == 0
    with pytest.raises(CaptureError, match="raise --quota"):
        load_kept_kernel(kept, Path(kept.case.kept or ""))


def test_floats_that_do_not_fit_are_sampled(tmp_path):
    kept = keep(tmp_path / "a", {"x_ptr": torch.randn(200_000), "n": 5, "BLOCK": 8}, quota_bytes=300_000)
    assert (kept.storages[0].how, kept.unlaunchable) == ("sampled", None)


def test_what_lies_there_is_the_owner_s_alone(tmp_path):
    keep(tmp_path / "run", {"x_ptr": torch.ones(5), "n": 5, "BLOCK": 8}, launch=None)
    paths = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
    assert {stat.S_IMODE(one.stat().st_mode) for one in paths if one.is_dir()} == {0o700}
    assert {stat.S_IMODE(one.stat().st_mode) for one in paths if one.is_file()} == {0o600}
    assert not [one for one in paths if one.name.endswith(".part")]


def test_the_program_s_random_numbers_and_gradients_are_as_without(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "WHOLE_BYTES", 1000)
    x = torch.randn(5000, requires_grad=True)
    before = torch.get_rng_state()
    version = x._version
    kept = keep(tmp_path / "a", {"x_ptr": x, "n": 5, "BLOCK": 8})
    assert torch.get_rng_state().equal(before)
    assert (x._version, x.grad_fn, kept.storages[0].how) == (version, None, "sampled")


def test_without_a_gpu_no_storage_is_read(tmp_path):
    kept = keep(tmp_path / "a", {"x_ptr": torch.ones(5), "n": 5, "BLOCK": 8}, reads=False)
    assert (kept.storages[0].how, kept.storages[0].size, kept.unlaunchable) == ("nothing", 20, None)
    assert not again(kept, tmp_path)[0].any()


def test_arguments_of_every_kind_come_back(tmp_path):
    x = torch.randn(16, 32)
    arguments = {
        "descriptor": TensorDescriptor.from_tensor(x, [8, 16]),
        "seen_as": reinterpret(torch.ones(4, dtype=torch.int8), tl.float8e5),
        "pair": (x, 2, (None, "word")),
        "scale": float("-inf"),
        "TYPE": tl.float16,
        "OTHER": torch.bfloat16,
        "FLAG": True,
        "APPLY": doubled_in_place,
        "PASSED": tl.constexpr(4),
    }
    kept = keep(tmp_path / "a", arguments)
    assert kept.unlaunchable is None
    assert kept.arguments["scale"] == FloatKept("-inf")
    assert kept.arguments["TYPE"] == TypeKept("fp16")
    assert kept.arguments["PASSED"] == PlainKept(4)
    found = arguments_of(kept, Path(kept.case.kept or ""), again(kept, tmp_path))
    assert isinstance(found["descriptor"], TileDescriptor)
    assert found["descriptor"].tensor.equal(x)
    assert found["descriptor"].block_shape == (8, 16)
    assert (found["seen_as"].dtype, found["seen_as"].base.tolist()) == (tl.float8e5, [1] * 4)
    assert found["pair"][0].equal(x)
    assert found["pair"][1:] == (2, (None, "word"))
    assert (found["TYPE"], found["OTHER"], found["FLAG"]) == (tl.float16, torch.bfloat16, True)
    assert found["scale"] == float("-inf")
    assert found["APPLY"].__name__ == "doubled_in_place"
    assert isinstance(kept.arguments["descriptor"], TensorKept)


@pytest.mark.parametrize(
    ("kernel", "arguments", "why"),
    [
        (with_settings, {"x_ptr": torch.ones(4)}, "it uses SETTINGS, a Settings, which only the program has"),
        (combined, {"x_ptr": SimpleNamespace()}, "x_ptr is of types.SimpleNamespace, which cannot be kept"),
    ],
)
def test_what_cannot_be_launched_again_is_kept_with_the_reason(tmp_path, kernel, arguments, why):
    assert keep(tmp_path / "a", arguments, kernel=kernel).unlaunchable == why


def test_what_is_behind_a_table_of_pointers_is_not_kept_and_the_case_says_so(tmp_path):
    kept = keep(tmp_path / "a", {"x_ptr": torch.zeros(4, dtype=torch.int64)}, tables={"x_ptr": "both"})
    assert kept.unlaunchable == "x_ptr holds pointers"
    assert kept.case.tables == {"x_ptr": "both"}


def test_a_case_is_kept_once_and_no_more_than_asked_for(tmp_path):
    keeper = Keeper(tmp_path / "a", exact=False, quota_bytes=1000, program="a", most=2)
    found = [keeper.before(key, combined, {}) for key in ("a", "a", "b", "c")]
    assert [one is not None for one in found] == [True, False, True, False]


def test_a_case_that_turned_out_to_be_another_s_is_forgotten(tmp_path):
    kept = keep(tmp_path / "a", {"x_ptr": torch.ones(100), "n": 5, "BLOCK": 8})
    keeper = Keeper(tmp_path / "b", exact=False, quota_bytes=1000, program="a", most=1)
    pending = keeper.before("a", combined, {"x_ptr": torch.ones(100)})
    assert pending is not None
    assert keeper.before("b", combined, {}) is None
    folder = keeper.keep(pending, kept.case)
    assert folder is not None
    assert (captures._run(tmp_path / "b").cases, captures._run(tmp_path / "b").bytes) == (1, 400)
    keeper.forget(folder)
    assert not Path(folder).exists()
    assert (captures._run(tmp_path / "b").cases, captures._run(tmp_path / "b").bytes) == (0, 0)
    assert keeper.before("c", combined, {}) is not None


def test_a_launch_that_fails_leaves_nothing(tmp_path):
    keeper = Keeper(tmp_path / "a", exact=False, quota_bytes=1000, program="a")
    pending = keeper.before("a", combined, {"x_ptr": torch.ones(4)})
    assert pending is not None
    keeper.drop(pending)
    assert not list((tmp_path / "a").iterdir())


def test_memory_that_is_lacking_is_the_reason_and_not_the_program_s_end(tmp_path, monkeypatch):
    def lacking(_tensor: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(keeping, "raw_of", lacking)
    kept = keep(tmp_path / "a", {"x_ptr": torch.ones(4)})
    assert "could not be kept: OutOfMemoryError: no memory" in (kept.unlaunchable or "")


def test_a_file_that_is_cut_off_is_told(tmp_path):
    kept = keep(tmp_path / "a", {"x_ptr": torch.ones(4)})
    file = Path(kept.case.kept or "") / str(kept.storages[0].file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CaptureError, match="it ends too early"):
        again(kept, tmp_path)


def test_a_launch_has_the_same_values_at_run_time_as_in_its_capture(tmp_path):
    x = torch.arange(64.0)
    arguments = {
        "x_ptr": x,
        "y_ptr": x[1:],
        "z_ptr": reinterpret(x, tl.float16),
        "w_ptr": TensorDescriptor.from_tensor(torch.zeros(16, 16), [16, 16]),
        "none": None,
        "n": 60,
        "flag": True,
        "eps": 1e-5,
        "most": float("inf"),
        "dtype": tl.bfloat16,
        "other": torch.float32,
        "pair": (3, tl.float32),
        "_hidden": tl.constexpr(7),
        "function": doubled_in_place,
        "word": "relu",
    }
    kept = keep(tmp_path / "a", arguments)
    named = {value_name(name): argument_value(value) for name, value in arguments.items()}
    assert dict(problem_of(kept, frozenset())) == named
    assert named["y_ptr"] == "float32 unaligned"
