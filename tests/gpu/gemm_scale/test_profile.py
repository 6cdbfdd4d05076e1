"""Nsight Compute on the GPU here: theoretical occupancy is its own, and its sentence comes out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fusetune.compiler.inspect import inspect_config
from fusetune.errors import FusetuneError
from fusetune.measure.nvml import gpu_present
from fusetune.measure.profile import find_ncu, ncu_command, profile_config
from fusetune.ops.device import local_target
from fusetune.ops.gemm_scale.config_text import parse_config
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.loading import load_spec

pytestmark = pytest.mark.skipif(not gpu_present(), reason="needs an NVIDIA GPU")

THEORY = "sm__maximum_warps_per_active_cycle_pct"


@pytest.fixture(scope="module")
def ncu():
    try:
        return find_ncu()
    except FusetuneError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("label", ["64x64x32 w4 s2", "64x64x32 w4 s3", "128x128x32 w8 s3"])
def test_theoretical_occupancy_is_nsight_compute_s(ncu, label):
    spec, problem, config = load_spec("gemm_scale"), make_problem(1024, 1024, 1024, "float32"), parse_config(label)
    command = ncu_command(ncu, "gemm_scale", problem, config, ["tiled_products"], [THEORY])
    try:
        metrics = profile_config(command)
    except FusetuneError as error:
        pytest.skip(str(error))  # Most machines let administrators alone profile.
    found = inspect_config(spec, problem, config, local_target(0))
    assert metrics["tiled_products"][THEORY] == pytest.approx(found.occupancy.fraction * 100, abs=0.1)


def test_the_profiled_process_runs_a_config_of_each_variant_to_its_end():
    """What ncu looks at has to run without it too."""
    for variant in ("", "split_k "):
        config = parse_config(f"{variant}64x32x64 w4 s3{' k4' if variant else ''}")
        job = {
            "op": "gemm_scale",
            "problem": {"M": 128, "N": 512, "K": 1024, "dtype": "float32", "precision": "tf32"},
            "config": {name: getattr(config, name) for name in config.__struct_fields__},
        }
        command = [sys.executable, "-m", "fusetune.measure.profiled", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
