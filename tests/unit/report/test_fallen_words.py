"""Each reason for which a candidate is left out or falls is explained in words, a new one too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fusetune
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.loading import spec_named
from fusetune.report.wording import FALLEN_WORDS, fallen_words

PACKAGE = Path(fusetune.__file__).parent
REASON = re.compile(r"\b(?:Rejection|Failure)\(\s*\"([a-z_]+)\"")


def reasons_in(folder: Path) -> set[str]:
    return {found for path in folder.rglob("*.py") for found in REASON.findall(path.read_text(encoding="utf-8"))}


def families() -> list[Path]:
    return [path.parent for path in (PACKAGE / "ops").glob("*/__init__.py")]


def test_reasons_of_any_op_are_told_in_words() -> None:
    own = set().union(*(reasons_in(folder) for folder in families()))
    everywhere = reasons_in(PACKAGE)
    assert {"shared_memory", "wrong_result", "hang", "spills"} <= everywhere
    assert everywhere - own <= FALLEN_WORDS.keys()
    assert {"predicted_slow", "not_tried", "not_compiled", "killed"} <= FALLEN_WORDS.keys()


@pytest.mark.parametrize("name", built_in_ops())
def test_reasons_of_a_built_in_op_are_told_in_words(name: str) -> None:
    spec = spec_named(name)
    (folder,) = [folder for folder in families() if folder.name in type(spec).__module__.split(".")]
    for reason in reasons_in(folder):
        words = fallen_words(reason, spec.rejections)
        assert words, reason
        assert not words.endswith(".")


def test_words_of_an_op_stand_above_those_of_any() -> None:
    assert fallen_words("spills", {"spills": "it is ours"}) == "it is ours"
    assert fallen_words("unheard_of", {}) == ""
