"""What `fusetune tune` does beside tuning: apply a profile to the kernels, and say what a prediction goes by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from fusetune.cli.shown import echo
from fusetune.core.text import printable

if TYPE_CHECKING:
    from fusetune.capture.cases import Case, Looked
    from fusetune.core.config import Config
    from fusetune.core.diagnosis import Diagnosis
    from fusetune.core.target import Target
    from fusetune.tune.explained import Explanation
    from fusetune.tune.profiles import Applied, Profile
    from fusetune.tune.program import Tuned
    from fusetune.tune.request import SweepRequest, SweepResult


class Explainer:
    """Goes along with the tuning of a program's cases. `target` is the GPU to predict for; None where one is here."""

    def __init__(self, file: Path | None, target: Target | None) -> None:
        """Read the file of a profile, before the program runs. Raises UsageError, which names it and what to do."""
        self._profile: Profile | None = None
        if file is not None:
            from fusetune.tune.profiles import read_profile

            self._profile = read_profile(file)
        self._target = target
        self._gpu: str | None = None
        self._applied: Mapping[int, Applied] = {}
        self._limits: dict[int, Diagnosis] = {}
        self._explanations: dict[int, Explanation] = {}
        self._arguments: dict[int, dict[Config, Mapping[str, Any]]] = {}

    def match(self, cases: Sequence[Case], looked: Looked) -> None:
        """Find what of the profile is of which case, by its number from 1 on.

        Raises UsageError where nothing of it is, or too little.
        """
        self._gpu = looked.gpu
        if self._profile is not None and not (looked.failed and not cases):
            from fusetune.tune.profiles import applied

            found = applied(self._profile, cases, looked.cases)
            without = [case.kernel.name for place, case in enumerate(cases) if place not in found]
            if without:
                names = ", ".join(dict.fromkeys(without))
                echo(printable(f"note: {self._profile.path} has nothing of {names}"), err=True)
            self._applied = {place + 1: one for place, one in found.items()}

    def running(self, number: int, run: Callable[[SweepRequest], SweepResult]) -> Callable[[SweepRequest], SweepResult]:
        """Run as `run` does, with the profile's say before and the explanation after, for the case of a number."""

        def run_explained(request: SweepRequest) -> SweepResult:
            self.limit(number, request)
            result = run(request)
            if self._target is not None:
                self._explain(number, request, result, self._target)
            return result

        return run_explained

    def told(self, number: int, tuned: Tuned) -> Tuned:
        """What became of a case, with what is known beside."""
        return structs.replace(
            tuned,
            explanation=self._explanations.get(number),
            profile=self._limits.get(number),
            arguments={**tuned.arguments, **self._arguments.get(number, {})},
        )

    def limit(self, number: int, request: SweepRequest, here: Target | None = None) -> None:
        """Tell a case's request what the profile says limits it, where it has the case.

        `here` is the GPU that it runs on, where that is known; else it is asked.
        """
        if number not in self._applied:
            return
        from fusetune.capture.spec import CapturedSpec
        from fusetune.measure.cuda import likely_target
        from fusetune.tune.profiles import limit_of

        target = self._target or here or likely_target() or self._of_name()
        if target is None or not isinstance(request.spec, CapturedSpec):
            echo("warning: --ncu is left out: the table of targets has no row for the GPU here", err=True)
            return
        found = self._limits[number] = limit_of(request.spec, self._applied[number], target)
        request.spec.profiled = found.bound

    def _of_name(self) -> Target | None:
        """The table's row for the GPU that the program ran on, where its name is that of one row alone."""
        from fusetune.core.target import known_targets
        from fusetune.core.text import slugify

        named = [one for one in known_targets() if self._gpu is not None and slugify(one.name) == slugify(self._gpu)]
        return named[0] if len(named) == 1 else None

    def _explain(self, number: int, request: SweepRequest, result: SweepResult, target: Target) -> None:
        from fusetune.capture.spec import CapturedSpec
        from fusetune.tune.explained import explained

        limit = self._limits.get(number)
        file = str(self._applied[number].path) if limit is not None else None
        found = explained(request, result, target, limit, file)
        if found is None:
            return
        self._explanations[number] = found
        if isinstance(request.spec, CapturedSpec):
            proposed = [made.config for made in found.to_try()]
            self._arguments[number] = {config: request.spec.arguments(config) for config in proposed}
