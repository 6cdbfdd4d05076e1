"""What was decided of a program's kernels as changes of its source, with the comments that say on what grounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fusetune.capture.cases import Case, Site
from fusetune.code.patch.change import OPTIONS, Accepted, Change, Launched
from fusetune.code.patch.edits import Finding
from fusetune.core.config import Config
from fusetune.core.decision import reason_text, reference_name
from fusetune.core.text import printable
from fusetune.ops.naming import value_name
from fusetune.tune.program import Tuned
from fusetune.units import format_gain, format_interval, format_us


def changes_of(
    tuned: Sequence[Tuned],
    gpu: str | None,
    *,
    autotune: bool = False,
    lookup: bool = False,
    untuned: Sequence[Case] = (),
) -> tuple[list[Change], list[Finding]]:
    """A change for each case whose launch is found in the source; findings for those that should and are not.

    With `autotune`, and of predictions always, a kernel is left with at most three configs to try: those of a
    prediction are what its explanation proposes. With `lookup`, an autotuned kernel with a config that was kept looks
    it up, and of a prediction its list stays. A case that stays as it is wants just that, which counts where another
    one of the same launch wants something else; so do those of `untuned`.
    """
    changes, findings = [], []
    for one in tuned:
        wanted = _wanted(one)
        if one.case.site is None:
            if wanted is not None or _tried(one, autotune=autotune):
                kernel = one.case.kernel
                text = f"where {kernel.name} is launched is not clear, so {printable(_to(one))} is to be given by hand"
                findings.append(Finding(kernel.file, kernel.line, text))
            continue
        change = _change(one, one.case.site, wanted or {}, gpu, autotune=autotune)
        listed = lookup and bool(one.case.site.listed)
        if listed and change.tried:
            kernel = one.case.kernel
            text = f"the list of {kernel.name} stays, since nothing was timed and nothing would be looked up"
            findings.append(Finding(kernel.file, kernel.line, text))
            change = msgspec.structs.replace(change, tried=())
        changes.append(msgspec.structs.replace(change, looks_up=listed and wanted is not None))
    for case in untuned:
        if case.site is not None:
            before = before_of(case)
            changes.append(Change(launched_of(case, case.site), before, before, us=case.us or 0.0, untuned=True))
    return changes, findings


def files_measured(cases: Sequence[Case]) -> dict[str, str]:
    """The SHA-256 of the program's files as they were when it ran."""
    return {file: hashed for case in cases if case.site is not None for file, hashed in case.site.files.items()}


def modules_of(cases: Sequence[Case]) -> dict[str, str]:
    """The files of the program's own modules that names are imported from where it launches."""
    return {name: file for case in cases if case.site is not None for name, file in case.site.modules.items()}


def _change(one: Tuned, site: Site, wanted: Mapping[str, Any], gpu: str | None, *, autotune: bool) -> Change:
    case = one.case
    before = before_of(case)
    restored = [name for name in case.tensors if case.roles.get(name, "both") in {"both", "atomic"}]
    given = [name for name in restored if name in site.parameters and case.tensors[name].block is None]
    return Change(
        launch=launched_of(case, site),
        before=before,
        wanted={**before, **wanted},
        tried=_tried(one, autotune=autotune),
        key=tuple(name for name, value in case.values.items() if _is_size(name, value) and name not in case.differing),
        restored=tuple(given),
        unrestored=tuple(name for name in restored if name not in given),
        accepts=_accepted(one),
        choice=_choice(one),
        stays=one.end == "unverified" and one.explanation is not None and not one.explanation.to_try(),
        us=case.us or 0.0,
        comment=tuple(map(printable, comment_of(one, gpu))),
    )


def launched_of(case: Case, site: Site) -> Launched:
    """A case's launch by where it stands in the program's source."""
    return Launched(
        file=site.file,
        line=site.line,
        kernel=case.kernel.name,
        kernel_file=case.kernel.file,
        kernel_line=case.kernel.line,
        parameters=site.parameters,
        column=site.column,
        given=tuple(case.options),
        names=site.names,
        listed=site.listed,
        computed=site.computed,
        follows=site.follows,
        following=site.following,
        hooked=any("pre_hook" in finding for finding in case.findings),
        modules=site.modules,
    )


def before_of(case: Case) -> dict[str, Any]:
    """The constants and options that run, whole."""
    return {**case.constants, **{name: case.before.get(name, usual) for name, usual in OPTIONS.items()}}


def values_of(one: Tuned, config: Config) -> dict[str, Any]:
    """All constants of a case's launch with a config, by the kernel's own names, and all its options.

    Constants that the program computes from those of the config, or gives the value of one, are what they then are.
    What heuristics compute is left as it is: they compute it again.
    """
    case = one.case
    names = {value_name(name): name for name in case.constants}
    given: Mapping[str, Any] = one.arguments.get(config) or {
        names[name]: value for name, value in config.constants().items() if name in names
    }
    computed = case.site.computed if case.site is not None else ()
    changed = {name: value for name, value in given.items() if name in case.constants and name not in computed}
    return {**case.constants, **changed, **{name: getattr(config, name) for name in OPTIONS}}


def _wanted(one: Tuned) -> dict[str, Any] | None:
    """The config that was kept; None where what runs stays, and of a prediction, which has tested none."""
    return values_of(one, one.result.entry.config) if one.result is not None and one.end == "keep" else None


def _tried(one: Tuned, *, autotune: bool) -> tuple[Mapping[str, Any], ...]:
    """The configs for an autotuner, the chosen one first and BASELINE last; none where there is no choice."""
    if one.end == "unverified" and one.explanation is not None:
        found = [made.config for made in one.explanation.to_try()]
        found.sort(key=lambda config: config == one.baseline)
    elif one.result is not None and one.end == "keep" and autotune:
        safe = dict.fromkeys(config for config in (one.before, one.baseline) if config is not None)
        chosen = one.result.entry.config
        found = [*([chosen] if chosen not in safe else []), *safe]
    else:
        return ()
    return tuple(values_of(one, config) for config in found) if len(found) > 1 else ()


def _choice(one: Tuned) -> tuple[Mapping[str, Any], ...]:
    """What a case that was measured is to run with, and BASELINE, where these may stand in its autotuner's list."""
    if one.result is None or one.before is None or one.baseline is None or one.end not in {"keep", "revert"}:
        return ()
    best = one.result.entry.config if one.end == "keep" else one.before
    return values_of(one, best), values_of(one, one.baseline)


def _accepted(one: Tuned) -> tuple[Accepted, ...]:
    """The configs that were right and, by the samples of the screening, no slower than what runs."""
    if one.result is None or one.before is None or one.end == "unverified":
        return ()
    times = {ranked.config: ranked.time_us for ranked in (*one.result.screened, *one.result.best)}
    limit = times.get(one.before)
    if limit is None:
        return ()
    return tuple(Accepted(values_of(one, config), us / limit) for config, us in times.items() if us <= limit)


def _is_size(name: str, value: Any) -> bool:
    return type(value) is int and "stride" not in name.lower() and "." not in name


def _to(one: Tuned) -> str:
    return one.result.entry.config.label() if one.result is not None else "what was chosen"


def comment_of(one: Tuned, gpu: str | None) -> list[str]:
    """What was measured of a case, on which GPU, against what, with interval, run and date; or that nothing was."""
    if one.result is None:
        return []
    entry = one.result.entry
    where = f"{gpu or one.result.target_name}, run {entry.run}, {entry.date}"
    if entry.time_us is None or entry.gain is None:
        return [f"predicted, nothing was timed: {where}.", f"{_to_try(one)}the first launch keeps the fastest."]
    before = one.before.label() if one.before is not None else reference_name(entry.before)
    times = f"{format_us(entry.time_us.config)}, was {format_us(entry.time_us.reference)} with {before}"
    interval = format_interval(entry.gain.low, entry.gain.high)
    lines = [
        f"{entry.config.label()}: {times}.",
        f"Gain {format_gain(entry.gain.median)} in {interval} at {entry.gain.confidence * 100:g} %.",
    ]
    if entry.gain_over_baseline is not None:
        over = entry.gain_over_baseline
        lines.append(f"Over 4 warps / 2 stages {format_gain(over.median)} in {format_interval(over.low, over.high)}.")
    return [*lines, f"{where}."]


def _to_try(one: Tuned) -> str:
    """`Of the program's own 8 configs the first 2 that compile, with BASELINE: `, or where the others come from."""
    found = one.explanation
    if found is None or not found.listed:
        return "By the conditional rules: "
    own = sum(config.config != one.baseline for config in found.to_try())
    return f"Of the program's own {found.listed} configs {own} that compile, with 4 warps / 2 stages: "


def verdict_of(one: Tuned) -> str:
    """What became of a case, on one line: for the top of a module."""
    name = one.case.kernel.name
    if one.result is None:
        return f"{name}: {one.end}: {one.why}"
    entry = one.result.entry
    if one.end == "keep":
        return f"{name}: {' '.join(comment_of(one, None))}"
    return f"{name}: {one.end}: {reason_text(entry.reason, entry.before)} (run {entry.run}, {entry.date})"
