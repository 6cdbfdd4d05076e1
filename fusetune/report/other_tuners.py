"""A run in the forms that Kernel Tuner reads, T4 and cache file; tuned configs in the form of vLLM's tables."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from fusetune.core.config import Config, VllmRow
from fusetune.core.text import file_part, json_text
from fusetune.errors import UsageError
from fusetune.report.model import ProblemRow
from fusetune.store.journal import Candidate, Record, RunStart, Sample

T4_VERSION: Final = "1.0.0"
"""Of the results schema, kernel_tuner/schema/T4/1.0.0/results-schema.json in Kernel Tuner's repository."""
CACHE_VERSION: Final = "1.1.0"
"""Of the cache schema, kernel_tuner/schema/cache/1.1.0/schema.json in the same repository."""

_COMPILING: Final = {"compile_error", "compiler_crash", "compile_timeout"}
_US_PER_MS: Final = 1000.0


class _Outcome(msgspec.Struct, frozen=True):
    """What became of a candidate, with its times of the last screening round in milliseconds."""

    candidate: Candidate
    times_ms: tuple[float, ...]

    @property
    def time_ms(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def invalidity(self) -> str:
        """T4's word for how it ended."""
        reason = self.candidate.reason or ""
        if self.candidate.status == "rejected":
            return "compile" if reason in _COMPILING else "constraints"
        if self.candidate.status == "failed":
            return {"wrong_result": "correctness", "nan": "correctness", "hang": "timeout"}.get(reason, "runtime")
        return "correct"


def to_t4(records: Iterable[Record]) -> str:
    """A run in the T4 format for auto-tuning results: every candidate that was tried or rejected; times in ms.

    Raises UsageError for a run that timed nothing.
    """
    start, outcomes = _outcomes(records)
    results = []
    for outcome in outcomes:
        candidate = outcome.candidate
        measurements: list[dict[str, Any]] = []
        if outcome.times_ms:
            measurements.append({"name": "time", "value": outcome.time_ms, "unit": "ms"})
        if candidate.resources is not None:
            used = msgspec.structs.asdict(candidate.resources)
            units = {"registers": "", "stack_bytes": "B", "shared_bytes": "B"}
            measurements += [{"name": name, "value": used[name], "unit": unit} for name, unit in units.items()]
        results.append(
            {
                "timestamp": start.started,
                "configuration": _parameters(candidate.config),
                "objectives": ["time"],
                "times": {"runtimes": list(outcome.times_ms)},
                "invalidity": outcome.invalidity,
                "correctness": 1 if candidate.status == "checked" else 0,
                "measurements": measurements,
            }
        )
    return json_text(json.dumps({"schema_version": T4_VERSION, "results": results}, indent=1)) + "\n"


def to_cachefile(records: Iterable[Record]) -> str:
    """A run as a cache file of Kernel Tuner, on which `kernel_tuner.tune_cache(PATH)` simulates a search; times in ms.

    A run's candidates are not all products of the values of their parameters, and a simulation fails at the first that
    the file does not hold. `tune_cache` restricts the search to what the file times; `tune_kernel(...,
    simulation_mode=True)` needs a restriction to its keys.

    The schema wants times of the tuner's own phases for every config; a journal has them for the run alone, so that
    they are 0 here, as Kernel Tuner writes where it took none. Raises UsageError for a run that timed nothing.
    """
    start, outcomes = _outcomes(records)
    tuned = [_parameters(outcome.candidate.config) for outcome in outcomes]
    names = dict.fromkeys(name for parameters in tuned for name in parameters)
    values = {name: sorted({parameters[name] for parameters in tuned}) for name in names}
    cache: dict[str, Any] = {}
    for outcome in outcomes:
        parameters = _parameters(outcome.candidate.config)
        error = {
            "correct": None,
            "compile": "CompilationFailedConfig",
            "constraints": "InvalidConfig",
        }.get(outcome.invalidity, "RuntimeFailedConfig")
        if error is None and not outcome.times_ms:
            continue  # It was right and never timed: neither a time nor an error is true of it.
        phases = ("compile_time", "verification_time", "benchmark_time", "strategy_time", "framework_time")
        cache[",".join(str(value) for value in parameters.values())] = {
            **parameters,
            "time": error or outcome.time_ms,
            "times": list(outcome.times_ms),
            **dict.fromkeys(phases, 0),
            "timestamp": start.started,
        }
    problem = start.problem
    body = {
        "schema_version": CACHE_VERSION,
        "device_name": start.target.name,
        "kernel_name": start.op,
        "problem_size": [value for value in problem.to_builtins().values() if type(value) is int],
        "tune_params_keys": list(names),
        "tune_params": values,
        "objective": "time",
        "cache": cache,
    }
    return json_text(json.dumps(body, indent="")) + "\n"


def to_vllm(rows: Sequence[ProblemRow]) -> dict[str, str]:
    """Tuned configs as tables in vLLM's form: a file name for each op, GPU and all but one size, and its JSON.

    Inside, that size -> config by vLLM's keys; a reader takes the nearest size, as vLLM's do. vLLM itself opens none of
    these files: its dense kernels multiply FP8 or INT8 by blocks and look for names that say so, for which nothing was
    tuned here. They are for kernels of one's own that read such tables. A config that those keys have no words for is
    left out (`Config.vllm_row`), and so are predicted ones, since a file has no place to say so. Raises UsageError
    where none is left.
    """
    files: defaultdict[str, dict[str, Mapping[str, int]]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row.op, row.problem.order())):  # Ops have no order in common.
        told = row.config.vllm_row(row.problem) if row.evidence == "measured" else None
        if told is not None:
            files[_table_name(row, told)][str(told.size)] = told.values
    if not files:
        raise UsageError(
            "--format vllm reports measured configs that vLLM's keys have words for; there is none, use --format json"
        )
    return {name: json.dumps(configs, indent=4) + "\n" for name, configs in files.items()}


def _table_name(row: ProblemRow, told: VllmRow) -> str:
    """All that tells one table from another: what is not in the name must not be in the table either."""
    parts = {"op": row.op, **told.sizes, "device_name": row.gpu, **told.forms}
    return (
        ",".join(f"{name}={file_part(str(value))[:60]}" for name, value in parts.items() if value is not None) + ".json"
    )


def _parameters(config: Config) -> dict[str, Any]:
    return config.to_builtins()


def _outcomes(records: Iterable[Record]) -> tuple[RunStart, list[_Outcome]]:
    held = list(records)
    start = next((record for record in held if isinstance(record, RunStart)), None)
    if start is None or start.evidence != "measured":
        raise UsageError("this format holds measured times, and the run was predicted; nothing was timed")
    samples: dict[int, tuple[int, list[float]]] = {}
    for record in held:
        if isinstance(record, Sample):
            last, times = samples.get(record.id, (record.round, []))
            if record.round > last:
                last, times = record.round, []
            if record.round == last:
                times.append(record.us / _US_PER_MS)
            samples[record.id] = (last, times)
    candidates = {record.id: record for record in held if isinstance(record, Candidate)}
    return start, [
        _Outcome(candidate, tuple(samples.get(number, (0, []))[1]))
        for number, candidate in candidates.items()
        if candidate.status != "skipped" and not candidate.config.is_library
    ]
