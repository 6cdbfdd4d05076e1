"""Text that comes from data, on its way to a screen or to the name of a file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.core.brief import brief_error
from fusetune.core.text import printable, printable_lines, shortened, slugify


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("64x64x32 w4 s2, \u00b5s, \u4e2d", "64x64x32 w4 s2, \u00b5s, \u4e2d"),
        ("a\n::stop-commands::x", "a\\x0a::stop-commands::x"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_a_screen_or_a_workflow_would_act_upon_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_printable_text_is_one_line_that_can_be_encoded_and_stays_as_it_is_when_printed_again(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


def test_our_own_lines_stay_lines() -> None:
    assert printable_lines("first\n  second\r") == "first\n  second\\x0d"


@given(st.text())
def test_a_slug_is_one_part_of_a_path_whatever_it_is_made_of(text: str) -> None:
    slug = slugify(text)
    assert slug in {"", Path(slug).name}
    assert not slug.startswith(".")
    assert len(slug.encode()) <= 100


@pytest.mark.parametrize("left", [1, 6, 24, 25, 60])
def test_what_is_cut_off_is_longer_than_what_says_so(left):
    text = "0123456789" + "x" * left
    cut = shortened(text, 10)
    assert len(cut) <= len(text)
    assert cut in (text, f"0123456789... ({left} more characters)")
    assert (cut == text) == (left < 25)


def test_an_error_of_many_lines_is_told_on_one() -> None:
    told = brief_error(ValueError("at 2:27:\ndef k(x):\n    o = BLOCK\n        ^\nBLOCK is not defined"))
    assert told == "ValueError: at 2:27: def k(x): o = BLOCK ^ BLOCK is not defined"
    assert brief_error(KeyError("a\x1b[2J")) == "KeyError: 'a\\x1b[2J'"
    assert brief_error(OSError("x" * 500)) == f"OSError: {'x' * 200}... (500 characters)"
