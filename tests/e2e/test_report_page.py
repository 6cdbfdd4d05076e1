"""The HTML report in headless Chromium, without a network: at three widths, light and dark, and printed."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusetune.ops import built_in
from fusetune.report.html.program import CaseTold, KernelTold, ProgramTold, render_program
from fusetune.report.model import rows_from_files
from fusetune.store.yaml_files import read_config_file

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; `pip install -e '.[dev]'`")

ROOT = Path(__file__).parents[2]
RUN = "20261123T062848-845c"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
WIDTHS = (390, 768, 1280)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="there is no Chromium with its driver; on Debian, `apt-get install chromium chromium-driver`",
    ),
]


def _report(path: Path, *options: str, runs: Path = ROOT / "tests" / "support" / "journals") -> Path:
    command = [sys.executable, "-m", "fusetune", "report", "--html", str(path), *options]
    subprocess.run([*command, "--runs", str(runs)], check=True, capture_output=True)
    return path


TABLE = ("config                    registers    shared  spills", f"a tile of {'many ' * 30} 95  32.0 KiB    none")
"""Columns that a break of the line would mix up."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _report(tmp_path_factory.mktemp("page") / "report.html", "--run", RUN)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    configs = ROOT / "configs" / "nvidia-h200"
    runs = sorted(
        {run for file in configs.glob("*.yaml") for run in re.findall(r"run: (\S+)", file.read_text("utf-8"))}
    )
    for run in runs[:2]:
        shutil.copy(ROOT / "benchmarks" / "results" / "family" / f"{run}.jsonl.gz", folder)
    return _report(folder / "report.html", "--configs", str(configs), runs=folder)


@pytest.fixture(scope="module")
def of_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `fusetune tune --html` writes it, of a program whose verdicts are those of the shipped configs."""
    path = tmp_path_factory.mktemp("program") / "page.html"
    file = ROOT / "configs" / "nvidia-h200" / f"{built_in.default_op()}.yaml"
    rows = rows_from_files([(file, read_config_file(file))])
    kernels = tuple(
        KernelTold(
            name=f"a_kernel_with_quite_a_long_name_{number}",
            place=f"some/folder/of/the/program/with_a_long_name.py:{100 * number}",
            launches=number,
            us=1e3 / number,
            share=0.5 / number,
            cases=(
                CaseTold("4096x4096 float16", row.config.label(), row.verdict, 7, 1e3, ("Since it is.",), row=row),
                CaseTold(
                    "7x7 float32", "w4 s2", "skipped", 1, None, ("skipped: " + "not captured " * 9,), ("So.",), TABLE
                ),
            ),
        )
        for number, row in enumerate(rows[:6], start=1)
    )
    diff = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-" + "old " * 60 + "\n+" + "new " * 60 + "\n"
    told = ProgramTold("x.py", "NVIDIA H200", 61.0, "Share: of all.", kernels, 2.0, 1.1, ("It was right.",), diff=diff)
    path.write_text(render_program(told, {}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1200,1600"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    held = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield held
    finally:
        held.quit()


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    _open(browser, page)
    return browser


def _open(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    _wait(browser, "document.documentElement.dataset.ready === 'true'")


def _wait(browser: Any, condition: str, limit_s: float = 20.0) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, limit_s).until(lambda held: held.execute_script(f"return {condition}"))


def _find(browser: Any, selector: str) -> Any:
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, selector)


def _shown(browser: Any) -> list[str]:
    return list(
        browser.execute_script(
            "return [...document.querySelectorAll('#candidates-table tbody tr')]"
            ".filter((row) => !row.hidden).map((row) => row.cells[0].textContent.trim())"
        )
    )


def test_every_candidate_is_drawn_as_a_point(opened: Any) -> None:
    points = opened.execute_script(
        "return [...document.querySelectorAll('#candidates circle[data-i]')]"
        ".filter((one) => one.getBoundingClientRect().width > 0).length"
    )
    assert points == 928 + 2, "the candidates, BASELINE and the chosen one once more"


def test_a_hover_shows_the_config_and_its_resources(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    figure = _find(opened, "#tiles")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    cell = _find(opened, "#tiles .cell")
    ActionChains(opened).move_to_element(cell).perform()
    _wait(opened, "!document.getElementById('tip').hidden")
    text = _find(opened, "#tip").text
    assert any(text.startswith(config.split(" (")[0]) for config in _shown(opened))
    for told in ("us", "registers", "shared memory", "no spill"):
        assert told in text


def test_a_column_sorts_up_and_down_with_the_keyboard_alone(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = _find(opened, "#candidates-table th:nth-child(2) button")
    times = (
        "[...document.querySelectorAll('#candidates-table tbody tr td:nth-child(2)')]"
        ".map((cell) => cell.textContent).filter((text) => text !== '-').map(parseFloat)"
    )
    for order, state in ((False, "ascending"), (True, "descending")):
        button.send_keys(Keys.ENTER)
        held = opened.execute_script(f"return {times}")
        assert held == sorted(held, reverse=order)
        assert _find(opened, "#candidates-table th:nth-child(2)").get_attribute("aria-sort") == state


def test_a_filter_leaves_what_matches_in_table_and_figure(opened: Any) -> None:
    everything = len(_shown(opened))
    field = _find(opened, "#filter")
    field.send_keys("w8 s3")
    shown = _shown(opened)
    assert 0 < len(shown) < everything
    assert all("w8 s3" in text for text in shown)
    assert _find(opened, "output").text == f"{len(shown)} shown"
    bright = "document.querySelectorAll('#candidates circle[data-i]:not(.dim):not(.ring)').length"
    assert opened.execute_script(f"return {bright}") == len(shown)
    field.clear()
    field.send_keys(" ")
    assert len(_shown(opened)) == everything


def test_the_reader_chooses_what_time_is_drawn_against(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    places = "[...document.querySelectorAll('#candidates circle[data-i]')].map((one) => one.getAttribute('cx'))"
    before = opened.execute_script(f"return {places}")
    Select(_find(opened, "#axis")).select_by_value("registers")
    assert opened.execute_script("return document.querySelector('#candidates .title.x').textContent") == (
        "registers a thread"
    )
    after = opened.execute_script(f"return {places}")
    assert len(after) == len(before)
    assert after != before
    ticks = opened.execute_script("return document.querySelector('#candidates .ticks.xs').textContent")
    assert "100" in ticks


def test_the_config_is_copied_or_at_least_selected(opened: Any) -> None:
    button = _find(opened, ".copy")
    button.click()
    _wait(opened, "document.querySelector('.copy').textContent !== 'Copy'")
    code = _find(opened, ".code code").text
    assert button.text == "Copied" or opened.execute_script("return String(getSelection())") == code


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["page", "index", "of_program"])
def test_nothing_is_wider_than_the_screen_and_no_words_stand_on_each_other(
    browser: Any, which: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    _open(browser, request.getfixturevalue(which), width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('.scroll')].map((one) => one.scrollWidth - one.clientWidth)"
    assert max(browser.execute_script(f"return {inside}")) <= (0 if width >= 1280 else width), "tables whole at 1280"
    overlapping = browser.execute_script(OVERLAPS)
    assert overlapping == []
    text, page = (_luminance(color) for color in browser.execute_script(COLORS))
    lighter, darker = max(text, page), min(text, page)
    assert (lighter + 0.05) / (darker + 0.05) > 7, "WCAG 2.2, level AAA"
    assert (page < 0.1) if scheme == "dark" else (page > 0.9)


def test_a_kernel_s_name_is_whole_on_a_wide_screen_and_a_table_of_text_scrolls_on_a_narrow_one(
    browser: Any, of_program: Path
) -> None:
    lines = "[...document.querySelectorAll('.kernels td:first-child a')].map((one) => one.getClientRects().length)"
    _open(browser, of_program)
    browser.execute_script("for (const one of document.querySelectorAll('.kernels small')) one.textContent = 'x.py:7'")
    assert set(browser.execute_script(f"return {lines}")) == {1}
    _open(browser, of_program, 390)
    wide = "document.querySelector('.kernel pre').scrollWidth - document.querySelector('.kernel pre').clientWidth"
    assert browser.execute_script(f"return {wide}") > 100
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


COLORS = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
OVERLAPS = """
const shown = (one) => one.getBoundingClientRect().width > 0;
const found = [];
for (const svg of document.querySelectorAll('.plot > svg')) {
  const marks = [...svg.querySelectorAll('.mark > text')].filter(shown);
  for (const group of [marks, ...['xs', 'ys'].map((way) => [...svg.querySelectorAll(`.ticks.${way} text`)])]) {
    const boxes = group.map((one) => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([name, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 4) found.push(`${name} on ${other}`);
    }));
  }
  const clip = svg.parentNode.getBoundingClientRect();
  for (const one of marks) {
    if (one.getBoundingClientRect().right > clip.right + 1) found.push(`${one.textContent} is cut off`);
  }
}
return found;
"""


def _luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("which", "at_least"), [("page", 11), ("index", 2), ("of_program", 2)])
def test_a_printed_page_is_complete_and_light(
    browser: Any, which: str, at_least: int, request: pytest.FixtureRequest
) -> None:
    _open(browser, request.getfixturevalue(which), PAPER, scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script(f"return {CLIPPED}") == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= PAPER, "nothing is cut off"
        assert _luminance(browser.execute_script(COLORS)[1]) > 0.9
        made = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(made["data"])
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf + b"".join(_streams(pdf))))
    assert pages >= at_least, "all of it, not what is on the screen"


PAPER = 725
"""What Letter leaves between margins of 12 mm, in pixels of CSS; A4 leaves 703."""
CLIPPED = """[...document.querySelectorAll('body *')].filter((one) => {
  const style = getComputedStyle(one);
  if (['hidden', 'none'].includes(style.visibility) || one.closest('svg, .plot, .skip, .controls')) return false;
  return style.overflowX !== 'visible' && one.scrollWidth > one.clientWidth + 1
    || style.overflowY !== 'visible' && one.scrollHeight > one.clientHeight + 1 || style.maxHeight !== 'none';
}).map((one) => one.className || one.tagName)"""


def _streams(pdf: bytes) -> Iterator[bytes]:
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            yield zlib.decompress(part)
        except zlib.error:
            continue


def test_an_index_leads_to_the_page_of_a_run_and_back(browser: Any, index: Path) -> None:
    _open(browser, index)
    rows = browser.execute_script("return document.querySelectorAll('.problems tbody tr').length")
    assert rows > 30
    links = browser.execute_script("return [...document.querySelectorAll('.problems a')].map((one) => one.href)")
    assert len(links) == len(list((index.parent / "report-runs").iterdir())) == 2, "of the runs whose journal is there"
    _find(browser, ".problems a").click()
    _wait(browser, "document.querySelector('#why') !== null")
    assert browser.current_url in links
    assert "BASELINE" in _find(browser, "h1").text
    _find(browser, ".crumb a").click()
    _wait(browser, "document.querySelector('.problems') !== null")


def test_there_is_no_error_on_the_console_and_no_request_to_a_network(opened: Any) -> None:
    assert [entry["message"] for entry in opened.get_log("browser")] == []
    requests = [entry["message"] for entry in opened.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests
    assert not any('"url":"http' in message for message in requests)
