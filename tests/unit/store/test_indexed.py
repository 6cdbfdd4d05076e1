"""Large files: the same answers as from a file read whole, and mistakes told with their lines."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.errors import ConfigFileError
from fusetune.store import indexed
from fusetune.store.indexed import index_of, open_config_file
from fusetune.store.lookup import lookup
from fusetune.store.quick_entry import NotPlainError, quick_entry
from fusetune.store.schema import Entry
from fusetune.store.typed import decoding_of
from fusetune.store.yaml_files import dump_config_file
from fusetune.store.yaml_reader import parse_config_file
from tests.support.sample import BASELINE, FILE, OP, make_problem
from tests.support.sample import damaged as with_a_word
from tests.unit.store.store_examples import ENVIRONMENT, RTX4090, config_file, entries, measured, predicted, problem


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(indexed, "LARGE_BYTES", 0)


@pytest.fixture
def whole(monkeypatch):
    """How often a file was read whole: more text than its head and one entry."""
    reads = []

    def counted(text, *rest):
        if text.count("\n- ") > 1:
            reads.append(text)
        return parse_config_file(text, *rest)

    monkeypatch.setattr(indexed, "parse_config_file", counted)
    return reads


def _file(folder: Path, *given: Entry, edit=lambda text: text) -> Path:
    path = folder / FILE
    path.write_text(edit(dump_config_file(config_file(*given))))
    return path


MANY = [measured(problem(M)) for M in (16, 32, 64, 128)] + [predicted(problem(M, N=64)) for M in (100, 128)]


def _entries_of(text: str) -> list[str]:
    return ["- " + block for block in text.split("\n- ")[1:]]


@settings(max_examples=150, deadline=None)
@given(entries)
def test_an_entry_is_read_as_the_yaml_parser_reads_it_or_left_to_it(entry):
    (block,) = _entries_of(dump_config_file(config_file(entry)))
    with contextlib.suppress(NotPlainError):
        assert msgspec.convert(quick_entry(block), Entry, dec_hook=decoding_of(OP)) == entry


@pytest.mark.parametrize("entry", MANY, ids=str)
def test_what_a_sweep_writes_needs_no_yaml_parser(entry):
    (block,) = _entries_of(dump_config_file(config_file(entry)))
    assert msgspec.convert(quick_entry(block), Entry, dec_hook=decoding_of(OP)) == entry


@pytest.mark.parametrize(
    "scalar",
    ["yes", "null", "~", "0x10", "010", "1_000", "1:30", ".5", "+1", "&a 1", "*a", "!!int 1", '"a"',
     "a: b", "a #b", "[1]", "'a", "a'b", "", "- 1", "| "],
)  # fmt: skip
def test_scalars_that_yaml_may_take_for_something_else_are_left_to_it(scalar):
    with pytest.raises(NotPlainError):
        quick_entry(f"- a: {scalar}\n")
    with pytest.raises(NotPlainError):
        quick_entry(f"- a: {{b: {scalar}}}\n")


@pytest.mark.parametrize(
    "scalar",
    ["0o7", "1e3", "1.0e5", "1.0e+05", "-7", "-0.5", "1.5e-07", "3.7.1", "580.159.04", "20261123T101500-3f9a", "a-b c",
     "'9.0'", "'it''s'", "''"],
)  # fmt: skip
def test_scalars_mean_what_they_mean_to_yaml(scalar):
    expected = yaml.safe_load(f"a: {scalar}")["a"]
    found = [quick_entry(f"- a: {scalar}\n")["a"], quick_entry(f"- a: {{b: {scalar}, c: 1}}\n")["a"]["b"]]
    assert found == [expected] * 2
    assert [type(one) for one in found] == [type(expected)] * 2


def test_a_large_file_gives_the_answers_of_one_that_was_read_whole(tmp_path, whole):
    path = _file(tmp_path, *MANY)
    large, small = open_config_file(path), index_of(config_file(*MANY))
    assert not whole
    assert list(large.entries()) == list(small.entries()) == MANY
    for M in (1, 16, 17, 31, 50, 64, 100, 128, 129):
        for N in (64, 512, 513):
            for allowed in (False, True):
                wanted = make_problem(M, N, 1024, "float32")
                answers = [
                    lookup(
                        [(path, file)],
                        OP,
                        wanted,
                        RTX4090,
                        ENVIRONMENT,
                        allow_predicted=allowed,
                        baseline=lambda: BASELINE,
                    )
                    for file in (large, small)
                ]
                assert answers[0] == answers[1]
    assert not whole


def test_an_entry_is_read_when_it_is_looked_up_and_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(indexed, "quick_entry", lambda block: read.append(block) or quick_entry(block))
    file = open_config_file(_file(tmp_path, *MANY))
    assert not read
    for _ in range(3):
        lookup([(Path("a"), file)], OP, problem(64), RTX4090, ENVIRONMENT, baseline=lambda: BASELINE)
    assert len(read) == 1


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda text: text.replace("N: 512", "N: 0x200"), id="another way to write a number"),
        pytest.param(lambda text: text.replace("\n- problem", "\n\n- problem"), id="blank lines"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="line ends of Windows"),
        pytest.param(lambda text: text.replace("entries:", "entries: # ours"), id="a comment"),
    ],
)
def test_what_people_wrote_is_read_whole_and_as_well(tmp_path, whole, edit):
    path = _file(tmp_path, *MANY, edit=edit)
    assert list(open_config_file(path).entries()) == MANY
    assert whole


@pytest.mark.parametrize(
    ("written", "other"),
    [("{M: 16, N: 512,", "{N: 512, M: 16,"), ("K: 1024, dtype: float32", "dtype: float32, K: 1024")],
)
def test_the_order_of_a_problem_s_values_means_nothing(tmp_path, written, other):
    path = _file(tmp_path, *MANY, edit=lambda text: text.replace(written, other))
    assert list(open_config_file(path).entries()) == MANY


def test_a_problem_that_is_there_twice_is_found_before_anything_is_used(tmp_path):
    path = _file(tmp_path, *MANY, measured(problem(32)))
    with pytest.raises(ConfigFileError, match=r"entries\[6\] and \$\.entries\[1\] .* are both for"):
        open_config_file(path)


def test_damage_in_one_entry_is_told_with_its_line_and_leaves_the_others(tmp_path):
    text = dump_config_file(config_file(*MANY))
    damaged = text.split("\n- ")
    damaged[3] = with_a_word(damaged[3])
    path = tmp_path / FILE
    path.write_text("\n- ".join(damaged))
    line = path.read_text()[: path.read_text().index("many")].count("\n") + 1
    with pytest.raises(ConfigFileError) as whole:
        parse_config_file(path.read_text(), path)
    file = open_config_file(path)
    found = lookup([(path, file)], OP, problem(64), RTX4090, ENVIRONMENT, baseline=lambda: BASELINE)
    assert found.rung == "baseline"
    assert found.damaged == (str(whole.value),)
    assert f"line {line}: " in found.damaged[0]
    assert "entries[2]" in found.damaged[0]
    assert found.damaged[0] in found.explain()
    assert lookup([(path, file)], OP, problem(128), RTX4090, ENVIRONMENT, baseline=lambda: BASELINE).rung == "exact"


@settings(max_examples=30, deadline=None)
@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.problem))
def test_any_file_that_can_be_written_is_read_back(tmp_path_factory, given_entries):
    path = _file(tmp_path_factory.mktemp("any"), *given_entries)
    assert list(open_config_file(path).entries()) == given_entries
