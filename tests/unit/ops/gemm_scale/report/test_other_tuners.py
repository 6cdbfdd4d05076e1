"""Other tools' forms, held against what their published schemas and readers ask for."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from fusetune.cli.main import cli
from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import Config
from fusetune.report.model import rows_from_files
from fusetune.report.other_tuners import to_cachefile, to_t4, to_vllm
from fusetune.store.journal import read_journal
from tests.unit.report.report_examples import FILES, KEPT, measured_run, predicted_run, replace

JOURNAL = Path(__file__).parents[4] / "support" / "journals" / "20261123T062848-845c.jsonl.gz"


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


@pytest.mark.parametrize("records", runs(), ids=["example", "a real sweep"])
def test_a_search_restricted_to_the_file_s_own_times_is_one_that_a_simulation_can_answer(records: list[Any]) -> None:
    """As kernel_tuner.util.infer_restrictions_from_cache, whose rule `tune_cache` applies by itself."""
    body = json.loads(to_cachefile(records))
    timed = {
        tuple(entry[name] for name in body["tune_params_keys"])
        for entry in body["cache"].values()
        if not isinstance(entry["time"], str)
    }
    product = itertools.product(*(body["tune_params"][name] for name in body["tune_params_keys"]))
    searched = [values for values in product if values in timed]
    assert len(searched) == len(timed) > 1
    assert all(",".join(map(str, values)) in body["cache"] for values in searched)


def test_kernel_tuner_itself_simulates_on_the_file_by_the_call_that_is_documented(tmp_path: Path) -> None:
    kernel_tuner = pytest.importorskip("kernel_tuner", reason="kernel_tuner is not installed; it is asked where it is")
    path = tmp_path / "run.json"
    path.write_text(to_cachefile(read_journal(JOURNAL)))
    results, told = kernel_tuner.tune_cache(str(path), quiet=True)
    times = [entry["time"] for entry in json.loads(path.read_text())["cache"].values()]
    numbers = [time for time in times if not isinstance(time, str)]
    assert len(results) == len(numbers)
    assert told["best_config"]["time"] == min(numbers)


def test_the_restriction_is_said_wherever_the_cache_file_is_described() -> None:
    guide = (Path(__file__).parents[5] / "docs" / "guides" / "read-a-report.md").read_text(encoding="utf-8")
    for text in (to_cachefile.__doc__, cli.get_command(click.Context(cli), "report").help, guide):
        words = " ".join((text or "").split())
        assert re.search(r"kernel_tuner\.tune_cache\((PATH|\"run\.json\")\)", words)
    assert "needs a restriction to what it holds" in " ".join(guide.split())


def as_vllm_reads(text: str, M: int) -> dict[str, int]:
    """As vllm/model_executor/layers/quantization/utils/fp8_utils.py takes a config from a table: by the nearest M."""
    configs = {int(key): value for key, value in json.loads(text).items()}
    return configs[min(configs, key=lambda held: abs(held - M))]


def names_that_vllm_opens(N: int, K: int, device: str) -> re.Pattern[str]:
    """Those of its dense kernels, and of fused_moe, whose names begin with the number of experts."""
    dense = rf"N={N},K={K},device_name={device},dtype=(fp8|int8)_w8a8,block_shape=\[\d+,\s?\d+\]\.json"
    return re.compile(rf"{dense}|E=\d+,N=\d+,device_name=.*\.json")


def test_a_reader_of_vllm_s_tables_finds_the_config_of_the_nearest_m() -> None:
    problem, config = KEPT.problem, KEPT.config
    files = to_vllm(rows_from_files(FILES))
    (name,) = [name for name in files if f"N={problem.N},K={problem.K}," in name]
    assert as_vllm_reads(files[name], problem.M + 3) == {
        "BLOCK_SIZE_M": config.BLOCK_M,
        "BLOCK_SIZE_N": config.BLOCK_N,
        "BLOCK_SIZE_K": config.BLOCK_K,
        "GROUP_SIZE_M": config.GROUP_M,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


def test_no_table_has_a_name_that_vllm_s_own_kernels_would_open_and_nothing_claims_so() -> None:
    problem = KEPT.problem
    pattern = names_that_vllm_opens(problem.N, problem.K, "NVIDIA_H200")
    assert not [name for name in to_vllm(rows_from_files(FILES)) if pattern.fullmatch(name)]
    guide = (Path(__file__).parents[5] / "docs" / "guides" / "read-a-report.md").read_text(encoding="utf-8")
    for text in (to_vllm.__doc__, cli.get_command(click.Context(cli), "report").help, guide):
        words = " ".join((text or "").split())
        assert "vLLM itself opens none" in words
        assert not re.search(r"vLLM's (dense )?kernels look", words)


def test_what_differs_in_op_precision_mode_dtype_or_gpu_has_a_table_of_its_own() -> None:
    rows = [row for row in rows_from_files(FILES) if row.evidence == "measured" and row.config.variant == "tiled"]
    row = rows[0]
    others = [
        replace(row, op="gemm_scale_bn"),
        replace(row, gpu="NVIDIA H200 NVL"),
        replace(row, problem=replace(row.problem, precision="ieee")),
        replace(row, problem=replace(row.problem, mode="train")),
        replace(row, problem=replace(row.problem, dtype="float16", precision=None)),
    ]
    assert len(to_vllm([row, *others])) == 1 + len(others)


@pytest.mark.parametrize("name", ["x/../../victim", "/etc/passwd", "..", "a\nb", "A" * 4000, "\x1b[2J", "µ/µ"])
def test_whatever_an_op_or_a_gpu_is_called_its_table_lies_in_the_folder(tmp_path: Path, name: str) -> None:
    row = rows_from_files(FILES)[0]
    for odd in (replace(row, op=name), replace(row, gpu=name)):
        (file,) = to_vllm([replace(odd, evidence="measured", config=Config())])
        (tmp_path / file).write_text("{}")
        assert (tmp_path / file).resolve().parent == tmp_path.resolve()
        assert file.isprintable()


def test_what_vllm_s_keys_cannot_tell_is_left_out_and_nothing_left_is_an_error() -> None:
    path, file = FILES[0]
    split = replace(file, entries=(replace(KEPT, config=Config(variant="split_k", SPLIT_K=4)),))
    with pytest.raises(UsageError, match="measured configs that vLLM's keys have words for"):
        to_vllm(rows_from_files([(path, split)]))
    with pytest.raises(UsageError, match="measured configs that vLLM's keys have words for"):
        to_vllm([row for row in rows_from_files(FILES) if row.evidence == "predicted"])


def test_a_config_that_says_nothing_of_vllm_s_keys_is_in_no_table() -> None:
    measured = [row for row in rows_from_files(FILES) if row.evidence == "measured"]
    named = replace(measured[0], op="row_sum", config=NamedConfig(BLOCK=64), problem=NamedProblem(n=4096))
    assert to_vllm([*measured, named]) == to_vllm(measured)
    with pytest.raises(UsageError, match="vLLM's keys have words for"):
        to_vllm([named])
