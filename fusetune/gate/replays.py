"""Captured kernels on a GPU: their captures launched again, by the kernel as it is now, beside Before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fusetune.capture.from_source import KernelSource, NoKernel
from fusetune.capture.oracle import Strictness
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import SAFE_STAGES, SAFE_WARPS, Config, with_options
from fusetune.core.problem import NamedProblem, Problem
from fusetune.errors import CaptureError, UnsupportedProblemError
from fusetune.gate.drift import METRICS
from fusetune.gate.findings import Check, Outcome, without_kernel
from fusetune.gate.pins import pins_path, read_pins
from fusetune.ops.parameters import unfit
from fusetune.ops.refusals import CannotLaunchError
from fusetune.store.schema import ConfigFile, Entry


class ReplayedSpec(CapturedSpec):
    """A capture as an entry's op: its problem is the entry's, and Before what ran before that was tuned.

    The program may run the entry's config by now. `here` is the kernel as it is now, None where that is the capture's
    own; `there` launches a config that is `elsewhere`: the kernel of another revision. With `held_to_capture` it is the
    capture's own kernel that launches Before, so that what the one of now gives has to be the same.
    """

    def __init__(
        self,
        folder: Path,
        problem: Problem,
        before: Config,
        *,
        here: KernelSource | None = None,
        there: KernelSource | None = None,
        held_to_capture: bool = False,
    ) -> None:
        super().__init__(folder)
        self._problem, self._before = problem, before
        self._here, self._there, self._held = here, there, held_to_capture

    def captured_problem(self) -> NamedProblem:
        """See CapturedSpec: the entry's."""
        assert isinstance(self._problem, NamedProblem), "captured kernels have named values"
        return self._problem

    def check(self, problem: Any) -> None:
        """See KernelSpec."""
        if self.kept.unlaunchable is not None:
            raise UnsupportedProblemError(f"{self.name} cannot be launched again: {self.kept.unlaunchable}")

    def before(self, problem: Any) -> Config:
        """See KernelSpec."""
        return self._before.elsewhere() if self._held else self._before

    def baseline(self, problem: Any) -> Config:
        """See KernelSpec: 4 warps and 2 stages at the constants that ran before."""
        return with_options(self._before, num_warps=SAFE_WARPS, num_stages=SAFE_STAGES)

    def source_hash(self, config: Any = None) -> str:
        """See KernelSpec: of the kernel as it is now."""
        return super().source_hash(config) if self._here is None else self._here.source_hash

    def kernel(self, config: Any) -> Any:
        """See CapturedSpec. Raises CannotLaunchError where the kernel takes other arguments than were captured."""
        chosen = self._here if not config.is_elsewhere else None if self._held else self._there
        if chosen is None:
            return super().kernel(config)
        kernel = chosen.load()
        why = unfit(kernel, self.kept.arguments)
        if why is not None:
            raise CannotLaunchError(why)
        return kernel

    def arguments(self, config: Any) -> dict[str, Any]:
        """See CapturedSpec."""
        return super().arguments(config.here() if config.is_elsewhere else config)


class Replays:
    """The captures there are, by what they are of, with the kernels as they are now and those of another revision.

    `here` and `there` have them by the files of configs; without `here` the captures are of now. `vouched`: kernels
    whose user answers for results that differ from run to run, by names with wildcards.
    """

    def __init__(
        self,
        captures: Iterable[Path],
        here: Mapping[Path, KernelSource | NoKernel] | None = None,
        there: Mapping[Path, KernelSource | NoKernel] | None = None,
        vouched: Sequence[str] = (),
    ) -> None:
        self._here, self._there, self._vouched = here, there or {}, tuple(vouched)
        self._of_op: defaultdict[str, list[CapturedSpec]] = defaultdict(list)
        for folder in captures:
            try:
                spec = CapturedSpec(folder)
            except CaptureError:
                continue  # Another one may do.
            self._of_op[spec.name].append(spec)

    def spec_of(
        self, path: Path, file: ConfigFile, entry: Entry, check: Check, there_name: str
    ) -> ReplayedSpec | Outcome:
        """What an entry is measured with, or what is found instead; `there_name` is the other revision's."""
        try:
            here = self._kernel_of(path, entry)
            spec, before = self._capture_of(path, file, entry)
            there = self._other_of(path, there_name) if check == "against" else None
        except _NotMeasuredError as error:
            return error.outcome
        # A number that the kernel's module holds may have changed, too, of which the hash knows nothing.
        held = here is not None and there is None
        made = ReplayedSpec(spec.folder, entry.problem, before, here=here, there=there, held_to_capture=held)
        name = spec.kept.case.kernel.name
        made.strictness = Strictness(vouched=any(fnmatchcase(name, glob) for glob in self._vouched))
        return made

    def _kernel_of(self, path: Path, entry: Entry) -> KernelSource | None:
        """The kernel as it is now; None where that of the capture is launched."""
        here = self._here.get(path) if self._here is not None else None
        if isinstance(here, NoKernel) and not here.never:
            raise _NotMeasuredError(without_kernel(here, entry))
        return here if isinstance(here, KernelSource) else None

    def _capture_of(self, path: Path, file: ConfigFile, entry: Entry) -> tuple[CapturedSpec, Config]:
        """The capture of an entry's launch, and what ran before that was tuned."""
        before = _before_of(path, entry)
        found = next((one for one in self._of_op.get(file.op, ()) if is_of(one, entry, before)), None)
        if found is None:
            why = "the program makes no such launch" if self._here is None else "no capture of this launch is kept here"
            told = f"{why}; `--program` captures a program anew, `fusetune capture --keep` for later"
            raise _NotMeasuredError(("inconclusive", told))
        if found.kept.unlaunchable is not None:
            raise _NotMeasuredError(("not_gated", f"it cannot be launched again: {found.kept.unlaunchable}"))
        before = before or _runs(found)
        if before == entry.config:
            told = "the program runs it by now, and no pin says what ran before: tune again"
            raise _NotMeasuredError(("inconclusive", told))
        unknown = next((one for one in (entry.config, before) if not found.takes(one)), None)
        if unknown is not None:
            told = f"what the program would launch with {unknown.label()} is not known: tune again"
            raise _NotMeasuredError(("inconclusive", told))
        return found, before

    def _other_of(self, path: Path, name: str) -> KernelSource:
        there = self._there.get(path)
        if isinstance(there, KernelSource):
            return there
        why = f" ({there.why})" if there is not None else ""
        raise _NotMeasuredError(("not_gated", f"{name} has no such kernel to compare with{why}"))


class _NotMeasuredError(Exception):
    """What is found of an entry that cannot be measured."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome[1])
        self.outcome = outcome


def is_of(spec: CapturedSpec, entry: Entry, before: Config | None) -> bool:
    """Whether a capture is of an entry's problem, whatever config its program ran then."""
    if spec.captured_problem() == entry.problem:
        return True
    reference = before or entry.before
    return reference is not None and spec.problem_before(reference) == entry.problem


def _before_of(path: Path, entry: Entry) -> Config | None:
    """What ran before an entry was tuned, as the entry or its pin says; None where neither does."""
    if entry.before is not None:
        return entry.before
    pins = read_pins(pins_path(path), METRICS)
    pinned = pins.of(entry.problem, entry.config) if pins is not None else []
    return next((pin.before for pin in pinned if pin.before is not None), None)


def _runs(spec: CapturedSpec) -> Config:
    """What the program of a capture ran."""
    problem = spec.captured_problem()
    return spec.before(problem) or spec.baseline(problem)
