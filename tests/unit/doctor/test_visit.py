"""A visit on a simulated GPU: what is found, what exit code it comes to, and what goes into the file."""

from __future__ import annotations

import pytest

from fusetune.doctor.visit import Wish
from fusetune.ops.loading import installed_ops, spec_named
from tests.support.sample import OP
from tests.support.sick_machines import finding, visited

ALL = Wish(ops=installed_ops())
ONE = Wish(ops=(OP,))


def test_a_machine_without_fault_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch)
    assert visit.exit_code == 0
    assert visit.file.complete
    assert {one.level for one in visit.file.findings} == {"ok"}
    assert [noise.what for noise in visit.file.noise] == ["short", "long"]
    assert finding(visit.file, "A/A, short").told.startswith("20.0 us a launch, against itself")


def test_every_installed_op_is_tried_at_its_examples_and_at_the_entries_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visit = visited(monkeypatch, wish=ALL)
    assert visit.exit_code == 0
    assert visit.file.complete
    assert not visit.file.not_reached
    for op in installed_ops():
        tried = [one.described for one in visit.file.kernels if one.op == op]
        assert {problem.describe() for problem in spec_named(op).examples()} <= set(tried)
        assert len(tried) > len(spec_named(op).examples())
