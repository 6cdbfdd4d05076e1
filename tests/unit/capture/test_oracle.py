"""What says that a candidate's result is Before's: kernels here are functions on tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

torch = pytest.importorskip("torch")

from fusetune.capture.cases import Case, KernelSeen, TensorSeen  # noqa: E402
from fusetune.capture.kept import VERSION, Kept, StorageKept, TensorKept  # noqa: E402
from fusetune.capture.oracle import BY_DTYPE, CapturedData, Strictness  # noqa: E402
from fusetune.measure.own_data import Wrong  # noqa: E402

N = 1000


def capture(
    folder: Path, tensors: dict[str, tuple[Any, str]], *, after: dict[str, Any] | None = None, shape: int = N
) -> Kept:
    """A capture of tensors by name, each with its role: all of a storage of its own, kept exactly."""
    (folder / "kernels").mkdir(exist_ok=True)
    storages = []
    arguments: dict[str, Any] = {}
    for number, (name, (tensor, _)) in enumerate(tensors.items()):
        data = tensor.contiguous().view(torch.uint8).numpy()
        data.tofile(folder / f"{number}.bin")
        then = None
        if after and name in after:
            then = f"{number}.after"
            after[name].contiguous().view(torch.uint8).numpy().tofile(folder / then)
        dtype = str(tensor.dtype).removeprefix("torch.")
        storages.append(StorageKept(data.nbytes, "exact", dtype, f"{number}.bin", then))
        arguments[name] = TensorKept(number, dtype, (shape,), (1,))
    case = Case(
        kernel=KernelSeen("k", "m", "m.py", 1),
        grid=(1,),
        grid_kind="tuple",
        tensors={
            name: TensorSeen(one.dtype, one.shape, one.stride, one.storage, 0, storages[one.storage].size, True)
            for name, one in arguments.items()
        },
        values={},
        constants={},
        options={},
        before={"num_warps": 4, "num_stages": 3},
        roles={name: role for name, (_, role) in tensors.items()},
    )
    return Kept(
        version=VERSION,
        id="t",
        made="2026-11-29T07:00:00Z",
        program="m.py",
        case=case,
        module="m",
        kernel="k",
        arguments=arguments,
        storages=tuple(storages),
    )


class Bench:
    """A session's part: one set, Before checked first."""

    def __init__(
        self, folder: Path, kept: Kept, before: Callable[..., None], strictness: Strictness = BY_DTYPE
    ) -> None:
        self.data = CapturedData(kept, folder, 0, "cpu", strictness)
        self.tensors = self.data.make()
        self.first = self.check(before)

    def check(self, kernel: Callable[..., None]) -> float | Wrong:
        return self.data.check(self.tensors, lambda: kernel(**self.tensors))


def x_and_y(dtype: Any = None) -> dict[str, tuple[Any, str]]:
    x = torch.randn(N, generator=torch.Generator().manual_seed(1)).to(dtype or torch.float32)
    return {"x": (x, "read"), "y": (torch.zeros_like(x), "written")}


def double(x: Any, y: Any) -> None:
    y.copy_(x * 2)


def test_before_is_right_and_so_is_who_comes_to_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), double)
    assert bench.first == 0.0
    assert bench.check(lambda x, y: y.copy_(x + x)) == 0.0


def test_who_computes_a_part_is_seen_though_the_rest_lay_there_already(tmp_path: Path) -> None:
    tensors = x_and_y()
    tensors["y"] = tensors["x"][0] * 2, "written"
    bench = Bench(tmp_path, capture(tmp_path, tensors), double)
    found = bench.check(lambda x, y: y[: N // 2].copy_(x[: N // 2] * 2))
    assert isinstance(found, Wrong)
    assert found.reason == "nan"


def test_a_small_error_is_told_from_rounding_by_the_dtype(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), double)
    near = bench.check(lambda x, y: y.copy_(x * 2 * (1 + 1e-7)))
    assert isinstance(near, float)
    assert near < 1e-6
    assert isinstance(bench.check(lambda x, y: y.copy_(x * 2.001)), Wrong)


def test_one_wrong_element_is_enough(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capture(tmp_path, x_and_y(torch.float16)), double)

    def one_off(x: Any, y: Any) -> None:
        double(x, y)
        y[17] += 0.5

    assert isinstance(bench.check(one_off), Wrong)
    assert bench.check(double) == 0.0, "and the next one finds all as it was"


def test_a_write_behind_the_end_is_seen(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), double)

    def beyond(x: Any, y: Any) -> None:
        double(x, y)
        torch.as_strided(y, (N + 8,), (1,))[N:] = 0.0

    found = bench.check(beyond)
    assert isinstance(found, Wrong)
    assert "outside of" in found.detail
    assert bench.check(double) == 0.0


def test_a_write_to_what_before_only_reads_is_seen_and_mended(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), double)

    def spoils(x: Any, y: Any) -> None:
        double(x, y)
        x[3] = 0.0

    found = bench.check(spoils)
    assert isinstance(found, Wrong)
    assert "x" in found.detail
    assert bench.check(double) == 0.0


def test_the_next_one_does_not_answer_for_what_a_wrong_one_did_to_several_tensors(tmp_path: Path) -> None:
    tensors = {**x_and_y(), "z": (torch.ones(N), "read")}

    def add(x: Any, y: Any, z: Any) -> None:
        y.copy_(x + z)

    bench = Bench(tmp_path, capture(tmp_path, tensors), add)

    def behind(x: Any, y: Any, z: Any) -> None:
        add(x, y, z)
        torch.as_strided(y, (N + 8,), (1,))[N:] = 1.0
        x.zero_()

    def both(x: Any, y: Any, z: Any) -> None:
        x.zero_()
        z.zero_()

    for wrong, why in ((behind, "it writes outside of y"), (both, "it changes x")):
        found = bench.check(wrong)
        assert isinstance(found, Wrong)
        assert why in found.detail
        assert bench.check(add) == 0.0


def test_a_second_launch_finds_what_accumulates_as_it_was(tmp_path: Path) -> None:
    x = torch.ones(N)
    tensors = {"x": (x, "read"), "y": (torch.full((N,), 5.0), "both")}
    bench = Bench(tmp_path, capture(tmp_path, tensors), lambda x, y: y.add_(x))
    assert bench.first == 0.0
    assert bench.data.changes_inputs
    assert bench.check(lambda x, y: y.add_(x)) == 0.0
    assert bool((bench.tensors["y"] == 5.0).all())
    assert isinstance(bench.check(lambda x, y: y.add_(x).add_(x)), Wrong)
    more = bench.data.make()
    more["y"].zero_()
    bench.data.put_back(more)
    assert bool((more["y"] == 5.0).all())


def test_what_before_leaves_alone_need_not_be_written(tmp_path: Path) -> None:
    def half(x: Any, y: Any) -> None:
        y[: N // 2] = x[: N // 2]

    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), half)
    assert bench.first == 0.0
    assert bench.check(half) == 0.0
    found = bench.check(lambda x, y: y.copy_(x))
    assert isinstance(found, Wrong), "and who writes there is told from it"


def test_who_writes_what_before_leaves_alone_is_told_so(tmp_path: Path) -> None:
    def half(x: Any, y: Any) -> None:
        y[: N // 2] = 2 * x[: N // 2]

    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), half)
    assert bench.first == 0.0
    found = bench.check(double)
    assert isinstance(found, Wrong)
    assert found == Wrong("wrong_result", "it writes elements of y that Before leaves alone, or that are NaN")


def test_an_output_that_is_read_after_all_is_put_back(tmp_path: Path) -> None:
    tensors = x_and_y()
    tensors["y"] = torch.full((N,), 3.0), "written"
    bench = Bench(tmp_path, capture(tmp_path, tensors), lambda x, y: y.add_(x))
    assert bench.first == 0.0
    assert bench.data.changes_inputs
    assert bench.check(lambda x, y: y.add_(x)) == 0.0
    assert isinstance(bench.check(lambda x, y: y.copy_(x)), Wrong)


def test_a_random_stream_cannot_be_checked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), lambda x, y: y.copy_(torch.rand(N)))
    assert isinstance(bench.first, Wrong)
    assert bench.first.reason == "not_checkable"
    assert "two runs of Before differ in y" in bench.first.detail


def test_what_a_user_vouches_for_is_looked_at_for_nan_and_writes_elsewhere_alone(tmp_path: Path) -> None:
    tensors = {**x_and_y(), "z": (torch.zeros(N), "written")}

    def drawn(x: Any, y: Any, z: Any) -> None:
        y.copy_(torch.rand(N))
        z.copy_(x * 2)

    kept = capture(tmp_path, tensors, after={"y": torch.rand(N), "z": tensors["x"][0] * 2})
    assert isinstance(Bench(tmp_path, kept, drawn).first, Wrong)
    bench = Bench(tmp_path, kept, drawn, Strictness(vouched=True))
    assert bench.first == 0.0
    assert not bench.data.changes_inputs
    assert bench.check(drawn) == 0.0

    def found(kernel: Callable[..., None]) -> str:
        wrong = bench.check(kernel)
        assert isinstance(wrong, Wrong)
        return wrong.detail

    def another_z(x: Any, y: Any, z: Any) -> None:
        y.copy_(torch.rand(N))
        z.copy_(x * 3)

    assert "z: relative error" in found(another_z), "what does not differ is compared"
    assert found(lambda x, y, z: z.copy_(x * 2)) == "y has NaN, and Before's has none", "nothing wrote it"
    assert "it changes x" in found(lambda x, y, z: x.zero_())


def test_the_order_of_atomics_widens_the_tolerance_by_its_spread(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(3)

    def noisy(x: Any, y: Any) -> None:
        y.copy_(x * 2 * (1 + 1e-4 * torch.randn(N, generator=noise)))

    bench = Bench(tmp_path, capture(tmp_path, x_and_y()), noisy)
    assert bench.first == 0.0
    assert isinstance(bench.check(noisy), float)
    assert isinstance(bench.check(lambda x, y: y.copy_(x * 2.01)), Wrong)


def test_whole_numbers_are_equal_or_wrong(tmp_path: Path) -> None:
    tensors = {"x": (torch.arange(N, dtype=torch.int32), "read"), "y": (torch.zeros(N, dtype=torch.int32), "written")}
    bench = Bench(tmp_path, capture(tmp_path, tensors), double)
    assert bench.check(double) == 0.0

    def one_off(x: Any, y: Any) -> None:
        double(x, y)
        y[5] += 1

    found = bench.check(one_off)
    assert isinstance(found, Wrong)
    assert "1 whole numbers differ" in found.detail


def test_a_launch_that_does_not_do_again_what_it_did_in_the_program_is_told(tmp_path: Path) -> None:
    tensors = x_and_y()
    kept = capture(tmp_path, tensors, after={"y": tensors["x"][0] * 7})
    found = Bench(tmp_path, kept, double).first
    assert isinstance(found, Wrong)
    assert "than in the program" in found.detail
    right = capture(tmp_path, tensors, after={"y": tensors["x"][0] * 2})
    assert Bench(tmp_path, right, double).first == 0.0


def test_bit_exact_and_tolerances_of_the_users_own(tmp_path: Path) -> None:
    kept = capture(tmp_path, x_and_y())
    exact = Bench(tmp_path, kept, double, Strictness(bit_exact=True))
    assert isinstance(exact.check(lambda x, y: y.copy_(x * 2.000001)), Wrong)
    assert exact.check(double) == 0.0
    loose = Bench(tmp_path, kept, double, Strictness(rtol=0.1))
    assert isinstance(loose.check(lambda x, y: y.copy_(x * 2.01)), float)
    assert isinstance(loose.check(lambda x, y: y.copy_(x * 3)), Wrong)


def test_beside_a_ratio_of_the_users_own_what_is_zero_may_be_off_by_its_dtype_s_rounding(tmp_path: Path) -> None:
    def cancelled(x: Any, y: Any) -> None:
        y.copy_(x - x)

    kept = capture(tmp_path, x_and_y())
    by_dtype = Bench(tmp_path, kept, cancelled, Strictness(rtol=0.1))
    assert isinstance(by_dtype.check(lambda x, y: y.copy_(x - x + 1e-6)), float)
    assert isinstance(by_dtype.check(lambda x, y: y.copy_(x - x + 1e-4)), Wrong)
    none = Bench(tmp_path, kept, cancelled, Strictness(rtol=0.1, atol=0.0))
    assert isinstance(none.check(lambda x, y: y.copy_(x - x + 1e-6)), Wrong)


def test_nan_of_befores_own_is_expected_and_no_other(tmp_path: Path) -> None:
    tensors = x_and_y()
    tensors["x"][0][:10] = float("nan")
    bench = Bench(tmp_path, capture(tmp_path, tensors), double)
    assert bench.check(double) == 0.0
    found = bench.check(lambda x, y: y.copy_(torch.where(x > 1, float("nan"), x * 2)))
    assert isinstance(found, Wrong)
    assert found.reason == "nan"


def test_a_storage_may_begin_anywhere(tmp_path: Path) -> None:
    kept = capture(tmp_path, x_and_y())
    import msgspec

    storages = tuple(msgspec.structs.replace(one, misaligned=4) for one in kept.storages)
    data = CapturedData(msgspec.structs.replace(kept, storages=storages), tmp_path, 0, "cpu", BY_DTYPE)
    tensors = data.make()
    assert all(tensor.data_ptr() % 16 == 4 for tensor in tensors.values())
    assert data.check(tensors, lambda: double(**tensors)) == 0.0
    assert numpy.isfinite(tensors["x"].numpy()).all()
