"""The committed pictures of the HTML report: there, small, and of a run that is committed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed; `pip install -e '.[dev]'`")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "report_pictures.py"))


def test_each_picture_is_there_and_small(script: dict[str, Any]) -> None:
    assert len(script["PICTURES"]) >= 5
    for picture in script["PICTURES"]:
        file = script["IMAGES"] / picture.name
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size <= script["MOST_BYTES"] == 200_000


def test_they_are_of_a_committed_run(script: dict[str, Any]) -> None:
    assert (script["JOURNALS"] / f"{script['RUN']}.jsonl.gz").is_file()
