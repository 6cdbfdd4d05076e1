"""The HTML page as text: self-contained, escaped, with every candidate; a browser looks at it in tests/e2e."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_examples import KEPT, MEASURED_FILE, gain_of, measured_run, predicted_run, replace, write_run

from fusetune.core.decision import KeepRule
from fusetune.report.html import figures
from fusetune.report.html.data import RunData, run_data
from fusetune.report.html.render import render_html
from fusetune.report.model import Report, load_run, rows_from_files
from fusetune.store.journal import Note, RunEnd, RunStart, read_journal

JOURNALS = Path(__file__).parents[2] / "support" / "journals"
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The tags of a page, with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def figures(self) -> dict[str, Any]:
        index = next(i for i, attributes in enumerate(self.named("script")) if attributes.get("id") == "figures")
        found: dict[str, Any] = json.loads(self.scripts[index])
        return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, KEPT.run, measured_run())
    return render_html(load_run(KEPT.run, [folder]), [folder])


def test_a_page_asks_for_nothing_from_a_network(text: str) -> None:
    page = Page(text)
    for tag in ("script", "img", "iframe"):
        assert all("src" not in attributes for attributes in page.named(tag))
    assert page.named("link") == []
    policies = [one for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policies[0]["content"]).startswith("default-src 'none'")


def test_every_timed_candidate_is_a_point_with_config_and_resources_in_its_hover(text: str) -> None:
    drawn = Page(text).figures()["run0-candidates"]["data"]
    data = run_data(list(measured_run()))
    assert len(drawn[0]["y"]) == len(data.points) == 15
    assert sorted(drawn[0]["y"]) == [point.time_us for point in data.points]
    baseline, chosen = drawn[1], drawn[2]
    assert (baseline["name"], len(baseline["y"])) == ("BASELINE", 1)
    assert "registers" in chosen["text"][0]
    assert KEPT.config.label() in chosen["text"][0]


def test_all_figures_of_a_measured_run_are_there(text: str) -> None:
    names = set(Page(text).figures())
    assert {"run0-candidates", "run0-tiles", "run0-roofline", "run0-gain0", "run0-gain1"} <= names


def test_each_plot_has_its_title_and_each_place_for_a_plot_its_figure(text: str) -> None:
    page = Page(text)
    places = [one for one in page.named("div") if one.get("class") == "plot"]
    assert {one["id"] for one in places} == set(page.figures())
    titles = {one.get("id") for one in page.named("h3")}
    assert all(one["role"] == "img" and one["aria-labelledby"] in titles for one in places)


def test_whoever_uses_no_mouse_finds_buttons_labels_and_a_way_past_the_header(text: str) -> None:
    page = Page(text)
    assert page.named("html")[0]["lang"] == "en"
    assert page.named("a")[0] == {"class": "skip", "href": "#problems"}
    assert len(page.named("button")) >= 12
    assert len(page.named("label")) == len(page.named("input")) + len(page.named("select"))
    assert all(one.get("tabindex") == "0" for one in page.named("div") if one.get("class") == "scroll")


def test_a_string_from_a_file_never_becomes_markup(tmp_path: Path) -> None:
    records: list[Any] = []
    for record in measured_run():
        if isinstance(record, RunStart):
            record = replace(record, target=replace(record.target, name=EVIL), fusetune=EVIL)  # noqa: PLW2901
        if isinstance(record, RunEnd):
            record = replace(record, message=EVIL, file=EVIL)  # noqa: PLW2901
        records.append(record)
    records.insert(-1, Note(EVIL))
    write_run(tmp_path, KEPT.run, records)
    page = render_html(load_run(KEPT.run, [tmp_path]), [tmp_path])
    assert EVIL not in page
    parsed = Page(page)
    assert parsed.named("img") == []
    assert len(parsed.named("script")) == 3
    assert "&lt;/script&gt;" in page


def test_figures_escape_what_plotly_would_take_for_markup() -> None:
    row = rows_from_files([(Path("x.yaml"), MEASURED_FILE)])[0]
    figure = figures.plain(figures.comparison([replace(row, gpu=EVIL)], 0.02))
    assert "<script" not in json.dumps(figure)
    assert "&lt;script" in json.dumps(figure)


def test_a_predicted_run_is_drawn_and_says_that_nothing_was_timed(tmp_path: Path) -> None:
    (entry,) = [record.entry for record in predicted_run() if isinstance(record, RunEnd)]
    assert entry is not None
    write_run(tmp_path, entry.run, predicted_run())
    page = render_html(load_run(entry.run, [tmp_path]), [tmp_path])
    drawn = Page(page).figures()
    assert "predicted time" in drawn["run0-candidates"]["layout"]["yaxis"]["title"]["text"]
    assert "nothing was timed" in page
    assert not any(name.startswith("run0-gain") for name in drawn)


def test_several_problems_are_compared_side_by_side() -> None:
    rows = rows_from_files([(Path("x.yaml"), MEASURED_FILE)])
    page = Page(render_html(Report(rows=tuple(rows)), []))
    measured = [row for row in rows if row.gain is not None]
    assert len(page.figures()["comparison"]["data"][0]["x"]) == len(measured)


def test_a_real_sweep_has_its_roof_at_the_gpu_s_documented_peaks_and_its_clock() -> None:
    data = run_data(list(read_journal(JOURNALS / "20261123T062848-845c.jsonl.gz")))
    assert data.roofs is not None
    assert data.roofs.tflops(5.76) == pytest.approx(2 * 128 * 512 * 1025 / 5.76e6, rel=1e-6)
    assert data.roofs.peak_tflops > data.roofs.tflops(min(point.time_us for point in data.points))
    drawn = figures.plain(figures.clocks(data))
    assert max(value for value in drawn["data"][0]["y"] if value) == 1980


def test_a_peak_that_no_document_states_is_not_drawn(tmp_path: Path) -> None:
    records = [
        replace(record, problem=replace(record.problem, precision="bf16x3")) if isinstance(record, RunStart) else record
        for record in measured_run()
    ]
    data: RunData = run_data(records)
    assert data.roofs is None
    assert re.search("no document states the peak of .* for float32 bf16x3", data.no_roofs)


def test_the_gain_that_is_needed_and_the_interval_are_drawn_in_a_distribution() -> None:
    data = run_data(list(measured_run()))
    pair = replace(data.pairs[1], median=0.5, low=0.49, high=0.51)
    layout = figures.plain(figures.gains(pair, KeepRule().min_gain))["layout"]
    lines = [shape["x0"] for shape in layout["shapes"] if shape["type"] == "line"]
    band = next(shape for shape in layout["shapes"] if shape["type"] == "rect")
    assert lines == [50.0, 2.0]
    assert (band["x0"], band["x1"]) == (49.0, 51.0)
    assert gain_of(0.5).min_gain == 0.02
