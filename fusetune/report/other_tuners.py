"""A run or tuned configs in the forms that other tools read: Kernel Tuner's T4 and cache file, vLLM's tuned configs."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from fusetune.core.config import Config
from fusetune.core.text import file_part, json_text
from fusetune.errors import UsageError
from fusetune.report.model import ProblemRow
from fusetune.store.journal import Candidate, Record, RunStart, Sample

T4_VERSION: Final = "1.0.0"
"""Of the results schema, kernel_tuner/schema/T4/1.0.0/results-schema.json in Kernel Tuner's repository."""
CACHE_VERSION: Final = "1.1.0"
"""Of the cache schema, kernel_tuner/schema/cache/1.1.0/schema.json in the same repository."""

_PARAMETERS: Final = ("variant", "BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "SPLIT_K", "num_warps", "num_stages")
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
    """A run as a cache file of Kernel Tuner, which its simulation mode tunes on; times in ms.

    The schema wants times of the tuner's own phases for every config; a journal has them for the run alone, so that
    they are 0 here, as Kernel Tuner writes where it took none. Raises UsageError for a run that timed nothing.
    """
    start, outcomes = _outcomes(records)
    values: dict[str, list[Any]] = {
        name: sorted({getattr(outcome.candidate.config, name) for outcome in outcomes}) for name in _PARAMETERS
    }
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
        "problem_size": [problem.M, problem.N, problem.K],
        "tune_params_keys": list(_PARAMETERS),
        "tune_params": values,
        "objective": "time",
        "cache": cache,
    }
    return json_text(json.dumps(body, indent="")) + "\n"


def to_vllm(rows: Sequence[ProblemRow]) -> dict[str, str]:
    """Tuned configs as vLLM's dense kernels look for them: a file name for each N, K, dtype and GPU, and its JSON.

    Inside, M -> config; vLLM takes the nearest M. Only `tiled` configs can be told: those keys have no others.
    Predicted ones are left out, since a file has no place to say so. Raises UsageError where none is left.
    """
    files: defaultdict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row.problem.N, row.problem.K, row.problem.M)):
        if row.config.variant != "tiled" or row.evidence != "measured":
            continue
        problem, config = row.problem, row.config
        name = f"N={problem.N},K={problem.K},device_name={_vllm_device(row.gpu)},dtype={problem.dtype}"
        files[f"{name}{f',mode={problem.mode}' if problem.mode else ''}.json"][str(problem.M)] = {
            "BLOCK_SIZE_M": config.BLOCK_M,
            "BLOCK_SIZE_N": config.BLOCK_N,
            "BLOCK_SIZE_K": config.BLOCK_K,
            "GROUP_SIZE_M": config.GROUP_M,
            "num_warps": config.num_warps,
            "num_stages": config.num_stages,
        }
    if not files:
        raise UsageError(
            "--format vllm tells measured configs of the variant tiled alone, and there is none; use --format json"
        )
    return {name: json.dumps(configs, indent=4) + "\n" for name, configs in files.items()}


def _vllm_device(gpu: str) -> str:
    """The GPU's name as vLLM puts it into a file name: all of the H200 family are one."""
    name = file_part(gpu)
    return "NVIDIA_H200" if "H200" in name.split("_") else name


def _parameters(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _PARAMETERS}


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
