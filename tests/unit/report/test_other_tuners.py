"""Other tools' forms, held against what their published schemas and readers ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_examples import FILES, KEPT, measured_run, predicted_run, replace

from fusetune.core.config import Config
from fusetune.errors import UsageError
from fusetune.report.model import rows_from_files
from fusetune.report.other_tuners import to_cachefile, to_t4, to_vllm
from fusetune.store.journal import read_journal

JOURNAL = Path(__file__).parents[2] / "support" / "journals" / "20261123T062848-845c.jsonl.gz"


def runs() -> list[Any]:
    return [list(measured_run()), list(read_journal(JOURNAL))]


@pytest.mark.parametrize("records", runs(), ids=["example", "a real sweep"])
def test_t4_has_what_kernel_tuner_s_results_schema_requires(records: list[Any]) -> None:
    """https://github.com/KernelTuner/kernel_tuner, kernel_tuner/schema/T4/1.0.0/results-schema.json."""
    body = json.loads(to_t4(records))
    assert re.fullmatch(r"\d+\.\d+\.\d+", body["schema_version"])
    assert body["results"]
    words = {"timeout", "compile", "runtime", "correctness", "constraints", "correct"}
    for result in body["results"]:
        assert {"configuration", "times", "invalidity", "correctness"} <= set(result)
        assert isinstance(result["configuration"], dict)
        assert isinstance(result["timestamp"], str)
        assert result["objectives"] == ["time"]
        assert isinstance(result["times"]["runtimes"], list)
        assert result["invalidity"] in words
        assert isinstance(result["correctness"], int | float)
        for measurement in result["measurements"]:
            assert set(measurement) == {"name", "value", "unit"}


def test_t4_tells_times_in_milliseconds_and_why_others_fell() -> None:
    results = json.loads(to_t4(measured_run()))["results"]
    baseline = next(one for one in results if one["configuration"]["num_stages"] == 2 and one["times"]["runtimes"])
    assert baseline["times"]["runtimes"] == pytest.approx([0.0131, 0.0133]), "the last round alone"
    time = next(one for one in baseline["measurements"] if one["name"] == "time")
    assert (time["value"], time["unit"]) == (pytest.approx(0.0132), "ms")
    assert {one["invalidity"] for one in results} == {"correct", "constraints", "correctness"}


@pytest.mark.parametrize("records", runs(), ids=["example", "a real sweep"])
def test_the_cache_file_has_what_kernel_tuner_s_cache_schema_requires(records: list[Any]) -> None:
    """The same repository, kernel_tuner/schema/cache/1.1.0/schema.json."""
    body = json.loads(to_cachefile(records))
    assert body["schema_version"] == "1.1.0"
    for name in ("device_name", "kernel_name", "objective"):
        assert isinstance(body[name], str)
    assert all(isinstance(size, int) for size in body["problem_size"])
    assert set(body["tune_params"]) == set(body["tune_params_keys"])
    assert all(isinstance(values, list) for values in body["tune_params"].values())
    assert body["cache"]
    for entry in body["cache"].values():
        numbers = ("compile_time", "verification_time", "benchmark_time", "strategy_time", "framework_time")
        assert all(isinstance(entry[name], int | float) for name in numbers)
        errors = {"InvalidConfig", "CompilationFailedConfig", "RuntimeFailedConfig"}
        assert entry["time"] in errors or entry["time"] > 0
        assert all(isinstance(time, int | float) for time in entry["times"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["timestamp"])


def test_a_cache_entry_is_found_by_its_parameters_in_order_as_the_simulation_looks_it_up() -> None:
    body = json.loads(to_cachefile(read_journal(JOURNAL)))
    for key, entry in body["cache"].items():
        assert key == ",".join(str(entry[name]) for name in body["tune_params_keys"])
        for name in body["tune_params_keys"]:
            assert entry[name] in body["tune_params"][name]
    timed = [entry["time"] for entry in body["cache"].values() if not isinstance(entry["time"], str)]
    assert min(timed) == pytest.approx(5.8e-3, rel=0.1)


@pytest.mark.parametrize("make", [to_t4, to_cachefile])
def test_a_predicted_run_has_no_times_to_tell(make: Any) -> None:
    with pytest.raises(UsageError, match="the run was predicted; nothing was timed"):
        make(predicted_run())


def vllm_reads(folder: dict[str, str], N: int, K: int, device: str, dtype: str, M: int) -> dict[str, int]:
    """As vllm/model_executor/layers/quantization/utils/fp8_utils.py finds a config: by name, then by the nearest M."""
    text = folder[f"N={N},K={K},device_name={device.replace(' ', '_')},dtype={dtype}.json"]
    configs = {int(key): value for key, value in json.loads(text).items()}
    return configs[min(configs, key=lambda held: abs(held - M))]


def test_vllm_s_reader_finds_each_config_by_file_name_and_nearest_m() -> None:
    files = to_vllm(rows_from_files(FILES))
    problem, config = KEPT.problem, KEPT.config
    read = vllm_reads(files, problem.N, problem.K, "NVIDIA H200", problem.dtype, problem.M + 3)
    assert read == {
        "BLOCK_SIZE_M": config.BLOCK_M,
        "BLOCK_SIZE_N": config.BLOCK_N,
        "BLOCK_SIZE_K": config.BLOCK_K,
        "GROUP_SIZE_M": config.GROUP_M,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


def test_vllm_calls_every_h200_by_one_name() -> None:
    path, file = FILES[0]
    other = replace(file, target=replace(file.target, name="NVIDIA H200 NVL"))
    assert all("device_name=NVIDIA_H200,dtype" in name for name in to_vllm(rows_from_files([(path, other)])))


def test_what_vllm_s_keys_cannot_tell_is_left_out_and_nothing_left_is_an_error() -> None:
    path, file = FILES[0]
    split = replace(file, entries=(replace(KEPT, config=Config(variant="split_k", SPLIT_K=4)),))
    with pytest.raises(UsageError, match="measured configs of the variant tiled alone"):
        to_vllm(rows_from_files([(path, split)]))
    with pytest.raises(UsageError, match="measured configs of the variant tiled alone"):
        to_vllm([row for row in rows_from_files(FILES) if row.evidence == "predicted"])
