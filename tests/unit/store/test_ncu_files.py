"""A profiler's metrics in each form that they come in."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from fusetune.errors import UsageError
from fusetune.store.ncu_files import UNNAMED, read_metrics

SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
RAW = """==PROF== Connected to process 4711 (/usr/bin/python3)
a line of the program itself
==PROF== Disconnected from process 4711
"ID","Process ID","Kernel Name","Block Size","gpu__time_duration.sum","sm__throughput.avg.pct_of_peak_sustained_elapsed"
"","","","","usecond","%"
"0","4711","tiled_products(const float *, int)","(128, 1, 1)","2,020.5","44.43"
"1","4711","tiled_products(const float *, int)","(128, 1, 1)","2,021.5","44.57"
"2","4711","finish_split","(128, 1, 1)","3.25","n/a"
"""
LONG = """"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","tiled_products","Command line profiler metrics","gpu__time_duration.sum","ms","2.5"
"0","tiled_products","Command line profiler metrics","launch__grid_size","","2,048"
"""


def written(folder: Path, text: str, name: str = "metrics.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_brief_s_json_is_read_with_one_launch_a_kernel(tmp_path: Path) -> None:
    found = read_metrics(written(tmp_path, json.dumps({"k": {SM: 44.43, "launch__grid_size": 2048}}), "m.json"))
    assert found == {"k": ({SM: 44.43, "launch__grid_size": 2048.0},)}


def test_metrics_without_a_kernel_are_those_of_one_that_has_no_name(tmp_path: Path) -> None:
    found = read_metrics(written(tmp_path, json.dumps({SM: 44.43, "device__name": "RTX"}), "m.json"))
    assert found == {UNNAMED: ({SM: 44.43},)}


def test_a_kernel_that_was_launched_several_times_has_a_list_and_text_values_are_left_out(tmp_path: Path) -> None:
    text = json.dumps({"k": [{SM: "44.43", "device__name": "RTX"}, {SM: 45}]})
    assert read_metrics(written(tmp_path, text, "m.json"))["k"] == ({SM: 44.43}, {SM: 45.0})


def test_the_raw_page_is_read_past_the_program_s_own_lines_with_units_undone(tmp_path: Path) -> None:
    found = read_metrics(written(tmp_path, RAW))
    assert [launch[SM] for launch in found["tiled_products"]] == [44.43, 44.57]
    assert found["tiled_products"][0]["gpu__time_duration.sum"] == pytest.approx(2_020_500)
    assert found["finish_split"] == ({"gpu__time_duration.sum": pytest.approx(3250)},)


def test_a_metric_a_row_is_read_too(tmp_path: Path) -> None:
    found = read_metrics(written(tmp_path, LONG))
    assert found == {"tiled_products": ({"gpu__time_duration.sum": 2.5e6, "launch__grid_size": 2048.0},)}


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("{", "m.json", "line 1: not JSON"),
        ("[1]", "m.json", "expected an object of kernels"),
        ('{"k": 3}', "m.json", "'k' has 3"),
        ('{"k": {"device__name": "x"}}', "m.json", "holds no metrics"),
        ("a,b\n1,2\n", "m.csv", "no column 'Kernel Name'"),
        ("", "m.csv", "no column"),
    ],
)
def test_a_file_that_says_nothing_is_named_with_what_is_wrong(tmp_path: Path, text: str, name: str, why: str) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(UsageError, match=why) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_metrics(tmp_path / "none.json")


def test_a_report_without_nsight_s_module_says_how_to_get_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncu_report", None)
    with pytest.raises(UsageError, match=r"extras/python.*--page raw"):
        read_metrics(written(tmp_path, "", "m.ncu-rep"))


def test_a_report_is_read_through_nsight_s_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with the calls of Nsight Compute's Python report interface."""

    class Metric:
        def __init__(self, value: object) -> None:
            self._value = value

        def value(self) -> object:
            return self._value

    class Action:
        values = {SM: 44.43, "device__name": "RTX"}  # noqa: RUF012

        def name(self) -> str:
            return "k(int)"

        def metric_names(self) -> tuple[str, ...]:
            return tuple(self.values)

        def metric_by_name(self, name: str) -> Metric:
            return Metric(self.values[name])

    one_range = types.SimpleNamespace(num_actions=lambda: 2, action_by_idx=lambda index: Action())
    report = types.SimpleNamespace(num_ranges=lambda: 1, range_by_idx=lambda index: one_range)
    monkeypatch.setitem(sys.modules, "ncu_report", types.SimpleNamespace(load_report=lambda path: report))
    assert read_metrics(written(tmp_path, "", "m.ncu-rep")) == {"k": ({SM: 44.43}, {SM: 44.43})}


DRAM = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
DETAILS_TEXT = """[4711] python3@127.0.0.1
  tiled_products (2048, 1, 1)x(128, 1, 1), Context 1, Stream 7, Device 0, CC 8.9
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    Metric Name             Metric Unit Metric Value
    DRAM Throughput                   %        91.30
"""
DETAILS_CSV = """"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","tiled_products","GPU Speed Of Light Throughput","DRAM Throughput","%","91.30"
"""


def table(delimiter: str, *rows: tuple[str, ...]) -> str:
    """Rows below ID, kernel, duration and DRAM's share, each cell in quotation marks as ncu writes them."""
    lines = [("ID", "Kernel Name", "gpu__time_duration.sum", DRAM), ("", "", "usecond", "%"), *rows]
    return "".join(delimiter.join(f'"{cell}"' for cell in line) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("delimiter", "duration", "share"),
    [
        (",", "2,020.5", "91.30"),
        (",", "2.020,5", "91,30"),
        (",", "2020.5", "91.3 %"),
        (";", "2.020,5", "91,30"),
        (";", "2020,500", "91,30"),
        (";", "2,020.5", "91.30"),
        ("\t", "2\u202f020,5", "91,30"),
        ("\t", "2'020.5", "91.30"),
        (",", "2.0205e+03", "91.3"),
    ],
)
def test_commas_and_points_are_what_the_numbers_of_the_file_say(
    tmp_path: Path, delimiter: str, duration: str, share: str
) -> None:
    found = read_metrics(written(tmp_path, table(delimiter, ("0", "k(int)", duration, share))))
    assert found["k"][0] == {"gpu__time_duration.sum": pytest.approx(2_020_500), DRAM: pytest.approx(91.30)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_table_is_read_however_a_shell_saved_it(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(RAW.replace("\n", line_end).encode(encoding))
    assert [launch[SM] for launch in read_metrics(path)["tiled_products"]] == [44.43, 44.57]


def test_two_tables_in_one_file_are_read_each_by_its_own_header(tmp_path: Path) -> None:
    other = f'"ID","Kernel Name","{DRAM}"\n"","","%"\n"0","tiled_products","12.5"\n'
    found = read_metrics(written(tmp_path, RAW + "==PROF== Disconnected\n" + other))
    assert found["tiled_products"][-1] == {DRAM: 12.5}
    assert len(found["tiled_products"]) == 3


@pytest.mark.parametrize("given", ["n/a", "(!) nan", "nan", "inf", "", "1_024", "ninety", "1.2.3", "1,2,3", "--"])
def test_a_value_that_is_no_number_is_left_out(tmp_path: Path, given: str) -> None:
    found = read_metrics(written(tmp_path, table(",", ("0", "k", "2.5", given))))
    assert found == {"k": ({"gpu__time_duration.sum": 2500.0},)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (table(",", ("0", "k", "2,020.5", "91,30")), "'91,30' has a decimal comma and '2,020.5' a decimal point"),
        (table(";", ("0", "k", "2,020", "91")), "nothing tells whether '2,020' has decimals or thousands"),
        (table(",", ("0", "k", "2", "3", "4")), "line 3: 5 cells under 4 headings"),
        (DETAILS_TEXT, "ncu's page for people to read; write its table with `ncu --csv --page raw`"),
        ("==PROF== Connected to process 4711\n" + DETAILS_TEXT, "--page raw"),
        (DETAILS_CSV, "ncu's details page.*--page raw"),
        (DETAILS_CSV.replace(",", ";"), "ncu's details page.*--page raw"),
        (f'"Kernel Name","{DRAM}","{DRAM}"\n"k","1.5","2.5"\n', "is there twice for one launch"),
        ("\0\1\2", "it is not text"),
        ('{"k": {"a__b": 1}, "k": {"a__b": 2}}', "'k' is there twice"),
        ('{"k": ' + "[" * 100_000, "nested too deep"),
        ('{"k": [[1]]}', "'k' has a list where"),
        ('{"k": {"a__b": ' + "9" * 5000 + "}}", "holds no metrics"),
        ('{"k": {"a__b": NaN, "c__d": -Infinity, "e__f": true, "g__h": {"x": 1}}}', "holds no metrics"),
        ('{"\\ud800\\u001b": 3}', r"has 3.0 where"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    path = written(tmp_path, text, "metrics.txt")
    with pytest.raises(UsageError, match=why) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_report_is_known_by_its_first_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncu_report", None)
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"NVR\0\1\2\xff\xfe")
    with pytest.raises(UsageError, match=r"extras/python.*--page raw"):
        read_metrics(path)


def test_a_report_that_nsight_s_module_breaks_on_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("no ranges\nat all")

    report = types.SimpleNamespace(num_ranges=broken)
    monkeypatch.setitem(sys.modules, "ncu_report", types.SimpleNamespace(load_report=lambda path: report))
    with pytest.raises(UsageError, match="Nsight Compute cannot read it: no ranges"):
        read_metrics(written(tmp_path, "", "m.NCU-REP"))
