"""The tensors of a captured launch, and what says that another config's result in them is right: Before's own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusetune.capture.guarded import GUARD, StorageSet, bytes_of, checksum
from fusetune.capture.kept import KERNELS, Kept, TensorKept, TypeKept, named_tensors
from fusetune.capture.restore import make_storage, tensor_of, type_of
from fusetune.measure.own_data import Wrong

if TYPE_CHECKING:
    import torch

_POISON: Final = 0xFF
"""Bytes that are NaN in every float and -1 in every integer."""
_CHUNK: Final = 1 << 24
"""Elements that are compared at a time, so that comparing takes little memory beside the tensors."""
SPREAD_LIMIT: Final = 0.05
"""Two runs of Before that differ by more have no result that others could be compared with."""
OF_SPREAD: Final = 4.0
"""A candidate may lie so many times as far off as two runs of Before lie apart."""
RUNS: Final = 3
"""Of Before, on the same state: what they differ by is its spread."""

FROBENIUS: Final[Mapping[str, float]] = {
    "float64": 1e-10,
    "float32": 1e-5,
    "float16": 1e-3,
    "bfloat16": 5e-3,
    "float8_e4m3fn": 0.06,
    "float8_e5m2": 0.12,
}
"""The most that all elements together may differ by, where a result is right: for narrow floats what rounding to them
errs by once more, and for float32 what another order of some thousand sums does."""
TENSOR_CORES: Final = 1e-3
"""The same for float32 where tensor cores multiply: operands are rounded to TF32, in another tile another number."""
MAXIMUM: Final = 40.0
"""Times these: what a single element may be off by, in the root mean square of what Before writes."""


class Strictness(NamedTuple):
    """How close a result has to be: bit for bit, or by tolerances as in torch.allclose; by its dtype without them.

    `vouched`: a user answers for what differs from run to run; of that only guards and NaN are looked at.
    """

    bit_exact: bool = False
    rtol: float | None = None
    atol: float | None = None
    vouched: bool = False


BY_DTYPE: Final = Strictness()
_ATOL: Final = {"float64": 1e-7}
_USUAL_ATOL: Final = 1e-5
"""Both as in torch.testing.assert_close."""


class CapturedData:
    """The storages of a capture on one device, each between guard bytes, and Before's results on them.

    See measure/own_data.py. What is drawn of a distribution depends on `seed`. The first `check` runs Before several
    times: two runs that do not come to the same have to agree within SPREAD_LIMIT, or nothing can be compared.
    """

    def __init__(self, kept: Kept, folder: Path, seed: int, device: Any, strictness: Strictness) -> None:
        import torch

        self._torch = torch
        self._kept, self._folder, self._strict = kept, folder, strictness
        self._device = torch.device(device)
        self._seed = seed
        self.set_bytes = sum(storage.size for storage in kept.storages)
        self._kinds = _kinds(kept)
        self._multiplies = multiplies(folder)
        self.changes_inputs = any(kind == "state" for kind in self._kinds)
        self._first: StorageSet | None = None
        self._pristine: dict[int, torch.Tensor] = {}
        self._expected: dict[int, torch.Tensor] = {}
        self._spread: dict[int, tuple[float, float]] = {}
        self._sums: dict[int, int] = {}
        self._vouched: set[int] = set()
        self._guards_kept = True
        self._sets: dict[int, StorageSet] = {}

    def make(self) -> dict[str, Any]:
        """See OwnData. All sets hold the same, so that what is right for one is right for all."""
        if self._first is None:
            made = self._first = StorageSet(self._kept, self._device, GUARD, self._kept_storage)
            for number, kind in enumerate(self._kinds):
                if kind != "read":
                    self._pristine[number] = made.storages[number].clone()
        else:
            first = self._first
            made = StorageSet(
                self._kept, self._device, 0, lambda number: self._pristine.get(number, first.storages[number])
            )
        tensors = _tensors_on(self._kept, made.storages)
        self._sets[id(next(iter(tensors.values()), None))] = made
        return tensors

    def _kept_storage(self, number: int) -> torch.Tensor:
        """The bytes of a storage as they were kept; what was kept as a distribution is drawn alike each time."""
        generator = self._torch.Generator(device=self._device).manual_seed(self._seed + number)
        return make_storage(self._kept.storages[number], self._folder, self._device, generator)

    def put_back(self, tensors: Mapping[str, Any]) -> None:
        """See OwnData."""
        held = self._sets[id(next(iter(tensors.values()), None))]
        for number, kind in enumerate(self._kinds):
            if kind == "state":
                held.storages[number].copy_(self._pristine[number])

    def check(self, tensors: Mapping[str, Any], run: Callable[[], None]) -> float | Wrong:
        """See OwnData."""
        try:
            return self._compared(run) if self._expected or self._sums else self._established(run)
        finally:
            self._renew()

    # Before's own results.

    def _established(self, run: Callable[[], None]) -> float | Wrong:
        """Run Before, and keep what it comes to; its error is 0."""
        first = self._held()
        self._sums = {
            number: checksum(first.storages[number]) for number, kind in enumerate(self._kinds) if kind == "read"
        }
        self._renew()
        run()
        self._synchronize()
        self._guards_kept = first.guards_are_whole()
        changed_inputs = [number for number in self._sums if checksum(first.storages[number]) != self._sums[number]]
        if changed_inputs:
            return Wrong("not_checkable", f"{self._name(changed_inputs[0])} is read by the kernel's code, and changed")
        plain = self._written()
        for number, wrong in self._unlike_the_program(plain):
            if not self._strict.vouched:
                return wrong
            self._vouched.add(number)
        runs = [plain]
        for _ in range(RUNS - 1):
            self._renew()
            run()
            self._synchronize()
            runs.append(self._written())
        for number in plain:
            spread = self._spread_of(number, [one[number] for one in runs])
            if not isinstance(spread, Wrong):
                self._spread[number] = spread
            elif self._strict.vouched:
                self._vouched.add(number)
            else:
                return spread
        del runs
        poisoned = self._poisoned(run)
        for number, result in poisoned.items():
            if number in self._vouched:
                continue
            if self._reads_what_it_writes(number, plain[number], result):
                self._kinds[number] = "state"
                self.changes_inputs = True
            else:
                plain[number] = result
        self._expected = plain
        return 0.0

    def _poisoned(self, run: Callable[[], None]) -> dict[int, torch.Tensor]:
        """What Before leaves of outputs that are poisoned: where it writes nothing, the poison."""
        if "output" not in self._kinds:
            return {}
        self._renew(poison=True)
        run()
        self._synchronize()
        written = self._written()
        return {number: written[number] for number, kind in enumerate(self._kinds) if kind == "output"}

    def _reads_what_it_writes(self, number: int, plain: torch.Tensor, poisoned: torch.Tensor) -> bool:
        """Whether an output depends on what was in it: then poison is no test but another input."""
        where = poisoned != _POISON
        if bool((~where & (plain != _POISON) & (plain != self._pristine[number])).any()):
            return True  # NaN in, NaN out
        same = plain == poisoned
        if bool((same | ~where).all()):
            return False
        found = self._difference(number, poisoned, plain, where_written=where)
        frobenius, maximum = self._allowed(number)
        return isinstance(found, Wrong) or found[0] > frobenius or found[1] > maximum

    def _unlike_the_program(self, results: Mapping[int, torch.Tensor]) -> Iterator[tuple[int, Wrong]]:
        """Where Before's result here is another than it was in the program, if all that it reads was kept."""
        if any(kept.how == "sampled" for kept in self._kept.storages):
            return
        for number, result in results.items():
            after = self._kept.storages[number].after
            if after is None:
                continue
            recorded = bytes_of(self._folder / after, self._device)
            if recorded.numel() != result.numel() or bool((recorded == result).all()):
                continue
            found = self._difference(number, result, recorded)
            if isinstance(found, Wrong) or found[0] > SPREAD_LIMIT:
                told = found.detail if isinstance(found, Wrong) else f"it is {found[0]:.1e} off"
                yield (
                    number,
                    Wrong(
                        "not_checkable",
                        f"launched again, Before gives another {self._name(number)} than in the program ({told}): a "
                        "random stream, a race, or something that it reads was not captured",
                    ),
                )

    def _spread_of(self, number: int, runs: list[torch.Tensor]) -> tuple[float, float] | Wrong:
        """By how much several runs of Before differ: relative error, and the largest of an element."""
        worst = (0.0, 0.0)
        for other in runs[1:]:
            if bool((runs[0] == other).all()):
                continue
            found = self._difference(number, other, runs[0])
            if isinstance(found, Wrong) or found[0] > SPREAD_LIMIT:
                told = found.detail if isinstance(found, Wrong) else f"by {found[0]:.1e}"
                return Wrong("not_checkable", f"two runs of Before differ in {self._name(number)}: {told}")
            worst = max(worst[0], found[0]), max(worst[1], found[1])
        return worst

    # Candidates.

    def _compared(self, run: Callable[[], None]) -> float | Wrong:
        held = self._held()
        self._renew(poison=True)
        run()
        self._synchronize()
        # Each is mended, whatever else is wrong: the next candidate is not to answer for it.
        changed = [number for number, before in self._sums.items() if checksum(held.storages[number]) != before]
        for number in changed:
            held.storages[number].copy_(self._kept_storage(number))
        if self._guards_kept and not held.guards_are_whole():
            return Wrong("wrong_result", f"it writes outside of {held.broken_guard(self._name)}")
        if changed:
            return Wrong("wrong_result", f"it changes {self._name(changed[0])}, which Before only reads")
        worst = 0.0
        for number, expected in self._expected.items():
            result = held.storages[number]
            if bool((result == expected).all()):
                continue
            vouched = number in self._vouched
            found = self._nan_alone(number, result, expected) if vouched else self._judged(number, result, expected)
            if isinstance(found, Wrong):
                return found
            worst = max(worst, found)
        return worst

    def _nan_alone(self, number: int, result: torch.Tensor, expected: torch.Tensor) -> float | Wrong:
        """Whether a result that nobody can compare has NaN, where Before had none at all."""
        for mine, theirs in self._elements(number, result, expected):
            if mine.dtype.is_floating_point and bool(mine.isnan().any()) and not bool(theirs.isnan().any()):
                return Wrong("nan", f"{self._name(number)} has NaN, and Before's has none")
        return 0.0

    def _judged(self, number: int, result: torch.Tensor, expected: torch.Tensor) -> float | Wrong:
        name = self._name(number)
        if self._strict.bit_exact:
            count = int((result != expected).sum())
            return Wrong("wrong_result", f"{name}: {count:,} bytes differ, and --bit-exact allows none")
        if self._strict.rtol is not None or self._strict.atol is not None:
            return self._close(number, result, expected)
        found = self._difference(number, result, expected)
        if isinstance(found, Wrong):
            return found
        frobenius, maximum = self._allowed(number)
        if found[0] > frobenius or found[1] > maximum:
            return Wrong(
                "wrong_result",
                f"{name}: relative error {found[0]:.2e} (allowed {frobenius:.1e}), largest {found[1]:.2e} of the rms "
                f"(allowed {maximum:.1e})",
            )
        return found[0]

    def _close(self, number: int, result: torch.Tensor, expected: torch.Tensor) -> float | Wrong:
        """As torch.allclose has it, for the tolerances that were asked for."""
        rtol, worst = self._strict.rtol or 0.0, 0.0
        for mine, theirs in self._elements(number, result, expected):
            if not mine.dtype.is_floating_point:
                if bool((mine != theirs).any()):
                    return Wrong("wrong_result", f"{self._name(number)}: whole numbers differ")
                continue
            atol = self._strict.atol
            if atol is None:  # Zeros are as far off as rounding makes them, whatever is said of the others.
                atol = _ATOL.get(str(mine.dtype).removeprefix("torch."), _USUAL_ATOL)
            a, b = mine.double(), theirs.double()
            near = self._torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
            if not bool(near.all()):
                count = int((~near).sum())
                return Wrong(
                    "wrong_result",
                    f"{self._name(number)}: {count:,} elements differ by more than rtol {rtol:g} and "
                    f"atol {atol:g} allow",
                )
            worst = max(worst, float((a - b).nan_to_num(0.0, 0.0, 0.0).abs().max()))
        return worst

    def _difference(
        self, number: int, result: torch.Tensor, expected: torch.Tensor, where_written: torch.Tensor | None = None
    ) -> tuple[float, float] | Wrong:
        """Relative Frobenius error and largest error over the rms, both over what Before changed; or why not.

        `where_written` leaves out bytes that are false in it.
        """
        torch, name = self._torch, self._name(number)
        # What was in an output before counts for nothing, were it the very result.
        start = self._pristine[number] if self._kinds[number] == "state" else None
        squares = norm = largest = 0.0
        count = 0
        asked = [result, expected, expected if start is None else start]
        asked += [] if where_written is None else [where_written.to(torch.uint8)]
        for mine, theirs, before, *where in self._elements(number, *asked):
            if not mine.dtype.is_floating_point:
                unlike = mine != theirs
                if where:
                    unlike &= where[0] != 0
                if bool(unlike.any()):
                    return Wrong("wrong_result", f"{name}: {int(unlike.sum()):,} whole numbers differ")
                continue
            a, b = mine.double(), theirs.double()
            nan_a, nan_b = a.isnan(), b.isnan()
            if where:
                inside = where[0].double() != 0
                a, b = torch.where(inside, a, 0.0), torch.where(inside, b, 0.0)
                nan_a, nan_b = nan_a & inside, nan_b & inside
            if bool((nan_a & ~nan_b).any()):
                return Wrong("nan", f"{name} has NaN where Before has none, or elements that nothing wrote")
            if bool((nan_b & ~nan_a).any()):
                return Wrong("wrong_result", f"it writes elements of {name} that Before leaves alone, or that are NaN")
            same = (a == b) | nan_a
            difference = torch.where(same, 0.0, a - b)
            if not bool(difference.isfinite().all()):
                return Wrong("wrong_result", f"{name} has other infinities than Before's")
            touched = b.isfinite() if start is None else (b != before.double()) & b.isfinite()
            squares += float((difference * difference).sum())
            largest = max(largest, float(difference.abs().max())) if difference.numel() else largest
            held = torch.where(touched, b, 0.0)
            norm += float((held * held).sum())
            count += int(touched.sum())
        if norm == 0.0:
            return (0.0, 0.0) if squares == 0.0 or largest < _TINY else (math.inf, math.inf)
        return math.sqrt(squares / norm), largest / math.sqrt(norm / max(1, count))

    def _allowed(self, number: int) -> tuple[float, float]:
        base = self._rounding(number)
        spread = self._spread.get(number, (0.0, 0.0))
        return max(base, OF_SPREAD * spread[0]), max(MAXIMUM * base, OF_SPREAD * spread[1])

    def _rounding(self, number: int) -> float:
        """What right results may differ by: rounding to their dtype, and to those of what tensor cores multiply.

        A float32 result of float16 products rounds where these do: in another tile, in another place.
        """
        own = FROBENIUS.get(self._dtype(number))
        if own is None or not self._multiplies:
            return own or 0.0
        read = [FROBENIUS[one.dtype] for one in _tensors(self._kept) if one.dtype in _MULTIPLIED]
        return max([own, TENSOR_CORES, *read])

    # Storages.

    def _elements(self, number: int, *storages: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Storages as elements of their dtype, a chunk at a time; what is left over at the end as bytes."""
        dtype = getattr(self._torch, self._dtype(number))
        if dtype is self._torch.bool:
            dtype = self._torch.uint8
        size = dtype.itemsize
        whole = storages[0].numel() // size * size
        views = [
            one[:whole].view(dtype) if one.data_ptr() % size == 0 else one[:whole].clone().view(dtype)
            for one in storages
        ]
        for at in range(0, whole // size, _CHUNK):
            yield tuple(view[at : at + _CHUNK] for view in views)
        if whole < storages[0].numel():
            yield tuple(one[whole:] for one in storages)

    def _dtype(self, number: int) -> str:
        return next((one.dtype for one in _tensors(self._kept) if one.storage == number), "uint8")

    def _name(self, number: int) -> str:
        named = named_tensors(self._kept)
        return next((name for name, one in named.items() if one.storage == number), f"storage {number}")

    def _held(self) -> StorageSet:
        assert self._first is not None, "a set is made first"
        return self._first

    def _written(self) -> dict[int, torch.Tensor]:
        """Copies of what the kernel may have written to."""
        held = self._held()
        return {number: held.storages[number].clone() for number in self._pristine}

    def _renew(self, *, poison: bool = False) -> None:
        """The first set as it was before the launch, guard bytes too; outputs poisoned where that is asked for."""
        held = self._held()
        for number, before in self._pristine.items():
            if poison and self._kinds[number] == "output":
                held.storages[number].fill_(_POISON)
            else:
                held.storages[number].copy_(before)
        held.guard()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)


_DOT: Final = re.compile(r"\bdot(?:_scaled)?\(|wgmma|\bmma\b")
_TINY: Final = 1e-30
_MULTIPLIED: Final = frozenset({"float16", "bfloat16"})


def _kinds(kept: Kept) -> list[str]:
    """Of each storage: `read` where no tensor of it is written, `output` where all are only written, else `state`."""
    roles = kept.case.roles
    kinds = []
    for number in range(len(kept.storages)):
        does = {roles.get(name, "both") for name, one in named_tensors(kept).items() if one.storage == number}
        if does <= {"read", "unused"}:
            kinds.append("read")
        else:
            kinds.append("output" if does <= {"written", "unused"} else "state")
    return kinds


def _tensors_on(kept: Kept, storages: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The launch's tensors by the names of its arguments, as the launch saw them but for descriptors."""
    made = {}
    for name, one in named_tensors(kept).items():
        tensor = tensor_of(one, storages[one.storage])
        if one.read_as is not None:
            from triton import reinterpret

            tensor = reinterpret(tensor, type_of(TypeKept(one.read_as)))
        made[name] = tensor
    return made


def multiplies(folder: Path) -> bool:
    """Whether the kernel, or what it calls, multiplies matrices."""
    return any(_DOT.search(path.read_text(encoding="utf-8")) for path in (folder / KERNELS).glob("*.py"))


def _tensors(kept: Kept) -> list[TensorKept]:
    return list(named_tensors(kept).values())
