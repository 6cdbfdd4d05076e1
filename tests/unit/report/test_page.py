"""A run's page and the index as text: the answer first, self-contained, escaped; tests/e2e has a browser look."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_examples import KEPT, MEASURED_FILE, measured_run, page_of, predicted_run, replace, write_run

from fusetune.core.config import NamedConfig
from fusetune.core.problem import NamedProblem
from fusetune.errors import UsageError
from fusetune.report.files import write_whole
from fusetune.report.html.data import RunData, RunsData, run_data
from fusetune.report.html.render import render_html, write_pages
from fusetune.report.model import Report, load_run, rows_from_files
from fusetune.store.journal import Candidate, Note, RunEnd, RunStart, Sample, read_journal
from fusetune.units import format_us

JOURNALS = Path(__file__).parents[2] / "support" / "journals"
REAL = "20261123T062848-845c"
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
MOST_BYTES = 1_500_000


class Page(HTMLParser):
    """The tags of a page, with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def named(self, tag: str, style: str | None = None) -> list[dict[str, str | None]]:
        found = [attributes for name, attributes in self.tags if name == tag]
        return found if style is None else [one for one in found if style in (one.get("class") or "").split()]

    def axes(self) -> dict[str, Any]:
        index = next(i for i, attributes in enumerate(self.named("script")) if attributes.get("id") == "axes")
        found: dict[str, Any] = json.loads(self.scripts[index])
        return found

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, KEPT.run, measured_run())
    return page_of(KEPT.run, folder)


@pytest.fixture(scope="module")
def real() -> str:
    return page_of(REAL, JOURNALS)


def test_a_page_asks_for_nothing_from_a_network(text: str) -> None:
    page = Page(text)
    for tag in ("script", "img", "iframe"):
        assert all("src" not in attributes for attributes in page.named(tag))
    assert [one["href"] for one in page.named("link")] == ["data:,"]
    policies = [one for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policies[0]["content"]).startswith("default-src 'none'")


def test_its_headline_is_the_answer_and_why_and_what_was_tried_follow(text: str) -> None:
    told = Page(text).text
    answer = told.index("2.5x faster than BASELINE (5.30 us, was 13.2 us), kept with 95 % confidence")
    why = told.index("The gain over BASELINE and over the fastest 4-warp / 2-stage config is confirmed.")
    tried = told.index("20 candidates of the space full: 15 ran and were right, 4 could not run or win here, 1 failed")
    assert answer < why < tried


def test_reasons_of_rejection_are_told_in_words_with_an_example(text: str) -> None:
    told = Page(text).text
    assert "shared_memory : it needs more shared memory than the GPU gives a CTA" in told
    assert "wrong_result : it ran, and its result was wrong" in told
    assert re.search(r"w4 s2\S*: error 0.3 is over 0.001", told)


def test_every_timed_candidate_is_a_point_and_a_row_in_the_same_order(text: str) -> None:
    page, data = Page(text), run_data(list(measured_run()))
    assert len(data.points) == 15
    for name, axis in page.axes().items():
        assert len(axis["x"]) == 15, name
    inside = text.partition('id="candidates"')[2].partition("</figure>")[0]
    numbers = [int(number) for number in re.findall(r'data-i="(\d+)"', inside)]
    assert numbers[:15] == list(range(15))
    rows = re.findall(r"<tr(?: class=\"chosen\")?><td>([^<]*)<td>([^<]*)", text.partition("candidates-table")[2])
    assert [name.split(" (")[0] for name, _ in rows[:15]] == [point.label for point in data.points]
    assert rows[0][1] == format_us(data.points[0].time_us)


def test_what_is_compared_is_marked_in_every_plot_of_times(real: str) -> None:
    for name in ("candidates", "progress", "parameters", "tiles", "roofline"):
        figure = real.partition(f'id="{name}"')[2].partition("</figure>")[0]
        assert re.search(r'class="mark(-line)? baseline"', figure), name
        assert re.search(r'class="mark(-line)? kept"', figure), name
    tiles = real.partition('id="tiles"')[2].partition("</figure>")[0]
    assert len(re.findall('class="frame kept"', tiles)) == 1
    assert "linearGradient" in tiles


def test_gains_stand_as_intervals_beside_the_gain_that_is_needed(real: str) -> None:
    figure = real.partition('id="gains"')[2].partition("</figure>")[0]
    pairs = run_data(list(read_journal(JOURNALS / f"{REAL}.jsonl.gz"))).pairs
    assert len(re.findall('class="interval ', figure)) == len(pairs) == 8
    assert len(re.findall('<svg class="track" .*?class="needed"', figure)) == 8
    assert "2 % needed" in figure
    assert "+77.3 % [+77.3, +77.4] %" in figure


def test_a_page_of_a_real_sweep_is_small(real: str) -> None:
    assert len(real.encode()) < MOST_BYTES / 3


def test_a_page_of_a_huge_run_is_small_all_the_same_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    (first, *_) = measured_run()
    first = replace(first, op="another", problem=NamedProblem(n=4096))
    configs = [(number, NamedConfig(BLOCK=number + 1, num_warps=2 ** (number % 4))) for number in range(6000)]
    records = [first, *(Candidate(number, config, "checked") for number, config in configs)]
    records += [Sample(number, 1, 10.0 + number / 100) for number, _ in configs]
    write_run(tmp_path, KEPT.run, records)
    page = page_of(KEPT.run, tmp_path)
    assert len(page.encode()) < MOST_BYTES
    assert "The 3500 slowest are left out." in page
    assert "No verdict: the journal has no last line" in page


def test_each_plot_is_described_for_whoever_does_not_see_it(text: str) -> None:
    plots = [one for one in Page(text).named("svg") if one.get("role") == "img"]
    assert len(plots) > 8
    assert all(one["aria-label"] for one in plots)


def test_whoever_uses_no_mouse_finds_buttons_labels_and_a_way_past_the_header(text: str) -> None:
    page = Page(text)
    assert page.named("html")[0]["lang"] == "en"
    assert page.named("a")[0] == {"class": "skip", "href": "#candidates"}
    assert len(page.named("button")) >= 12
    assert len(page.named("label")) == len(page.named("input")) + len(page.named("select"))
    assert all(one.get("tabindex") == "0" for one in page.named("div", "scroll"))


def test_the_config_and_the_next_commands_are_there_to_be_copied(text: str) -> None:
    page = Page(text)
    assert len(page.named("button", "copy")) == len(page.named("code"))
    assert f"fusetune report --run {KEPT.run}" in page.text
    assert "num_warps: 4, num_stages: 3}" in page.text


def test_a_string_from_a_file_never_becomes_markup(tmp_path: Path) -> None:
    records: list[Any] = []
    for record in measured_run():
        if isinstance(record, RunStart):
            record = replace(record, target=replace(record.target, name=EVIL), fusetune=EVIL)  # noqa: PLW2901
        if isinstance(record, RunEnd):
            record = replace(record, message=EVIL, file=EVIL)  # noqa: PLW2901
        if isinstance(record, Candidate) and record.status in {"failed", "rejected"}:
            record = replace(record, reason=EVIL, detail=EVIL)  # noqa: PLW2901
        records.append(record)
    records.insert(-1, Note(EVIL))
    write_run(tmp_path, KEPT.run, records)
    page = page_of(KEPT.run, tmp_path)
    assert EVIL not in page
    parsed = Page(page)
    assert parsed.named("img") == []
    assert len(parsed.named("script")) == 2
    assert "&lt;/script&gt;" in page


def test_a_predicted_run_is_drawn_and_says_that_nothing_was_timed(tmp_path: Path) -> None:
    (entry,) = [record.entry for record in predicted_run() if isinstance(record, RunEnd)]
    assert entry is not None
    write_run(tmp_path, entry.run, predicted_run())
    page = page_of(entry.run, tmp_path)
    assert "Predicted only: 2.6x faster than BASELINE (502 us, BASELINE 1.30 ms)" in page
    assert "predicted time, us" in page
    assert "nothing was timed" in page
    assert 'id="gains"' not in page
    assert 'id="progress"' not in page


def test_several_problems_are_compared_side_by_side() -> None:
    rows = rows_from_files([(Path("x.yaml"), MEASURED_FILE)])
    page = render_html(Report(rows=tuple(rows)), {})
    measured = [row for row in rows if row.gain is not None]
    figure = page.partition('id="comparison"')[2].partition("</figure>")[0]
    assert len(re.findall('class="interval ', figure)) == len(measured) == 2


def test_many_runs_are_an_index_with_one_page_a_run(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs, KEPT.run, measured_run())
    (entry,) = [record.entry for record in predicted_run() if isinstance(record, RunEnd)]
    assert entry is not None
    write_run(runs, entry.run, predicted_run())
    data = RunsData()
    one, other = (load_run(run, [runs], summarize=data.summarize) for run in (KEPT.run, entry.run))
    report = Report(rows=(*one.rows, *other.rows), runs=(*one.runs, *other.runs))
    assert write_pages(report, data.by_run, tmp_path / "a b.html", write_whole) == 3
    links = [one["href"] for one in Page((tmp_path / "a b.html").read_text(encoding="utf-8")).named("a")]
    assert f"a%20b-runs/{KEPT.run}.html" in links
    page = Page((tmp_path / "a b-runs" / f"{KEPT.run}.html").read_text(encoding="utf-8"))
    assert "../a%20b.html" in [one["href"] for one in page.named("a")]
    assert "2.5x faster than BASELINE" in page.text


def test_pages_that_have_no_place_are_one_clear_line(tmp_path: Path) -> None:
    write_run(tmp_path, KEPT.run, measured_run())
    data = RunsData()
    one = load_run(KEPT.run, [tmp_path], summarize=data.summarize)
    report = replace(one, rows=(*one.rows, replace(one.rows[0], run="another")))
    (tmp_path / "page-runs").write_text("in the way", encoding="utf-8")
    with pytest.raises(UsageError, match=r"page-runs for the pages of runs: .*; name another file"):
        write_pages(report, data.by_run, tmp_path / "page.html", write_whole)


def test_a_real_sweep_has_its_roof_at_the_gpu_s_documented_peaks_and_its_clock(real: str) -> None:
    data = run_data(list(read_journal(JOURNALS / f"{REAL}.jsonl.gz")))
    assert data.roofs is not None
    assert data.roofs.tflops(5.76) == pytest.approx(2 * 128 * 512 * 1025 / 5.76e6, rel=1e-6)
    assert data.roofs.peak_tflops > data.roofs.tflops(min(point.time_us for point in data.points))
    assert "SM clock, MHz" in real.partition('id="clocks"')[2]


def test_what_was_compiled_and_has_no_time_is_listed_behind_what_has_one(tmp_path: Path) -> None:
    records = [record for record in measured_run() if not (isinstance(record, Sample) and record.id != 1)]
    data = run_data(records)
    assert [point.id for point in data.points] == [1]
    assert len(data.untimed) == 14
    write_run(tmp_path, KEPT.run, records)
    page = page_of(KEPT.run, tmp_path)
    assert len(re.findall("<tr data-fell><td>", page)) == 14
    assert re.search(r"<tr data-fell><td>[^<]* \(BASELINE\)<td>-<td>", page)


def test_a_peak_that_no_document_states_is_not_drawn(tmp_path: Path) -> None:
    records = [
        replace(record, problem=replace(record.problem, precision="bf16x3")) if isinstance(record, RunStart) else record
        for record in measured_run()
    ]
    data: RunData = run_data(records)
    assert data.roofs is None
    assert re.search("no document states the peak of .* for float32 bf16x3", data.no_roofs)
