"""A regression is called after two measurements that agree; what a live gate records decides the same again."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.progress import SilentProgress
from fusetune.errors import NoUsableGpuError, UsageError
from fusetune.gate.findings import Finding, exit_code
from fusetune.gate.live import LiveOptions, live_gate
from fusetune.gate.replayed import gate_from
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import Failure
from fusetune.ops.spec import KernelSpec
from tests.support.fake_compiler import install
from tests.support.sample import BASELINE, Config, make_problem
from tests.unit.gate.test_gate import ELSEWHERE, PATH, REVERTED, RTX4090, WINNER, file_of, kept

JOURNALS = Path(__file__).parents[2] / "support" / "journals"
AT_REV = WINNER.elsewhere()


class FakeRevision:
    """Another revision whose launches are the same; the simulated GPU has a time for its configs."""

    name = "v1.2"

    def beside(self, spec: KernelSpec, op: str) -> KernelSpec:
        return spec

    def config(self, config: Config) -> Config:
        return config.elsewhere()


def gated(
    *entries: Any,
    times: Mapping[Config, float] | None = None,
    options: LiveOptions | None = None,
    target: Any = None,
    clock: Any = None,
    **fake: Any,
) -> tuple[list[Finding], list[FakeMeasurer]]:
    held = {BASELINE: 20.0, WINNER: 10.0, AT_REV: 10.0, **(times or {})}
    made: list[FakeMeasurer] = []

    def measurer(spec: KernelSpec, problem: Any) -> FakeMeasurer:
        made.append(FakeMeasurer(RTX4090, held.__getitem__, **fake))
        return made[-1]

    file = file_of(*entries, **({"target": target} if target else {}))
    extra = {"clock": clock} if clock else {}
    return live_gate([(PATH, file)], measurer, SilentProgress(), options, **extra), made


def test_a_regression_is_measured_again_in_a_fresh_process_with_other_inputs() -> None:
    (finding,), (measurer,) = gated(kept(), times={WINNER: 20.5})
    assert finding.status == "regression"
    assert finding.detail.count("a measurement before said so too") == 1
    assert measurer.prepared == [0, 1]


def test_a_gain_that_holds_is_measured_once() -> None:
    (finding,), (measurer,) = gated(kept())
    assert finding.status == "holds"
    assert measurer.prepared == [0]


def test_a_regression_that_a_fresh_measurement_does_not_confirm_is_noise() -> None:
    fine = {BASELINE: 20.0, WINNER: 10.0}
    (finding,), _ = gated(kept(), times={WINNER: 20.5}, later_us=fine.__getitem__)
    assert finding.status == "inconclusive"
    assert "a fresh measurement does not confirm that: gain +50.0 %" in finding.detail
    assert exit_code([finding]) == 3


def test_a_wrong_result_needs_no_second_look() -> None:
    (finding,), (measurer,) = gated(kept(), failures={WINNER: Failure("nan", "all of y")})
    assert (finding.status, measurer.prepared) == ("wrong_result", [0])


def test_a_budget_that_is_spent_leaves_the_rest_inconclusive_and_says_so() -> None:
    now = iter(range(0, 100_000, 40))
    second = kept(make_problem(4096, 512, 1024, "float32"))
    findings, made = gated(kept(), second, options=LiveOptions(budget_s=60.0), clock=lambda: float(next(now)))
    assert "not measured: the budget of 60 s was spent before its turn" in findings[-1].detail
    assert exit_code(findings) == 3
    assert len(made) <= 1


def test_a_regression_with_no_time_left_to_confirm_it_is_inconclusive() -> None:
    ticks = {"now": 0.0}

    class Slow(FakeMeasurer):
        def block(self, *arms: Any, **order: Any) -> Any:
            ticks["now"] += 1.0
            return super().block(*arms, **order)

    times = {BASELINE: 20.0, WINNER: 20.5}
    (finding,) = live_gate(
        [(PATH, file_of(kept()))],
        lambda *_: Slow(RTX4090, times.__getitem__),
        SilentProgress(),
        LiveOptions(budget_s=45.0),
        clock=lambda: ticks["now"],
    )
    assert finding.status == "inconclusive"
    assert "no time was left to confirm it" in finding.detail


# --- another machine


def test_another_machine_fails_by_default() -> None:
    with pytest.raises(NoUsableGpuError, match="NVIDIA H200"):
        gated(kept(), target=ELSEWHERE)


def test_another_machine_can_be_skipped_with_its_reason() -> None:
    findings, _ = gated(kept(), REVERTED, target=ELSEWHERE, options=LiveOptions(on_mismatch="skip"))
    assert [finding.status for finding in findings] == ["not_gated", "not_gated"]
    assert "skipped: it is for NVIDIA H200, this GPU is NVIDIA GeForce RTX 4090" in findings[0].detail
    assert exit_code(findings) == 0


def test_another_machine_can_be_compiled_for_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = install(monkeypatch)
    findings, made = gated(kept(), target=ELSEWHERE, options=LiveOptions(on_mismatch="static"))
    assert [(finding.status, finding.check) for finding in findings] == [("holds", "static")]
    assert len(compiler.compiled) == 1
    assert all(measurer.prepared == [] for measurer in made)


# --- against another revision


def against(times: Mapping[Config, float], *entries: Any, **fake: Any) -> list[Finding]:
    options = LiveOptions(against=FakeRevision())
    findings, _ = gated(*(entries or (kept(),)), times=times, options=options, **fake)
    return [finding for finding in findings if finding.check == "against"]


def test_kernels_as_fast_as_the_revision_s_hold() -> None:
    (finding,) = against({})
    assert finding.status == "holds"


def test_kernels_three_percent_slower_than_the_revision_s_are_a_regression() -> None:
    (finding,) = against({AT_REV: 10.0 / 1.03})
    assert finding.status == "regression"
    assert "slower than at v1.2, which gains +2.9 %" in finding.detail
    assert exit_code([finding]) == 1


def test_kernels_one_percent_slower_are_told_and_do_not_fail() -> None:
    (finding,) = against({AT_REV: 10.0 / 1.01})
    assert finding.status == "slower"
    assert "which gains +1.0 %" in finding.detail
    assert exit_code([finding]) == 0


def test_faster_kernels_are_told() -> None:
    (finding,) = against({AT_REV: 10.5})
    assert finding.status == "holds"
    assert finding.detail.startswith("faster than at v1.2")


def test_a_revision_whose_config_fails_is_no_pass() -> None:
    (finding,) = against({}, failures={AT_REV: Failure("wrong_result", "error 0.3")})
    assert finding.status == "wrong_result"


def test_what_the_revision_does_not_support_is_held_against_nothing() -> None:
    (finding,) = against({}, failures={AT_REV: Failure("unsupported", "there is no variant 'reread'")})
    assert finding.status == "not_gated"
    assert finding.detail == "v1.2 cannot launch it, so there is nothing to compare: there is no variant 'reread'"
    assert exit_code([finding]) == 0


@pytest.mark.parametrize("arm", [WINNER, AT_REV])
@pytest.mark.parametrize("reason", ["crash", "hang", "out_of_resources", "launch_error"])
def test_what_fails_at_either_revision_is_no_pass(reason: str, arm: Config) -> None:
    (finding,) = against({}, failures={arm: Failure(reason, "planted")})
    assert finding.status == "regression"


def test_what_was_measured_and_not_kept_is_held_against_the_revision_too() -> None:
    times = {BASELINE: 20.0, BASELINE.elsewhere(): 20.0}
    (finding,) = against(times, REVERTED)
    assert (finding.status, finding.entry) == ("holds", REVERTED)


# --- recorded, and decided again


@pytest.mark.parametrize("slow_us", [10.0, 20.5])
def test_what_a_gate_recorded_decides_the_same_again(tmp_path: Path, slow_us: float) -> None:
    options = LiveOptions(journals=tmp_path)
    (finding,), _ = gated(kept(), times={WINNER: slow_us}, options=options)
    assert finding.journal is not None
    again = gate_from(Path(finding.journal))
    assert (again.status, again.detail, again.gain) == (finding.status, finding.detail, finding.gain)
    assert again.entry == finding.entry


def test_a_gate_against_a_revision_decides_the_same_again(tmp_path: Path) -> None:
    options = LiveOptions(journals=tmp_path, against=FakeRevision())
    findings, _ = gated(kept(), times={AT_REV: 10.0 / 1.03}, options=options)
    (finding,) = [finding for finding in findings if finding.check == "against"]
    again = gate_from(Path(finding.journal or ""))
    assert (again.status, again.check, again.gain) == ("regression", "against", finding.gain)


def test_a_recorded_regression_without_its_second_measurement_is_not_called_one(tmp_path: Path) -> None:
    (finding,), _ = gated(kept(), times={WINNER: 20.5}, options=LiveOptions(journals=tmp_path))
    journal = Path(finding.journal or "")
    lines = journal.read_text().splitlines(keepends=True)
    second = [number for number, line in enumerate(lines) if '"kind":"sampling"' in line][1]
    journal.write_text("".join([*lines[:second], lines[-1]]))
    again = gate_from(journal)
    assert again.status == "inconclusive"
    assert "not enough was recorded to decide it again" in again.detail


def test_a_sweep_s_journal_is_decided_by_the_blocks_that_its_figure_rests_on() -> None:
    finding = gate_from(JOURNALS / "20261123T062848-845c.jsonl.gz")
    assert finding.status == "holds"
    assert finding.gain is not None
    assert finding.entry.gain is not None
    assert finding.gain.median == pytest.approx(finding.entry.gain.median, abs=1e-4)


def test_a_recorded_slowdown_of_a_real_sweep_is_a_regression_that_wants_confirmation(tmp_path: Path) -> None:
    journal = tmp_path / "slow.jsonl"
    text = gzip.decompress((JOURNALS / "20261123T062848-845c.jsonl.gz").read_bytes())
    records = [msgspec.json.decode(line) for line in text.splitlines()]
    for record in records:
        if record["kind"] == "block" and record["phase"] == "revalidate":
            record["us"] = record["baseline_us"] * 1.03
    journal.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    finding = gate_from(journal)
    assert finding.status == "inconclusive"
    assert exit_code([finding]) == 3


def test_a_run_that_decided_nothing_cannot_be_gated(tmp_path: Path) -> None:
    journal = tmp_path / "killed.jsonl"
    lines = gzip.decompress((JOURNALS / "20261123T062848-845c.jsonl.gz").read_bytes()).splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UsageError, match="ends with no entry to gate"):
        gate_from(journal)


def test_a_predicted_run_has_no_gain_to_hold() -> None:
    assert gate_from(JOURNALS / "20261124T003101-fe8812.jsonl.gz").status == "not_gated"
