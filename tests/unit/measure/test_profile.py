"""Nsight Compute's command, and what is made of how it ends; a script stands in for ncu."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest

from fusetune.core.diagnosis import METRICS, SM
from fusetune.errors import EXIT_NO_GPU, MeasurementError, NoUsableGpuError
from fusetune.measure.profile import WARM_UPS, find_ncu, ncu_command, profile_config
from tests.support.sample import OP, Config, make_problem

PROBLEM = make_problem(128, 512, 1024, "float32")
TABLE = f'''"ID","Kernel Name","{SM}"
"","","%"
"0","tiled_products","44.43"
'''


def script(folder: Path, body: str) -> Path:
    path = folder / "ncu"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def command(ncu: Path, kernels: list[str] | None = None) -> list[str]:
    return ncu_command(ncu, OP, PROBLEM, Config(), kernels or ["tiled_products"], METRICS)


def test_clocks_are_left_alone_and_the_launch_after_the_warm_ups_of_every_kernel_is_profiled() -> None:
    made = command(Path("ncu"), ["persistent_products", "normalize_columns"])
    assert made[made.index("--clock-control") + 1] == "none"
    assert made[made.index("--launch-skip") + 1] == str(2 * WARM_UPS)
    assert made[made.index("--launch-count") + 1] == "2"
    assert made[made.index("--kernel-name") + 1] == "regex:^(persistent_products|normalize_columns)$"
    assert made[made.index("--metrics") + 1].split(",") == list(METRICS)
    assert json.loads(made[-1])["config"].items() >= msgspec.to_builtins(Config()).items()


def test_the_metrics_come_back_by_kernel(tmp_path: Path) -> None:
    ncu = script(tmp_path, f"cat <<'END'\n{TABLE}END")
    assert profile_config(command(ncu)) == {"tiled_products": {SM: 44.43}}


def test_a_driver_that_forbids_it_is_told_with_both_ways_out(tmp_path: Path) -> None:
    ncu = script(tmp_path, "echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'; exit 1")
    with pytest.raises(NoUsableGpuError, match=r"root.*NVreg_RestrictProfilingToAdminUsers=0") as caught:
        profile_config(command(ncu))
    assert caught.value.exit_code == EXIT_NO_GPU


def test_another_failure_is_told_with_ncu_s_own_words(tmp_path: Path) -> None:
    ncu = script(tmp_path, "echo chatter; echo '==ERROR== The application returned an error code (1).' >&2; exit 1")
    with pytest.raises(MeasurementError, match=r"exit code 1\): ==ERROR== The application"):
        profile_config(command(ncu))


def test_a_run_that_profiles_nothing_is_a_failure_though_it_exits_with_zero(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="No kernels were profiled"):
        profile_config(command(script(tmp_path, "echo '==WARNING== No kernels were profiled.'")))


def test_ncu_is_found_on_the_path_and_its_absence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ncu = script(tmp_path, "true")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin")
    assert find_ncu() == ncu
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr("fusetune.measure.profile._PLACES", ())
    monkeypatch.setattr("fusetune.measure.profile._OPT_FOLDER", tmp_path / "empty")
    with pytest.raises(NoUsableGpuError, match="nsight-compute"):
        find_ncu()
    with pytest.raises(NoUsableGpuError, match="--ncu /no/such/ncu"):
        find_ncu(Path("/no/such/ncu"))
