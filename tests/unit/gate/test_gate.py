from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.core.decision import Gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.core.trouble import Trouble
from fusetune.errors import FusetuneError, NoUsableGpuError, UsageError, WrongResultError
from fusetune.gate.findings import Finding, Status, exit_code
from fusetune.gate.live import LiveOptions, live_gate
from fusetune.gate.static import static_gate
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import Failure, SamplingFacts
from fusetune.ops.spec import KernelSpec
from fusetune.store.schema import ConfigFile, Entry, Times
from tests.support.fake_compiler import BreakingMeasurer, FakeCompiler, install
from tests.support.sample import BASELINE, LIBRARIES, OP, SPEC, Config, Problem, make_problem, tile

RTX4090 = find_target("rtx4090")
HERE = TargetIdentity(name=RTX4090.name, capability=RTX4090.capability, sms=RTX4090.sms)
ELSEWHERE = TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132)
SMALL = make_problem(128, 512, 1024, "float32")
LARGE = make_problem(4096, 512, 1024, "float32")
WINNER = tile(rows=64, columns=16, depth=128, num_stages=3)
SLOWER = tile(rows=32, columns=32, depth=64, num_stages=4)
PATH = Path(f"tuned/nvidia-geforce-rtx-4090/{OP}.yaml")  # Beside no pins, wherever the tests are started.


def kept(problem: Problem = SMALL, config: Config = WINNER, *, min_gain: float = 0.02, **changes: Any) -> Entry:
    entry = Entry(
        problem=problem,
        config=config,
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=Environment(triton="3.7.1", kernel_hash=SPEC.source_hash(BASELINE)),
        run="20261123T101500-3f9a",
        date="2026-11-23",
        gain=Gain(median=0.5, low=0.49, high=0.51, confidence=0.95, min_gain=min_gain, blocks=50),
        time_us=Times(baseline=20.0, conservative=12.0, config=10.0),
    )
    return msgspec.structs.replace(entry, **changes)


REVERTED = kept(LARGE, BASELINE, verdict="revert", reason="gain_below_minimum")
UNDECIDED = kept(LARGE, BASELINE, verdict="inconclusive", reason="budget_exhausted")
PREDICTED = kept(
    LARGE,
    evidence="predicted",
    verdict="unverified",
    reason="predicted_not_timed",
    gain=None,
    time_us=None,
    predicted_us=Times(baseline=20.0, conservative=12.0, config=10.0),
)


def file_of(*entries: Entry, target: TargetIdentity = HERE, op: str = OP) -> ConfigFile:
    return ConfigFile(schema=2, op=op, target=target, entries=entries)


class Bench:
    """Makes simulated GPUs for a gate and keeps them; `options` are theirs."""

    def __init__(self, *, true_us: Mapping[Config, float] | None = None, **options: Any) -> None:
        self._true_us = {BASELINE: 20.0, WINNER: 10.0, SLOWER: 25.0, **(true_us or {})}
        self._options = options
        self.asked: list[tuple[str, Problem]] = []
        self.measurers: list[BreakingMeasurer] = []

    def __call__(self, spec: KernelSpec, problem: Problem) -> FakeMeasurer:
        self.asked.append((spec.name, problem))
        self.measurers.append(BreakingMeasurer(RTX4090, self._true_us.__getitem__, **self._options))
        return self.measurers[-1]


def gated(*entries: Entry, bench: Bench | None = None) -> list[Finding]:
    return live_gate([(PATH, file_of(*entries))], bench or Bench(), SilentProgress())


# --- live


def test_a_gain_that_is_still_there_holds(tmp_path: Path) -> None:
    bench = Bench()
    (finding,) = gated(kept(), bench=bench)
    assert (finding.status, finding.file, finding.op, finding.entry) == ("holds", PATH, OP, kept())
    assert exit_code([finding]) == 0
    for figure in ("+50.0 %", "25 blocks", "2 % needed", "20.0 us to 10.0 us", "+50.0 % when it was kept"):
        assert figure in finding.detail
    assert bench.asked == [(OP, SMALL)]
    assert bench.measurers[0].closed


@pytest.mark.parametrize("slow_us", [19.7, 20.5, 30.0])
def test_a_gain_that_is_gone_is_a_regression(slow_us: float) -> None:
    (finding,) = gated(kept(), bench=Bench(true_us={WINNER: slow_us}))
    assert finding.status == "regression"
    assert exit_code([finding]) == 1
    assert f"{(1 - slow_us / 20) * 100:+.1f} %" in finding.detail


def test_a_gain_that_shrank_and_still_is_the_minimum_holds() -> None:
    (finding,) = gated(kept(), bench=Bench(true_us={WINNER: 19.0}))
    assert finding.status == "holds"
    assert "+5.0 %" in finding.detail


def test_the_minimum_that_counts_is_the_entry_s_own() -> None:
    bench = {"bench": Bench(true_us={WINNER: 19.7})}
    assert gated(kept(min_gain=0.01), **bench)[0].status == "holds"
    (finding,) = gated(kept(min_gain=0.025), **bench)
    assert finding.status == "regression"
    assert "2.5 % needed" in finding.detail


def test_a_gain_on_the_threshold_is_inconclusive() -> None:
    (finding,) = gated(kept(), bench=Bench(true_us={WINNER: 19.6}, noise=0.01))
    assert finding.status == "inconclusive"
    assert "400 blocks" in finding.detail
    assert exit_code([finding]) == 3


def test_a_machine_too_noisy_for_its_own_control_is_inconclusive_however_large_the_gain() -> None:
    (finding,) = gated(kept(), bench=Bench(noise=0.2))
    assert finding.status == "inconclusive"
    assert finding.detail.startswith("this machine is too noisy: BASELINE against itself shows gain")
    assert exit_code([finding]) == 3


def test_a_gpu_that_throttles_all_the_time_is_inconclusive() -> None:
    (finding,) = gated(kept(), bench=Bench(discard_every=1))
    assert finding.status == "inconclusive"
    assert "all 600 blocks were discarded" in finding.detail


@pytest.mark.parametrize("reason", ["wrong_result", "nan"])
def test_a_wrong_result_is_told_apart_from_a_slow_one(reason: str) -> None:
    (finding,) = gated(kept(), bench=Bench(failures={WINNER: Failure(reason, "error 0.3, allowed 0.001")}))
    assert finding.status == "wrong_result"
    assert finding.detail == f"{reason}: error 0.3, allowed 0.001"
    assert exit_code([finding]) == 5


@pytest.mark.parametrize("reason", ["crash", "hang", "out_of_resources", "launch_error"])
def test_a_config_that_no_longer_runs_is_a_regression(reason: str) -> None:
    (finding,) = gated(kept(), bench=Bench(failures={WINNER: Failure(reason, "planted")}))
    assert (finding.status, finding.detail) == ("regression", f"{reason}: planted; a measurement before said so too")


def test_a_config_that_breaks_while_it_is_timed_is_a_regression() -> None:
    crash = Failure("crash", "the worker died")
    bench = Bench(fail_block=lambda _, config, __: crash if config == WINNER else None)
    (finding,) = gated(kept(), bench=bench)
    assert finding.status == "regression"
    assert finding.detail.startswith("crash: the worker died")


def test_entries_that_keep_nothing_are_not_gated_and_need_no_gpu() -> None:
    bench = Bench()
    for entry, told in (
        (REVERTED, "measured, revert"),
        (UNDECIDED, "measured, inconclusive"),
        (PREDICTED, "predicted"),
    ):
        (finding,) = gated(entry, bench=bench)
        assert finding.status == "not_gated"
        assert finding.detail.startswith(told)
        assert exit_code([finding]) == 0
    assert bench.asked == []


def test_every_kept_entry_of_every_file_is_measured_on_its_own_problem() -> None:
    bench = Bench()
    files = [(PATH, file_of(kept(), REVERTED)), (Path("other.yaml"), file_of(kept(LARGE, SLOWER)))]
    findings = live_gate(files, bench, SilentProgress())
    assert [(finding.file, finding.status) for finding in findings] == [
        (PATH, "holds"),
        (PATH, "not_gated"),
        (Path("other.yaml"), "regression"),
    ]
    assert [problem for _, problem in bench.asked] == [SMALL, LARGE]
    assert all(measurer.closed for measurer in bench.measurers)
    assert exit_code(findings) == 1


def test_a_file_for_another_gpu_is_refused_with_both_names_and_the_gpu_is_given_back() -> None:
    bench = Bench()
    with pytest.raises(NoUsableGpuError, match=r"other\.yaml .* NVIDIA H200, this GPU is NVIDIA GeForce RTX 4090") as e:
        live_gate([(Path("other.yaml"), file_of(kept(), target=ELSEWHERE))], bench, SilentProgress())
    assert e.value.exit_code == 4
    assert bench.measurers[0].prepared == []
    assert bench.measurers[0].closed


def test_a_cut_down_gpu_of_the_same_name_is_another_gpu() -> None:
    fewer = msgspec.structs.replace(HERE, sms=114)
    with pytest.raises(NoUsableGpuError, match="114 SMs, this GPU has 128"):
        live_gate([(PATH, file_of(kept(), target=fewer))], Bench(), SilentProgress())


def test_baseline_that_is_wrong_itself_stops_the_gate_and_the_gpu_is_given_back() -> None:
    class WrongMeasurer(FakeMeasurer):
        def prepare(self, seed: int) -> SamplingFacts:
            raise WrongResultError("BASELINE itself failed")

    measurer = WrongMeasurer(RTX4090, lambda _: 10.0)
    with pytest.raises(WrongResultError) as caught:
        live_gate([(PATH, file_of(kept()))], lambda *_: measurer, SilentProgress())
    assert caught.value.exit_code == 5
    assert measurer.closed


def test_a_kernel_that_has_changed_since_is_told_beside_the_figures() -> None:
    changed = kept(environment=Environment(triton="3.7.1", kernel_hash="0" * 16))
    (finding,) = gated(changed)
    assert finding.status == "holds"
    assert "the kernel has changed since" in finding.detail
    assert "the kernel has changed since" not in gated(kept())[0].detail


def test_an_op_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match="op 'gone' is not known"):
        live_gate([(PATH, file_of(kept(), op="gone"))], Bench(), SilentProgress())


def test_the_same_seed_gives_the_same_findings() -> None:
    one, two = (gated(kept(), bench=Bench(noise=0.002))[0].detail for _ in range(2))
    assert one == two


# --- static


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    return install(monkeypatch)


def compiled(*entries: Entry, target: TargetIdentity = HERE) -> list[Finding]:
    return static_gate([(PATH, file_of(*entries, target=target))], SilentProgress())


def test_configs_that_compile_without_a_spill_hold(compiler: FakeCompiler) -> None:
    compiler.planted = {WINNER: Resources(96, 0, 81920)}
    (finding,) = compiled(kept())
    assert (finding.status, finding.file, finding.op, finding.entry) == ("holds", PATH, OP, kept())
    assert finding.detail == "96 registers, no spill, 80.0 KiB of shared memory"
    assert exit_code([finding]) == 0


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Resources(255, 120, 4096), "spills: 120 bytes of stack a thread"),
        (
            Resources(96, 0, 128 * 1024),
            "needs 128.0 KiB of shared memory, NVIDIA GeForce RTX 4090 has 99.0 KiB",
        ),
        (Rejection("compile_error", "ptxas said no"), "does not compile: ptxas said no"),
        (Rejection("compiler_crash", "the compiler died"), "does not compile: the compiler died"),
    ],
    ids=["spill", "shared memory", "error", "crash"],
)
def test_a_config_that_the_compiler_no_longer_makes_well_is_a_regression(
    compiler: FakeCompiler, made: Resources | Rejection, told: str
) -> None:
    compiler.planted = {WINNER: made}
    (finding,) = compiled(kept())
    assert (finding.status, finding.detail) == ("regression", told)
    assert exit_code([finding]) == 1


@pytest.mark.parametrize(("is_setting", "code"), [(False, 3), (True, 2)])
def test_where_the_machine_lets_nothing_be_compiled_the_gate_ends_in_one_line(
    compiler: FakeCompiler, is_setting: bool, code: int
) -> None:
    compiler.planted = {WINNER: Trouble("the cache is full", is_setting)}
    with pytest.raises(FusetuneError, match=r"^the cache is full$") as caught:
        compiled(kept(), kept(LARGE))
    assert caught.value.exit_code == code


def test_a_regression_is_still_one_beside_what_the_machine_kept_from_being_compiled(compiler: FakeCompiler) -> None:
    compiler.planted = {WINNER: Trouble("took more than 60 s"), SLOWER: Resources(255, 120, 4096)}
    findings = compiled(kept(), kept(LARGE, SLOWER))
    assert [finding.status for finding in findings] == ["inconclusive", "regression"]
    assert exit_code(findings) == 1


def test_a_file_that_is_only_compiled_beside_a_live_gate_ends_nothing_where_it_cannot_be(
    compiler: FakeCompiler,
) -> None:
    compiler.planted = {WINNER: Trouble("the cache is full")}
    here, elsewhere = (PATH, file_of(kept())), (Path("h200.yaml"), file_of(kept(), target=ELSEWHERE))
    findings = live_gate([here, elsewhere], Bench(), SilentProgress(), LiveOptions(on_mismatch="static"))
    assert {finding.file.name: finding.status for finding in findings} == {
        PATH.name: "holds",
        "h200.yaml": "inconclusive",
    }


@pytest.mark.parametrize("reason", ["killed", "out_of_memory"])
def test_a_live_check_that_somebody_else_ended_is_inconclusive(reason: str) -> None:
    failure = Failure(reason, "planted")
    (finding,) = gated(kept(), bench=Bench(failures={WINNER: failure}))
    assert (finding.status, finding.detail) == ("inconclusive", f"{reason}: planted")
    assert exit_code([finding]) == 3


def test_baseline_holds_whatever_it_spills(compiler: FakeCompiler) -> None:
    compiler.planted = {BASELINE: Resources(255, 80, 16384)}
    (finding,) = compiled(kept(config=BASELINE))
    told = "255 registers, spills 80 bytes a thread, as BASELINE may, 16.0 KiB of shared memory"
    assert (finding.status, finding.detail) == ("holds", told)
    assert exit_code([finding]) == 0


def test_baseline_that_cannot_run_is_a_regression_like_any_other(compiler: FakeCompiler) -> None:
    for made in (Resources(64, 0, 128 * 1024), Rejection("compile_error", "ptxas said no")):
        compiler.planted = {BASELINE: made}
        assert compiled(kept(config=BASELINE))[0].status == "regression"


def test_a_library_with_no_kernel_of_ours_holds_with_a_note(compiler: FakeCompiler) -> None:
    library, folded = LIBRARIES
    compiler.planted = {folded: Resources(0, 0, 0)}
    (finding,) = compiled(kept(config=folded))
    assert (finding.status, finding.detail) == ("holds", "a library's call: there is no kernel of ours to compile")
    (finding,) = compiled(kept(config=library))
    assert "registers, no spill" in finding.detail, "its finishing kernel"


def test_shared_memory_up_to_the_limit_holds(compiler: FakeCompiler) -> None:
    compiler.planted = {WINNER: Resources(96, 0, RTX4090.shared_bytes_per_cta)}
    assert compiled(kept())[0].status == "holds"


def test_predicted_and_reverted_entries_are_compiled_too(compiler: FakeCompiler) -> None:
    compiler.planted = {WINNER: Resources(255, 8, 4096)}
    predicted = msgspec.structs.replace(PREDICTED, problem=make_problem(64, 512, 1024, "float32"))
    findings = compiled(predicted, REVERTED)
    assert {finding.entry.evidence: finding.status for finding in findings} == {
        "predicted": "regression",
        "measured": "holds",
    }


def test_findings_come_in_the_order_of_files_and_problems_whatever_compiles_first(compiler: FakeCompiler) -> None:
    problems = [make_problem(M, 512, 1024, "float32") for M in (16, 32, 64)]
    files = [(Path(name), file_of(*(kept(problem) for problem in problems))) for name in ("b.yaml", "a.yaml")]
    findings = static_gate(files, SilentProgress())
    assert [str(finding.file) for finding in findings] == ["a.yaml"] * 3 + ["b.yaml"] * 3
    assert [finding.entry.problem.sizes()["M"] for finding in findings] == [16, 32, 64] * 2
    assert len(compiler.compiled) == 6


def test_a_gpu_that_the_table_does_not_hold_is_refused(compiler: FakeCompiler) -> None:
    unknown = TargetIdentity(name="NVIDIA Unheard", capability="8.9", sms=128)
    with pytest.raises(UsageError, match=r"no NVIDIA Unheard .*fusetune/core/targets\.yaml") as caught:
        compiled(kept(), target=unknown)
    assert caught.value.exit_code == 2
    assert compiler.compiled == []


def test_each_file_is_compiled_for_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Noting(FakeCompiler):
        def __call__(self, spec: Any, jobs: Any, target: Any, **options: Any) -> Any:
            seen.append((target.name, options["workers"]))
            return super().__call__(spec, jobs, target, **options)

    monkeypatch.setattr("fusetune.gate.static.compile_jobs", Noting())
    files = [(PATH, file_of(kept())), (Path("h200.yaml"), file_of(kept(), target=ELSEWHERE))]
    static_gate(files, SilentProgress(), workers=3)
    assert seen == [("NVIDIA GeForce RTX 4090", 3), ("NVIDIA H200", 3)]


# --- exit codes


def finding_of(status: Status) -> Finding:
    return Finding(file=PATH, op=OP, entry=kept(), status=status, detail="")


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((), 0),
        (("holds", "not_gated"), 0),
        (("holds", "inconclusive"), 3),
        (("inconclusive", "regression", "holds"), 1),
        (("regression", "wrong_result", "inconclusive"), 5),
        (("not_gated", "wrong_result"), 5),
    ],
)
def test_the_worst_finding_decides_the_exit_code(statuses: tuple[Status, ...], code: int) -> None:
    assert exit_code([finding_of(status) for status in statuses]) == code
    assert exit_code([finding_of(status) for status in reversed(statuses)]) == code
