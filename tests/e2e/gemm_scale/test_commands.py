"""The installed command on a machine without a GPU: sweep, report and gate, from one command to the next."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import yaml

from fusetune.errors import EXIT_NO_GPU, EXIT_OK, EXIT_REGRESSION, EXIT_USAGE
from fusetune.measure.nvml import gpu_present
from fusetune.ops.gemm_scale.config import Config
from tests.support.warm import warm_python

pytestmark = pytest.mark.skipif(gpu_present(), reason="there is a GPU here; these tests say what happens without one")

SIZES = ("--M", "128", "--K", "1024", "--N", "512")
FILE = Path("configs", "nvidia-geforce-rtx-4090", "gemm_scale.yaml")
COMMAND = str(Path(sys.executable).parent / "fusetune")
"""As it is installed. Tests of what it does run it in a process that has torch loaded, and so start faster."""


class Workplace:
    """A folder with its own user folder and its own compiler cache, and the command run in it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.first_s = folder, cache, 0.0
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FUSETUNE_")}
        self.environment = {**kept, "TRITON_CACHE_DIR": str(cache), "XDG_CONFIG_HOME": str(folder / "home")}

    def fusetune(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(warm_python(), COMMAND, *arguments)

    def python(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.run(warm_python(), "-c", textwrap.dedent(script))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def entry(self) -> dict:
        (entry,) = yaml.safe_load((self.folder / FILE).read_text())["entries"]
        return entry


@pytest.fixture
def workplace(tmp_path, compiled):
    return Workplace(tmp_path, compiled)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A workplace in which the main command has run once, as a user starts it, with what it said.

    Tests leave its files as they are. What is compiled is in a cache of its own.
    """
    workplace = Workplace(tmp_path_factory.mktemp("swept"), tmp_path_factory.mktemp("cache"))
    began = time.monotonic()
    done = workplace.run(COMMAND, "sweep", *SIZES)
    assert done.returncode == EXIT_OK, done.stderr
    workplace.first_s = time.monotonic() - began
    return workplace, done


def _label(config: Mapping[str, object]) -> str:
    return msgspec.convert(config, Config).label()


def test_the_sweep_says_first_and_last_that_nothing_is_timed(swept):
    _, done = swept
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "Predicting for NVIDIA GeForce RTX 4090, because there is no NVIDIA GPU here: nothing will be timed."
    )
    assert re.fullmatch(r"Nothing was timed: run .* NVIDIA GeForce RTX 4090 to measure and verify\.", lines[-1])
    assert sum("predicted" in line for line in lines) >= 4
    assert "verified" not in done.stdout.replace("unverified", "")


def test_the_entry_is_a_prediction_for_the_problem_and_no_measurement(swept):
    workplace, done = swept
    document = yaml.safe_load((workplace.folder / FILE).read_text())
    assert (document["schema"], document["op"]) == (2, "gemm_scale")
    assert document["target"] == {"name": "NVIDIA GeForce RTX 4090", "capability": "8.9", "sms": 128}
    entry = workplace.entry()
    assert entry["problem"] == {"M": 128, "N": 512, "K": 1024, "dtype": "float32", "precision": "tf32"}
    assert (entry["evidence"], entry["verdict"], entry["reason"]) == ("predicted", "unverified", "predicted_not_timed")
    assert not {"gain", "gain_over_conservative", "time_us"} & set(entry)
    assert 0 < entry["predicted_us"]["config"] <= entry["predicted_us"]["baseline"]
    assert f"By the keep rule on these predictions: {_label(entry['config'])}" in done.stdout
    assert (workplace.folder / ".fusetune" / "runs" / f"{entry['run']}.jsonl").is_file()


def test_the_sweep_again_compiles_nothing_anew_and_decides_the_same(swept, tmp_path):
    workplace, first = swept
    made = sorted(workplace.cache.rglob("*.cubin"))
    assert len(made) > 20
    began = time.monotonic()
    done = workplace.fusetune("sweep", *SIZES, "--output", str(tmp_path / "again"), "--runs", str(tmp_path / "runs"))
    assert time.monotonic() - began < workplace.first_s
    assert done.returncode == EXIT_OK
    assert sorted(workplace.cache.rglob("*.cubin")) == made
    (again,) = yaml.safe_load((tmp_path / "again" / FILE.relative_to("configs")).read_text())["entries"]
    entry = workplace.entry()
    assert {name: again[name] for name in ("config", "predicted_us")} == {
        name: entry[name] for name in ("config", "predicted_us")
    }
    ranking = re.compile(r"^ +\d\. .*$", re.MULTILINE)
    assert len(ranking.findall(first.stdout)) == 3
    assert ranking.findall(done.stdout) == ranking.findall(first.stdout)


def test_a_small_space_other_sizes_and_another_gpu_go_to_a_file_of_their_own(workplace):
    for sizes in (SIZES, ("--M", "64", "--K", "256", "--N", "128")):
        done = workplace.fusetune("sweep", *sizes, "--space", "seed", "--target", "h200", "--dtype", "float16")
        assert done.returncode == EXIT_OK, done.stderr
        assert done.stdout.startswith("Predicting for NVIDIA H200, because --target h200 was given: nothing will be")
    document = yaml.safe_load((workplace.folder / "configs" / "nvidia-h200" / "gemm_scale.yaml").read_text())
    assert document["target"]["capability"] == "9.0"
    assert sorted(entry["problem"]["M"] for entry in document["entries"]) == [64, 128]
    assert all(entry["config"]["num_warps"] in {4, 8} for entry in document["entries"])


def test_a_process_that_allows_predictions_gets_the_config_and_another_gets_baseline(swept):
    workplace, _ = swept
    done = workplace.python(
        f"""
        import json
        import msgspec
        import fusetune

        ask = dict(M=128, N=512, K=1024, target="rtx4090")
        fusetune.load("configs")
        careful = fusetune.explain(**ask)
        fusetune.load({str(FILE)!r}, allow_predicted=True)
        found = fusetune.explain(**ask)
        print(json.dumps([careful.config.label(), msgspec.to_builtins(found.config), found.rung, found.explain()]))
        """
    )
    assert done.returncode == 0, done.stderr
    careful, config, rung, text = json.loads(done.stdout)
    assert careful == "64x64x32 w4 s2"
    assert (config, rung) == (workplace.entry()["config"], "exact")
    assert "predicted, unverified" in text
    assert str(FILE) in text
    assert done.stderr == "", "the environment is the one that it was compiled in: nothing to warn of"


def _report(workplace: Workplace, form: str) -> str:
    workplace.environment["COLUMNS"] = "160"
    done = workplace.fusetune("report", "--configs", "configs", "--format", form)
    assert (done.returncode, done.stderr) == (EXIT_OK, "")
    return done.stdout


def test_the_report_for_people_shows_the_config_and_that_it_was_not_timed(swept):
    workplace, _ = swept
    text, entry = _report(workplace, "table"), workplace.entry()
    (line,) = [line for line in text.splitlines() if f" {_label(entry['config'])} " in line]
    assert re.search(rf"\bpredicted unverified .*{re.escape(entry['run'])}$", line)
    assert "nothing was timed, so nothing is proved" in " ".join(text.split())


def test_the_report_as_markdown_shows_it_too_with_its_run(swept):
    workplace, _ = swept
    text, entry = _report(workplace, "md"), workplace.entry()
    assert any(
        re.search(rf" {re.escape(_label(entry['config']))} .*\bnot timed\b.*\bunverified\b", line)
        for line in text.splitlines()
    )
    assert "nothing was timed, so nothing is proved" in " ".join(text.split())
    assert f"Run {entry['run']}" in text


def test_the_report_as_json_holds_the_entry_and_its_run(swept):
    workplace, _ = swept
    found, entry = json.loads(_report(workplace, "json")), workplace.entry()
    (row,), (run,) = found["rows"], found["runs"]
    for name in ("problem", "config", "evidence", "verdict", "reason", "predicted_us", "run", "environment"):
        assert row[name] == entry[name], name
    assert (row["config_us"], row["gain"]) == (None, None)
    assert (run["run"], run["finished"]) == (entry["run"], True)
    assert run["counts"]["compiled"] > 20


def test_the_report_as_csv_holds_the_entry_in_one_row(swept):
    workplace, _ = swept
    (row,) = csv.DictReader(io.StringIO(_report(workplace, "csv")))
    entry = workplace.entry()
    assert {name: int(row[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")} == {
        name: entry["config"][name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    }
    assert (row["gpu"], row["evidence"], row["config_us"]) == ("NVIDIA GeForce RTX 4090", "predicted", "")
    assert float(row["predicted_config_us"]) == entry["predicted_us"]["config"]


def test_the_static_gate_passes_what_the_sweep_wrote(swept):
    workplace, _ = swept
    done = workplace.fusetune("gate", "--static")
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "gate: 1 ok (compiled, nothing was timed)"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((256, 128, 32, 4, 2), r"spills: \d{4} bytes of stack a thread"),
        ((128, 128, 64, 8, 5), r"needs 256\.0 KiB of shared memory, NVIDIA GeForce RTX 4090 has 99\.0 KiB"),
    ],
    ids=["spills", "too much shared memory"],
)
def test_the_static_gate_fails_on_an_entry_that_was_edited_into(swept, workplace, change, told):
    before, _ = swept
    document = yaml.safe_load((before.folder / FILE).read_text())
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    document["entries"][0]["config"] |= dict(zip(names, change, strict=True))
    (workplace.folder / FILE).parent.mkdir(parents=True)
    (workplace.folder / FILE).write_text(yaml.safe_dump(document))
    done = workplace.fusetune("gate", "--static")
    assert done.returncode == EXIT_REGRESSION, done.stdout + done.stderr
    assert re.search(rf"^REGRESSION +{FILE} .*{told}", done.stdout, re.MULTILINE), done.stdout


def test_an_entry_that_nothing_can_launch_is_a_bad_file_that_the_gate_names(swept, workplace):
    before, _ = swept
    document = yaml.safe_load((before.folder / FILE).read_text())
    document["entries"][0]["config"]["variant"] = "no_such_variant"
    (workplace.folder / FILE).parent.mkdir(parents=True)
    (workplace.folder / FILE).write_text(yaml.safe_dump(document))
    done = workplace.fusetune("gate", "--static")
    assert done.returncode == EXIT_USAGE, done.stdout + done.stderr
    assert re.match(rf"Error: {FILE}, line \d+: .*there is no variant 'no_such_variant'", done.stderr), done.stderr


def test_the_gate_without_a_gpu_exits_4_and_names_the_static_one(swept):
    workplace, _ = swept
    done = workplace.fusetune("gate")
    assert done.returncode == EXIT_NO_GPU
    assert done.stdout == ""
    assert "`fusetune gate --static` checks without one" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sweep", "--M", "128", "--K", "1024"), "--N: N is missing: a problem has M, K and N"),
        (("sweep", *SIZES, "--target", "rtx4091"), "target 'rtx4091' is not known; use one of: rtx4090"),
        (("sweep", *SIZES, "--op", "conv"), "op 'conv' is not known"),
        (("sweep", *SIZES, "--dtype", "float16", "--precision", "ieee"), "applies to float32 inputs only"),
        (("gate", "--static", "nowhere"), "nowhere: no such file or folder"),
        (("gate", "--static"), "no tuned configs in ./configs; `fusetune sweep"),
        (("report", "--configs", "nowhere"), "there is no such folder"),
    ],
)
def test_a_mistake_exits_2_with_one_message_and_writes_nothing(workplace, arguments, told):
    done = workplace.fusetune(*arguments)
    assert done.returncode == EXIT_USAGE
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(workplace.folder.iterdir()) == []


def test_a_damaged_file_stops_gate_and_sweep_and_stays_as_it_is(workplace):
    (workplace.folder / FILE).parent.mkdir(parents=True)
    (workplace.folder / FILE).write_text("schema: 1\nop: gemm_scale\nentries: 3\n")
    for command in (("gate", "--static"), ("sweep", *SIZES, "--space", "seed")):
        done = workplace.fusetune(*command)
        assert done.returncode == EXIT_USAGE, done.stdout
        assert re.search(rf"Error: .*{FILE}, line \d", done.stderr), done.stderr
    assert (workplace.folder / FILE).read_text().endswith("entries: 3\n")


def test_inspect_tells_of_the_brief_s_launch_and_what_its_profile_says(workplace):
    metrics = {
        "sm__throughput.avg.pct_of_peak_sustained_elapsed": 44.43,
        "launch__grid_size": 2048,
        "sm__warps_active.avg.pct_of_peak_sustained_active": 24.01,
        "dram__throughput.avg.pct_of_peak_sustained_elapsed": 16.68,
        "lts__t_sector_hit_rate.pct": 96.31,
    }
    (workplace.folder / "metrics.json").write_text(json.dumps({"fused_gemm_scale_kernel": metrics}))
    sizes = ("--M", "1024", "--K", "8192", "--N", "8192")
    done = workplace.fusetune("inspect", *sizes, "--config", "64,64,32,4,3", "--ncu", "metrics.json")
    assert done.returncode == EXIT_OK, done.stderr
    assert "25.0 %: 3 CTAs an SM, 12 of 48 warps" in done.stdout
    assert "24 % warps active, equal to the occupancy limit of 25 %" in done.stdout
    as_json = workplace.fusetune("inspect", *sizes, "--config", "64,64,32,4,3", "--ncu", "metrics.json", "--json")
    found = json.loads(as_json.stdout)
    assert found["profile"][0]["limit"] == "compute"
    assert found["occupancy"]["warps_per_sm"] == 12


def test_a_list_of_problems_is_predicted_one_after_another(workplace):
    (workplace.folder / "shapes.yaml").write_text("- {M: 64, N: 64, K: 64}\n- {M: 64, N: 64, K: 64, dtype: float16}\n")
    done = workplace.fusetune("sweep", "--shapes", "shapes.yaml", "--space", "seed")
    assert done.returncode == EXIT_OK, done.stderr
    assert "2 of 2 problems of shapes.yaml done." in done.stdout
    entries = yaml.safe_load((workplace.folder / FILE).read_text())["entries"]
    assert {entry["problem"]["dtype"] for entry in entries} == {"float32", "float16"}


def test_targets_needs_neither_a_gpu_nor_a_folder(workplace):
    done = workplace.run(COMMAND, "targets", "rtx4090", "--json")
    assert json.loads(done.stdout)[0]["sms"] == 128
