"""The HTML report in a real browser: headless Chromium, without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; `pip install -e '.[dev]'`")

ROOT = Path(__file__).parents[2]
RUN = "20261123T062848-845c"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "fusetune", "report", "--run", RUN, "--html", str(path)]
    runs = ROOT / "tests" / "support" / "journals"
    subprocess.run([*command, "--runs", str(runs)], check=True, capture_output=True)
    return path


def _browser(profile: Path) -> Any:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1200,1600"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(DRIVER)))


@pytest.fixture(scope="module")
def opened(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser = _browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.get(page.as_uri())
        _wait(browser, "document.querySelector('#run0-candidates .main-svg') !== null")
        yield browser
    finally:
        browser.quit()


def _wait(browser: Any, condition: str, limit_s: float = 20.0) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, limit_s).until(lambda held: held.execute_script(f"return {condition}"))


def _find(browser: Any, selector: str) -> Any:
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, selector)


def _shown(browser: Any) -> list[str]:
    return list(
        browser.execute_script(
            "return [...document.querySelectorAll('#run0 table.candidates tbody tr')]"
            ".filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
        )
    )


def test_every_candidate_is_drawn_as_a_point(opened: Any) -> None:
    points = opened.execute_script("return document.querySelectorAll('#run0-candidates .points path.point').length")
    assert points == 928 + 2, "the candidates, BASELINE and the chosen one once more"


def test_a_hover_shows_the_config_and_its_resources(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    place = _find(opened, "#run0-candidates")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    # Of the marked ones: the chosen config, on top of all others.
    point = opened.execute_script(
        "const traces = document.querySelectorAll('#run0-candidates .scatterlayer .trace');"
        "return traces[traces.length - 1].querySelector('path.point')"
    )
    ActionChains(opened).move_to_element(point).perform()
    _wait(opened, "document.querySelector('#run0-candidates .hovertext') !== null")
    text = opened.execute_script("return document.querySelector('#run0-candidates .hovertext').textContent")
    shown = [config.split(" (")[0] for config in _shown(opened)]
    assert any(text.startswith(config) for config in shown)
    for told in ("us", "registers", "shared memory", "no spill"):
        assert told in text


def test_a_column_sorts_up_and_down_with_the_keyboard_alone(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = _find(opened, "#run0 table.candidates th:nth-child(2) button")
    times = (
        "[...document.querySelectorAll('#run0 table.candidates tbody tr td:nth-child(2)')]"
        ".map((cell) => cell.dataset.value).filter(Boolean).map(Number)"
    )
    for order, state in ((False, "ascending"), (True, "descending")):
        button.send_keys(Keys.ENTER)
        held = opened.execute_script(f"return {times}")
        assert held == sorted(held, reverse=order)
        header = _find(opened, "#run0 table.candidates th:nth-child(2)")
        assert header.get_attribute("aria-sort") == state


def test_a_filter_leaves_what_matches_in_table_and_figure(opened: Any) -> None:
    everything = len(_shown(opened))
    field = _find(opened, "#run0 input[type=search]")
    field.send_keys("w8 s3")
    shown = _shown(opened)
    assert 0 < len(shown) < everything
    assert all("w8 s3" in text for text in shown)
    assert _find(opened, "#run0 output").text == f"{len(shown)} shown"
    selected = opened.execute_script("return document.getElementById('run0-candidates').data[0].selectedpoints.length")
    assert selected == len(shown)
    field.clear()
    field.send_keys(" ")
    assert len(_shown(opened)) == everything


def test_the_reader_chooses_what_time_is_drawn_against(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    Select(_find(opened, "#run0 select[data-axis-of]")).select_by_value("registers")
    title = "document.querySelector('#run0-candidates .xtitle').textContent"
    _wait(opened, f"{title} === 'registers a thread'")
    assert opened.execute_script(f"return {title}") == "registers a thread"


def test_nothing_is_wider_than_a_phone(opened: Any) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        _wait(opened, "document.documentElement.scrollWidth <= 360")
        width = opened.execute_script("return document.getElementById('run0-tiles').getBoundingClientRect().width")
        assert 250 < width <= 360
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark_follow_the_reader_and_both_have_contrast(opened: Any) -> None:
    colors = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    seen = []
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        text, page = (_luminance(color) for color in opened.execute_script(colors))
        lighter, darker = max(text, page), min(text, page)
        assert (lighter + 0.05) / (darker + 0.05) > 7, "WCAG 2.2, level AAA"
        seen.append(page)
    assert seen[0] > 0.9
    assert seen[1] < 0.1
    _wait(opened, "document.querySelector('#run0-tiles .xtitle').style.fill.startsWith('rgb(23')")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def _luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_there_is_no_error_on_the_console_and_no_request_to_a_network(opened: Any) -> None:
    assert [entry["message"] for entry in opened.get_log("browser")] == []
    requests = [entry["message"] for entry in opened.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert not any('"url":"http' in message for message in requests)
