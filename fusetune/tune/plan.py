"""From a space to what may be tried: reject by numbers, leave out what is predicted to be slow, begin to compile."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fusetune.compiler.pool import Compiled, Job, compile_jobs
from fusetune.core.config import Config
from fusetune.core.decision import reference_name
from fusetune.core.resources import Resources, occupancy
from fusetune.core.rules import Proposal, propose
from fusetune.core.space import Rejection
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.errors import CompileError, ConfigFileError, FusetuneError, OpError, UsageError
from fusetune.ops.spec import KernelSpec
from fusetune.store.journal import Status
from fusetune.store.paths import config_path, reachable_search_path
from fusetune.store.regular import is_folder, is_regular
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.log import RunLog
from fusetune.tune.outlook import kinds_of, pilots_of
from fusetune.tune.request import SweepRequest
from fusetune.units import format_us

PRIOR_LIMIT = 2.5
"""What is predicted to take more than so many times the best predicted time is not compiled.

In six sweeps that skipped nothing (an H200, the first kernels alone), what screening timed within 3 % of the fastest
was predicted at 1.25 times the best predicted time or less, and at 1.20 among the 4-warp / 2-stage candidates; in nine
of all kernels that skipped nothing, at 1.18 and 1.47. In 69 sweeps of today's kernels on an H200, which skipped what
this says, it was 1.26 and 1.52 (`python benchmarks/prediction.py`)."""
PRIOR_MOST = 480
"""Nor is what so many others are predicted to beat. In those sweeps the fastest was among the first 73 predicted."""
PRIOR_MOST_CONSERVATIVE = 96
"""The same among the 4-warp / 2-stage candidates."""
PRIOR_PART = 3
"""Of the candidates that can run, one in so many is compiled at most, a fifth of those 4-warp / 2-stage ones."""
PRIOR_SPARES = 32
"""So many candidates, or fewer, are all compiled: leaving some out would save nothing."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be tried on `target`, in this order, the reference first; the rest, with the reason why it is not.

    `rejected` cannot run; `skipped` could, and is predicted to be slow. `references` are a library's configs, which are
    compiled and checked too, and take no part in screening. `predicted_before` comes next in `configs`: a prediction
    for this problem and GPU that was written earlier. `pilots` are compiled before the others, of which those are left
    out then that cannot win any more, by their `predicted` times (outlook.py); without pilots, all are tried.
    """

    target: Target
    configs: tuple[Config, ...]
    rejected: Mapping[Config, Rejection]
    skipped: Mapping[Config, Rejection]
    references: tuple[Config, ...] = ()
    predicted_before: Config | None = None
    pilots: tuple[Config, ...] = ()
    predicted: Mapping[Config, float] = {}

    @property
    def compiled(self) -> tuple[Config, ...]:
        """What is to be compiled, in this order."""
        return tuple(dict.fromkeys((*self.configs[:1], *self.pilots, *self.configs, *self.references)))


def check_output(path: Path) -> None:
    """Raise ConfigFileError at once, not after minutes of work, where an entry could not be put into this file."""
    if os.access(path, os.F_OK):
        read_config_file(path)
    check_folder(path)


def check_folder(path: Path) -> None:
    """Raise ConfigFileError where the folder that a file is to be written to, or made in, may not be written to."""
    try:
        folder = next(parent for parent in path.absolute().parents if os.access(parent, os.F_OK))
    except OSError as error:
        raise ConfigFileError(
            f"cannot write {path}: the working directory has been removed; change to another"
        ) from error
    if not is_folder(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigFileError(f"cannot write {path}: {folder} is not a folder that you may write to; choose another")


def plausible(
    request: SweepRequest, target: Target, also: Sequence[Config] = ()
) -> tuple[list[Config], dict[Config, Rejection]]:
    """The candidates that the op lets through, the reference first, and the others with their reason.

    `also` are candidates beside those of the space.
    """
    passed: list[Config] = []
    rejected: dict[Config, Rejection] = {}
    spec, problem, reference = request.spec, request.problem, request.reference
    if request.space == "rules":
        configs = proposed_by_rules(request, target)
    else:
        configs = spec.candidates(problem, target, request.space)
    if request.before is not None:
        configs = (reference, request.baseline, *configs)
    for config in dict.fromkeys((*configs, *also)):
        rejection = spec.reject(config, problem, target)
        if rejection is None:
            passed.append(config)
        elif config == reference:
            raise without_reference(request, rejection, target)
        else:
            rejected[config] = rejection
    return passed, rejected


def make_plan(request: SweepRequest, target: Target) -> Plan:
    """The candidates that are worth compiling, the best predicted first.

    One is skipped that is predicted to take more than PRIOR_LIMIT times the best predicted time, or that PRIOR_MOST
    others are predicted to beat; a 4-warp / 2-stage one only where that is so among its own kind, since the fastest of
    them is a reference. Nothing is skipped without `request.prior`, and where the target's peaks are unknown nothing
    can be predicted. The config of a predicted entry comes first after the reference, and is never skipped. Nor is
    BASELINE, where Before is that.
    """
    passed, rejected = plausible(request, target)
    begin = predicted_before(request, target, passed, rejected)
    if begin is not None and begin not in passed:
        passed.append(begin)
    references = references_of(request.spec, request.problem)
    predicted, first = predictions(request, passed, target), (request.reference, request.baseline)

    def place(config: Config) -> tuple[bool, ...]:
        return (*(config != one for one in first), config != begin)

    if not request.prior or not predicted:
        return Plan(target, tuple(sorted(passed, key=place)), rejected, {}, references, begin)
    order = sorted(passed, key=lambda config: (place(config), predicted[config]))
    if len(order) <= PRIOR_SPARES:
        return Plan(target, tuple(order), rejected, {}, references, begin)
    skipped = predicted_slow(order, predicted, {*first, begin})
    chosen = tuple(config for config in order if config not in skipped)
    pilots = pilots_of(chosen, kinds_of(request.spec, request.problem))
    return Plan(target, chosen, rejected, skipped, references, begin, pilots, predicted)


def predictions(request: SweepRequest, configs: Iterable[Config], target: Target) -> dict[Config, float]:
    """The predicted microseconds of each; empty where the op has no cost model, or the table lacks a figure for it."""
    try:
        found = {config: request.spec.estimate(config, request.problem, target) for config in configs}
    except OpError:
        raise
    except UsageError:
        return {}
    times = {config: estimate.time_us for config, estimate in found.items() if estimate is not None}
    return times if len(times) == len(found) else {}


def predicted_slow(
    order: Sequence[Config], predicted: Mapping[Config, float], never: Collection[Config | None]
) -> dict[Config, Rejection]:
    """What the prior leaves out of `order`, which goes on from the best predicted time; `never` those."""
    safe = [config for config in order if config.is_conservative]
    third = max(PRIOR_SPARES, len(order) // PRIOR_PART)
    most_safe = min(PRIOR_MOST_CONSERVATIVE, third // 5)
    skipped: dict[Config, Rejection] = {}
    for kind, most in ((order, min(PRIOR_MOST, third - most_safe)), (safe, most_safe)):
        best_us = min(predicted[config] for config in kind)
        for place, config in enumerate(kind):
            skipped.pop(config, None)  # A 4-warp / 2-stage one is judged by its own kind, which comes last.
            if config not in never and (place >= most or predicted[config] > PRIOR_LIMIT * best_us):
                told = f"predicted {format_us(predicted[config])}, the best {format_us(best_us)}"
                skipped[config] = Rejection("predicted_slow", told)
    return skipped


def predicted_before(
    request: SweepRequest, target: Target, passed: Collection[Config], rejected: Collection[Config]
) -> Config | None:
    """The config that a predicted entry holds for this very problem on this GPU, in the output folder or shipped.

    The op is asked about it only where it is none of the candidates, of which `passed` and `rejected` say all.
    None in a space that was chosen to be small, for a config that cannot run or that the op does not list, and without
    `request.prior`. A file that cannot be read has no say.
    """
    if request.space in {"rules", "seed"} or not request.prior:
        return None
    folders, _ = reachable_search_path()
    for root in dict.fromkeys((request.output, *folders)):
        path = config_path(root, target.name, request.spec.name)
        try:
            entries = read_config_file(path).entries if is_regular(path) else ()
        except ConfigFileError:
            continue
        for entry in entries:
            if entry.problem == request.problem and entry.evidence == "predicted":
                config = entry.config
                if config in passed or config in rejected:
                    return config if config in passed else None
                runs = request.spec.reject(config, request.problem, target) is None
                return config if runs and config in request.spec.candidates(request.problem, target, "full") else None
    return None


def references_of(spec: KernelSpec, problem: Any) -> tuple[Config, ...]:
    """What the op offers of a library. Raises UsageError where that does not call itself so."""
    references = spec.references(problem)
    for config in references:
        if not config.is_library:
            raise UsageError(f"{spec.name} names {config.label()} as a reference, which is no library's (`is_library`)")
    return references


def proposed_by_rules(request: SweepRequest, target: Target) -> tuple[Config, ...]:
    """What the conditional rules leave to try, from BASELINE compiled for `target`.

    Raises CompileError where it does not compile, MachineError or UsageError where the machine does not let it.
    """
    compiled = request.baseline
    ((_, result),) = start_compiling(request, [compiled], target)
    if isinstance(result, Rejection) and request.before is not None:
        compiled = request.before  # The rules ask what a kernel takes of the GPU: the one that runs will do.
        ((_, result),) = start_compiling(request, [compiled], target)
    if isinstance(result, Trouble):
        raise result.error()
    if isinstance(result, Rejection):
        raise without_reference(request, result, target)
    return by_rules(request, compiled, result, target).configs


def by_rules(request: SweepRequest, compiled: Config, resources: Resources, target: Target) -> Proposal:
    """The rules that fire at what the compiler made of BASELINE, or of Before where that does not compile."""
    spec = request.spec
    return propose(
        resources,
        occupancy(resources.registers, resources.shared_bytes, compiled.num_warps, target),
        spec.staged_loads,
        compute_bound=spec.bound(request.problem, target).compute,
        baseline=request.baseline,
        stages_matter=spec.stages_matter,
    )


def without_reference(request: SweepRequest, why: Rejection, target: Target) -> FusetuneError:
    """What ends a sweep that has no reference: that does not compile, or the target has no room for it."""
    name = reference_name(request.before)
    if why.reason == "shared_memory":
        return UsageError(f"{name} cannot run on {target.name}, so that there is nothing to compare with: {why.detail}")
    return CompileError(f"{name} does not compile for {target.name}: {why.detail}")


def record_plan(
    passed: Sequence[Config],
    rejected: Mapping[Config, Rejection],
    log: RunLog,
    skipped: Mapping[Config, Rejection] | None = None,
) -> None:
    """Number the candidates, and write down those that are not to be compiled."""
    for config in passed:
        log.id_of(config)
    left_out: tuple[tuple[Status, Mapping[Config, Rejection]], ...] = (
        ("rejected", rejected),
        ("skipped", skipped or {}),
    )
    for status, reasons in left_out:
        for config, why in reasons.items():
            if not log.ledger.is_written(config, status):
                log.candidate(config, status, reason=why.reason, detail=why.detail)


def start_compiling(request: SweepRequest, configs: Sequence[Config], target: Target) -> Iterable[Compiled]:
    """Begin to compile in the background; iterating yields what is done."""
    jobs = [Job(request.problem, config) for config in configs]
    return compile_jobs(request.spec, jobs, target, workers=request.workers, processes=request.processes)


def resource_use(config: Config, resources: Resources, target: Target) -> tuple[float, int, int]:
    """What a CTA takes of an SM, for choosing the lighter of two equals.

    First comes the larger of its shares of the registers and of the shared memory, since that one says how much fits
    beside it; then registers and bytes of shared memory themselves.
    """
    registers = resources.registers * 32 * config.num_warps
    share = max(registers / target.registers_per_sm, resources.shared_bytes / target.shared_bytes_per_sm)
    return share, registers, resources.shared_bytes
