"""`fusetune targets`, `inspect`, `profile` and `sweep --shapes` from outside: output, and one sentence a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fusetune.cli.main import cli
from fusetune.core.target import known_targets
from fusetune.errors import FusetuneError, NoUsableGpuError, UsageError

SIZES = ("--M", "128", "--K", "1024", "--N", "512")


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def failed(*arguments: str) -> FusetuneError:
    error = ran(*arguments).exception
    assert isinstance(error, FusetuneError), error
    return error


def test_the_table_lists_every_gpu_by_the_name_that_target_takes() -> None:
    lines = ran("targets").output.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [target.aliases[0] for target in known_targets()]


def test_one_gpu_is_told_with_the_document_behind_each_figure_and_none_is_guessed() -> None:
    text = ran("targets", "l40s").output
    assert "NVIDIA L40S data sheet" in text
    (missing,) = (line for line in text.splitlines() if "bytes of L2" in line)
    assert missing.split()[0] == "-"
    assert "no document states it" in missing


def test_targets_as_json_hold_limits_and_sources() -> None:
    (found,) = json.loads(ran("targets", "4090", "--json").output)
    assert (found["sm"], found["sms"], found["slug"]) == (89, 128, "nvidia-geforce-rtx-4090")
    assert found["sources"]["l2_bytes"]
    assert len(json.loads(ran("targets", "--json").output)) == len(known_targets())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("targets", "rtx9090"), "rtx9090"),
        (("inspect", *SIZES, "--target", "rtx9090"), "rtx9090"),
        (("inspect", *SIZES, "--config", "64,64"), "64,64,32,4,3"),
        (("inspect", *SIZES, "--all", "--config", "64,64,32"), "leave out --config"),
        (("inspect", *SIZES, "--all", "--compile", "some"), "--compile"),
        (("inspect", *SIZES, "--sass", "--json"), "leave out --json"),
        (("inspect", *SIZES, "--ncu", "/no/such/file.json"), "/no/such/file.json"),
        (("inspect", *SIZES, "--op", "nothing"), "nothing"),
        (("inspect", *SIZES, "--mode", "train"), "mode"),
        (("sweep",), "--M, --K, --N missing"),
        (("sweep", "--M", "3"), "--K, --N: K, N are missing"),
        (("sweep", *SIZES, "--shapes", "s.yaml"), "leave out --M"),
        (("sweep", "--shapes", "/no/such/s.yaml", "--target", "rtx4090"), "/no/such/s.yaml"),
        (("profile", *SIZES, "--config", "library", "--print-command"), "cannot be read"),
        (("profile", *SIZES, "--print-command", "-o", "/no/such/folder/m.json"), "/no/such/folder"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(arguments: tuple[str, ...], why: str) -> None:
    error = failed(*arguments)
    assert isinstance(error, UsageError)
    assert why in str(error)
    assert "\n" not in str(error)


def test_profiling_without_ncu_exits_with_the_code_for_no_gpu_and_says_what_to_do() -> None:
    error = failed("profile", *SIZES, "--ncu", "/no/such/ncu")
    assert isinstance(error, NoUsableGpuError)
    assert error.exit_code == 4


def test_the_ncu_command_can_be_printed_instead() -> None:
    text = ran("profile", *SIZES, "--print-command", "--metrics", "smsp__inst_executed.sum").output
    assert text.startswith("ncu --clock-control none")
    assert "smsp__inst_executed.sum" in text
    assert "fusetune.measure.profiled" in text


def test_a_list_s_mistakes_are_told_before_anything_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("M,N,K,op,mode\n64,64,64,,\n64,64,64,gemm_scale_bn,\n64,64,64,gemm_scale,eval\n")
    error = failed("sweep", "--shapes", str(path), "--target", "rtx4090", "--output", str(tmp_path / "configs"))
    lines = str(error).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}, line 3", f"{path}, line 4"]
    assert not (tmp_path / "configs").exists()
