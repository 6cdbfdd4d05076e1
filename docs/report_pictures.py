"""The pictures of the HTML report in docs/images, of committed runs: `python docs/report_pictures.py`.

It needs Chromium with its driver, and selenium (in the `dev` extra). A page is made by `fusetune report --html`, as a
user makes it, and seen at the widths and in the schemes of PICTURES; the PNGs are written anew, each below MOST_BYTES.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
JOURNALS = ROOT / "benchmarks" / "results" / "family"
RUN = "20261127T194041-ee5731"
"""A sweep on an H200 with a library beside it: M=16384 K=4096 N=4096 float16."""
MOST_BYTES = 200_000
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-dev-shm-usage",
)


class Picture(NamedTuple):
    """A file, the width and scheme that the page is seen at, what it begins and ends with, and its scale."""

    name: str
    width: int
    scheme: str
    first: str
    last: str
    scale: float = 1.0


PICTURES = (
    Picture("report-answer.png", 1280, "light", "header", "section:has(#tried)", 0.75),
    Picture("report-gains.png", 1280, "light", "#gains", "#gains", 0.8),
    Picture("report-search.png", 1280, "light", "#candidates", "#roofline", 0.7),
    Picture("report-parameters.png", 1280, "dark", "#parameters", "#parameters", 0.7),
    Picture("report-phone.png", 390, "dark", "header", "section:has(#why)"),
)


def main() -> int:
    """Write every picture; 1 where one is too large to be committed."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        command = [
            sys.executable,
            "-m",
            "fusetune",
            "report",
            "--run",
            RUN,
            "--runs",
            str(JOURNALS),
            "--html",
            str(page),
        ]
        subprocess.run(command, check=True, cwd=ROOT)
        with browser(Path(folder) / "profile") as held:
            made = {picture.name: seen(held, page, picture) for picture in PICTURES}
    for name, png in made.items():
        (IMAGES / name).write_bytes(png)
        print(f"docs/images/{name}: {len(png) // 1000} kB")
    return int(any(len(png) > MOST_BYTES for png in made.values()))


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Headless Chromium, ended with the block."""
    options = Options()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    held = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield held
    finally:
        held.quit()


def seen(held: Any, page: Path, picture: Picture) -> bytes:
    """A PNG of what lies between two parts of a page, with a little around them."""
    size = {"width": picture.width, "height": 900, "deviceScaleFactor": 1, "mobile": picture.width < 600}
    held.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": picture.scheme}]}
    held.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    held.get(page.as_uri())
    top, bottom = held.execute_script(
        "const [first, last] = [...arguments].map((one) => document.querySelector(one).getBoundingClientRect());"
        "return [first.top + window.scrollY, last.bottom + window.scrollY]",
        picture.first,
        picture.last,
    )
    clip = {"x": 0, "y": max(top - 8, 0), "width": picture.width, "height": bottom - top + 16, "scale": picture.scale}
    told = held.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(told["data"])


if __name__ == "__main__":
    sys.exit(main())
