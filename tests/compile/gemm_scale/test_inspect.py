"""Inspection of real kernels, compiled for GPUs that are not here."""

from __future__ import annotations

import json

import msgspec
import pytest

from fusetune.compiler.facts import kernel_facts
from fusetune.compiler.inspect import diagnoses, inspect_config, inspect_space
from fusetune.compiler.tools import triton_release
from fusetune.core.environment import TargetIdentity
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import occupancy
from fusetune.core.rules import MULTI_INPUT
from fusetune.core.target import find_target
from fusetune.errors import UsageError
from fusetune.gate.static import static_gate
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.config_text import parse_config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.loading import load_spec
from fusetune.report.inspection import space_text, to_builtins, to_text
from fusetune.store.schema import ConfigFile
from fusetune.tune.predict import predict
from fusetune.tune.request import SweepRequest

RTX_4090, H200 = find_target("rtx4090"), find_target("h200")
PROBLEM = make_problem(1024, 8192, 8192, "float32")
SEED_CONFIG = Config(num_stages=3)


@pytest.fixture(scope="module")
def found():
    return inspect_config(SPEC, PROBLEM, SEED_CONFIG, RTX_4090)


def test_the_brief_s_config_holds_as_many_warps_as_the_profiler_saw_active(found):
    assert found.occupancy.warps_per_sm == 12
    assert found.resources.shared_bytes == 32768
    assert (found.ctas, found.kernels[0].grid) == (2048, (2048,))
    assert found.waves == pytest.approx(2048 / 384)
    assert found.tail_efficiency == pytest.approx(2048 / 384 / 6)


def test_the_instructions_are_those_of_an_mma_pipeline_with_asynchronous_copies(found):
    counts = found.kernels[0].instructions
    assert counts.mma > 0
    assert counts.cp_async > 0
    assert (counts.tma_load, counts.wgmma, counts.local_load, counts.local_store) == (0, 0, 0, 0)


def test_what_is_told_of_a_config_is_of_the_products_though_a_copy_comes_first():
    config, problem = Config("padded", 64, 64, 64, num_stages=3), make_problem(1500, 1101, 7001, "float16")
    found = inspect_config(SPEC, problem, config, H200)
    copies, products = found.kernels
    assert (copies.name, products.name) == ("padded_rows", "persistent_products")
    assert copies.grid != products.grid
    assert (found.resources, found.ctas) == (products.resources, products.grid[0])
    assert f"{products.grid[0]} CTAs = " in to_text(found)
    held = [occupancy(one.resources.registers, one.resources.shared_bytes, 4, H200) for one in found.kernels]
    assert found.occupancy == held[1] != held[0]
    assert to_builtins(found)["main"] == 1


def test_the_prediction_has_its_parts_and_lies_above_the_roofline(found):
    assert found.estimate.time_us > found.roofline.time_us == pytest.approx(1664, rel=0.01)
    assert found.roofline.bound == "compute"
    assert found.estimate.dram_bytes >= SPEC.bytes(PROBLEM) * 0.99


def test_the_text_tells_every_part_and_the_json_holds_no_code(found):
    text = to_text(found)
    for part in ("registers", "stack", "shared memory", "instructions", "occupancy", "waves", "L2", "DRAM", "roofline"):
        assert part in text
    assert "nothing was run" in text
    raw = json.loads(json.dumps(to_builtins(found)))
    assert raw["evidence"] == "predicted"
    assert raw["kernels"][0]["resources"]["registers"] == found.resources.registers
    assert not {"ptx", "sass"} & set(raw["kernels"][0])


def test_only_loads_of_the_loop_are_staged_so_bias_and_scale_fire_no_rule(found):
    assert found.staged_loads == 2
    assert MULTI_INPUT not in found.fired
    assert "before and after it are not buffered" in to_text(found)
    assert BASELINE in {suggestion.config for suggestion in found.suggestions}


def test_a_profile_is_joined_by_the_kernel_s_name_or_because_it_is_the_only_one(found):
    metrics = {
        "sm__throughput.avg.pct_of_peak_sustained_elapsed": 44.43,
        "dram__throughput.avg.pct_of_peak_sustained_elapsed": 16.68,
        "sm__warps_active.avg.pct_of_peak_sustained_active": 24.01,
    }
    (theirs,) = diagnoses(found, {"fused_gemm_scale_kernel": [metrics]})
    (ours,) = diagnoses(found, {"tiled_products": [metrics, metrics], "elementwise": [metrics]})
    assert theirs.limit == ours.limit == "compute"
    with pytest.raises(UsageError, match="this config runs tiled_products"):
        diagnoses(found, {"one": [metrics], "two": [metrics]})


def test_a_tile_that_lives_in_memory_contradicts_the_rule_that_its_few_registers_suggest():
    problem = make_problem(1024, 8192, 8192, "float32")
    spilling = inspect_config(SPEC, problem, Config(BLOCK_M=256, BLOCK_N=128, num_stages=2), RTX_4090)
    assert spilling.resources.stack_bytes > 1024
    assert spilling.resources.registers < 96
    assert any("look like low pressure" in sentence for sentence in spilling.contradictions)
    assert spilling.kernels[0].instructions.local_load > 0
    assert "it spills" in to_text(spilling)


def test_training_shows_both_kernels_and_the_copy_engine_on_a_gpu_that_has_one():
    spec = load_spec("gemm_scale_bn")
    problem = make_problem(1024, 2048, 1024, "float16", mode="train")
    found = inspect_config(spec, problem, parse_config("persistent 128x128x64 w4 s3"), H200)
    products, normalize = found.kernels
    assert (products.name, normalize.name) == ("persistent_products", "normalize_columns")
    assert products.instructions.tma_load > 0
    assert products.instructions.wgmma > 0
    assert found.estimate.second_us > 0


def test_a_library_s_config_has_nothing_of_ours_to_inspect():
    evaluation = make_problem(128, 512, 1024, "float32", mode="eval")
    with pytest.raises(UsageError, match="no kernel of ours"):
        inspect_config(load_spec("gemm_scale_bn"), evaluation, Config(variant="library_folded"), RTX_4090)


def test_a_gpu_without_a_stated_peak_is_inspected_and_says_why_nothing_is_predicted():
    lacking = msgspec.structs.replace(RTX_4090, tf32_tflops=None)
    found = inspect_config(SPEC, make_problem(128, 512, 1024, "float32"), BASELINE, lacking)
    assert found.estimate is None
    assert "no tf32 peak" in to_text(found)


def test_the_code_is_ptx_for_the_target_and_its_machine_code():
    (kernel,) = kernel_facts(SPEC, make_problem(128, 512, 1024, "float32"), BASELINE, RTX_4090)
    assert ".target sm_89" in kernel.ptx
    assert "HMMA" in kernel.sass


def test_the_table_of_a_space_holds_every_config_with_its_reason():
    rows = inspect_space(
        SPEC, make_problem(64, 64, 64, "float16"), RTX_4090, SilentProgress(), space="standard", compiled=2
    )
    statuses = [row.status for row in rows]
    assert statuses.count("compiled") == 3  # the two best, and BASELINE
    assert all(row.reason and row.detail for row in rows if row.status == "rejected")
    text = space_text(rows, RTX_4090, 5)
    assert f"{len(rows)} configs for NVIDIA GeForce RTX 4090" in text
    assert "shared_memory" in text
    none = inspect_space(
        SPEC, make_problem(64, 64, 64, "float16"), RTX_4090, SilentProgress(), space="seed", compiled=0
    )
    assert {row.status for row in none} == {"estimated"}


@pytest.mark.parametrize(
    ("op", "problem", "target"),
    [
        ("gemm_scale", make_problem(128, 512, 1000, "float32", "tf32x3"), "rtx4090"),
        ("gemm_scale_bn", make_problem(64, 512, 1024, "float16", mode="train"), "b200"),
    ],
)
def test_baseline_that_spills_is_swept_inspected_and_gated_as_the_reference(tmp_path, op, problem, target):
    spec, gpu = load_spec(op), find_target(target)
    request = SweepRequest(
        spec=spec, problem=problem, output=tmp_path / "configs", runs=tmp_path / "runs", space="rules", workers=1
    )
    result = predict(request, gpu, SilentProgress())
    assert result.entry.predicted_us is not None
    found = inspect_config(spec, problem, BASELINE, gpu)
    if not found.resources.spills and triton_release() != (3, 7):
        pytest.skip("BASELINE spills here under Triton 3.7; this one fits it into the registers")
    assert found.resources.spills
    assert found.rejection is None
    assert "a sweep rejects it" not in to_text(found)
    rows = inspect_space(spec, problem, gpu, SilentProgress(), space="seed", workers=1)
    assert next(row.status for row in rows if row.config == BASELINE) == "compiled"
    held = msgspec.structs.replace(result.entry, config=BASELINE)
    file = ConfigFile(schema=2, op=op, target=TargetIdentity(gpu.name, gpu.capability, gpu.sms), entries=(held,))
    (finding,) = static_gate([(tmp_path / "file.yaml", file)], SilentProgress(), workers=1)
    assert finding.status == "holds"
    assert "as BASELINE may" in finding.detail
