"""A visit on a simulated GPU: what is found, what exit code it comes to, and what goes into the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fusetune.compiler.pool import Compiled, Job
from fusetune.core.space import Rejection
from fusetune.core.trouble import Trouble
from fusetune.doctor import items as items_module
from fusetune.doctor import rounds
from fusetune.doctor.rounds import Deadline
from fusetune.doctor.software import Host
from fusetune.doctor.visit import Wish
from fusetune.errors import MachineError, MeasurementError, NoUsableGpuError, UsageError, WrongResultError
from fusetune.measure.lock import hold_gpu
from fusetune.measure.protocol import Failure
from fusetune.ops.loading import installed_ops, load_spec, spec_named
from fusetune.store.doctor_file import DoctorFile, Examined, Launched
from tests.support.sick_machines import UUID, Bench, compiled_at_once, finding, visited

OWN = "tests.support.doubled:SPEC"
BROKEN = "tests.support.doubled:BROKEN"


@pytest.fixture
def own() -> Wish:
    return Wish(ops=(load_spec(OWN).name,))


def launched(examined: Examined) -> dict[str, Launched]:
    return {one.label: one for one in examined.launched}


# --- the machine


def test_a_machine_without_fault_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch)
    assert visit.exit_code == 0
    assert visit.file.complete
    assert {one.level for one in visit.file.findings} == {"ok"}
    assert [noise.what for noise in visit.file.noise] == ["short", "long"]
    assert finding(visit.file, "A/A, short").told.startswith("20.0 us a launch, against itself")
    assert finding(visit.file, "timer").told == "the event clock steps by 0.500 us"
    assert visit.file.kernels == ()


def test_a_noisy_gpu_is_unfit_and_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch, Bench(noise=0.2))
    assert visit.exit_code == 3
    short = finding(visit.file, "A/A, short")
    assert short.level == "unfit"
    assert "0 within 0.5% is needed" in short.told
    assert "let the GPU cool" in short.do


def test_blocks_that_were_throttled_are_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch, Bench(discard_every=5))
    assert visit.exit_code == 3
    assert "blocks were thrown away" in finding(visit.file, "clocks, short").told


def test_where_every_block_is_throttled_there_is_no_noise_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch, Bench(discard_every=1))
    assert visit.exit_code == 3
    assert "throttled" in finding(visit.file, "A/A, long").told
    assert visit.file.noise == ()


def test_a_gpu_that_torch_cannot_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(facts=NoUsableGpuError("torch sees no CUDA GPU"))
    visit = visited(monkeypatch, bench)
    assert visit.exit_code == 4
    assert finding(visit.file, "gpu").told == "torch sees no CUDA GPU"
    assert bench.made[0].closed
    assert visit.file.noise == ()


def test_a_measuring_process_that_is_lost_is_unfit_and_what_else_can_be_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visit = visited(monkeypatch, Bench(prepares=MeasurementError("the measuring process was lost")))
    assert visit.exit_code == 3
    assert [finding(visit.file, f"A/A, {what}").level for what in ("short", "long")] == ["unfit", "unfit"]


def test_a_baseline_with_wrong_results_is_exit_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch, Bench(prepares=WrongResultError("BASELINE itself failed")))
    assert visit.exit_code == 5


@pytest.mark.parametrize(
    "outcome", [Trouble("gcc could not be run here"), Rejection("compile_error", "gcc could not be run here")]
)
def test_where_nothing_compiles_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    bench = Bench()

    def fails(spec: Any, jobs: Sequence[Job], target: Any, **_: Any) -> Iterator[Compiled]:
        return (Compiled(job, outcome) for job in jobs)

    visit = visited(monkeypatch, bench, compiler=fails)
    assert visit.exit_code == 3
    assert "gcc could not be run here" in finding(visit.file, "compiling").told
    assert bench.made[0].prepared == []


@pytest.mark.parametrize("has_gpu", [True, False])
def test_where_the_ops_cannot_be_loaded_the_rest_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    def fails(op: str) -> Any:
        raise UsageError(f"op {op}: cannot load it: No module named 'triton'")

    monkeypatch.setattr("fusetune.doctor.visit.spec_named", fails)
    visit = visited(monkeypatch, has_gpu=has_gpu, triton=None, no_gpu=None if has_gpu else "NVML: Driver Not Loaded")
    assert visit.exit_code == 4
    assert finding(visit.file, "triton").level == "no_gpu"
    assert finding(visit.file, "ops").level == "unfit"


def test_a_host_without_a_c_compiler_or_pythons_headers_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in (Host(None, True, 16, 0.0), Host("/usr/bin/gcc", False, 16, 0.0)):
        visit = visited(monkeypatch, host=host)
        assert visit.exit_code == 3
        assert finding(visit.file, "C compiler").level == "unfit"


def test_busy_cores_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    visit = visited(monkeypatch, host=Host("/usr/bin/gcc", True, 4, 9.0))
    assert visit.exit_code == 0
    assert finding(visit.file, "cores").level == "note"


# --- the installed ops


def test_each_variant_is_launched_at_each_example(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    visit = visited(monkeypatch, wish=own)
    assert visit.exit_code == 0
    spec = spec_named("doubled")
    assert [one.described for one in visit.file.kernels] == [problem.describe() for problem in spec.examples()]
    for examined in visit.file.kernels:
        tried = [spec.types.config.from_builtins(one.config) for one in examined.launched]
        assert {spec.signature(None, config) for config in tried} == {False, True}
        assert examined.launched[0].source == "baseline"
        assert all(one.outcome == "right" and one.error == 1e-4 for one in examined.launched)
        sampled = [one for one in examined.launched if one.source == "variant"]
        assert all(one.sample_us == pytest.approx(10, rel=0.01) for one in sampled)
        assert all(one.baseline_sample_us == pytest.approx(20, rel=0.01) for one in sampled)
        assert examined.launched[0].sample_us == pytest.approx(20, rel=0.01)
        (timed,) = (one for one in examined.launched if one.gain is not None)
        assert timed.gain is not None
        assert timed.gain.median == pytest.approx(0.5, abs=0.01)
        assert timed.gain.blocks == 25
    assert finding(visit.file, "kernels").told.endswith(" at 3 problems right")


def test_a_wrong_variant_is_exit_code_5_and_is_not_timed(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    labels = [one.label for one in visited(monkeypatch, wish=own).file.kernels[0].launched if one.source == "variant"]
    fails = {labels[0]: Failure("wrong_result", "z: relative error 0.3")}
    visit = visited(monkeypatch, Bench(fails=fails), wish=own)
    assert visit.exit_code == 5
    one = launched(visit.file.kernels[0])[labels[0]]
    assert (one.outcome, one.reason, one.detail) == ("failed", "wrong_result", "z: relative error 0.3")
    assert one.sample_us is None
    assert one.gain is None
    assert "wrong results of doubled" in finding(visit.file, "kernels").told


def test_a_variant_that_cannot_be_launched_is_a_note(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    labels = [one.label for one in visited(monkeypatch, wish=own).file.kernels[0].launched]
    visit = visited(monkeypatch, Bench(fails={labels[1]: Failure("hang", "not done after 20 s")}), wish=own)
    assert visit.exit_code == 0
    assert finding(visit.file, "kernels").level == "note"
    assert (
        "1 config failed" in finding(visit.file, "kernels").told
        or "configs failed" in finding(visit.file, "kernels").told
    )


@pytest.mark.parametrize(("reason", "outcome"), [("killed", "right"), ("hang", "failed")])
def test_a_process_that_somebody_kills_as_a_variant_is_timed_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, own: Wish, reason: str, outcome: str
) -> None:
    from fusetune.doctor import trial

    monkeypatch.setattr(trial, "compare", lambda *_, **__: Failure(reason, "by SIGKILL"))
    visit = visited(monkeypatch, wish=own)
    (one,) = (one for one in visit.file.kernels[0].launched if one.reason)
    assert (one.outcome, one.reason) == (outcome, reason)


def test_a_gpu_that_another_fusetune_measures_on_is_unfit_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with hold_gpu(UUID, lambda: None):
        visit = visited(monkeypatch, Bench(uuid=UUID))
        assert visit.exit_code == 3
        assert finding(visit.file, "company").told == "another fusetune measures on this GPU; wait until it has ended"
        visit = visited(monkeypatch, Bench(uuid=UUID), wish=Wish(ops=(load_spec(OWN).name,), limit_s=0.1))
        assert "has not ended in 0.1 s" in finding(visit.file, "company").told
        assert not visit.file.complete
    assert visited(monkeypatch, Bench(uuid=UUID)).exit_code == 0


def test_what_others_have_of_the_memory_says_nothing_of_a_variant(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    labels = [one.label for one in visited(monkeypatch, wish=own).file.kernels[0].launched]
    visit = visited(monkeypatch, Bench(fails={labels[1]: Failure("out_of_memory", "2 GiB asked for")}), wish=own)
    assert launched(visit.file.kernels[0])[labels[1]].outcome == "not_tried"
    assert visit.exit_code == 0


def test_trouble_at_one_problem_leaves_the_others(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    class Once(Bench):
        def __call__(self, spec: Any, problem: Any) -> Any:
            gpu = super().__call__(spec, problem)
            if len(self.asked) == 4:  # The short and the long A/A come before.
                gpu._prepares = MachineError("the disk of /home/ada/x is full")
            return gpu

    visit = visited(monkeypatch, Once(), wish=own)
    troubles = [one.trouble for one in visit.file.kernels]
    assert troubles == ["", "the disk of (a path) is full", ""]
    assert "not measured to the end: 1 problem" in finding(visit.file, "kernels").told


def test_what_does_not_compile_or_spills_is_told_and_not_launched(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    def some(spec: Any, jobs: Sequence[Job], target: Any, **rest: Any) -> Iterator[Compiled]:
        for done in compiled_at_once(spec, jobs, target, **rest):
            is_other = spec.name == "doubled" and done.job.config != spec.baseline(done.job.problem)
            yield Compiled(done.job, Rejection("compile_error", "in /home/ada/k.py")) if is_other else done

    visit = visited(monkeypatch, wish=own, compiler=some)
    others = visit.file.kernels[0].launched[1:]
    assert {(one.outcome, one.reason, one.detail) for one in others} == {("rejected", "compile_error", "in (a path)")}


def test_an_op_that_fails_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    wish = Wish(ops=(load_spec(BROKEN).name, *own.ops))
    visit = visited(monkeypatch, wish=wish)
    assert len(visit.file.kernels) == 3
    assert finding(visit.file, "ops").told.startswith(
        "doubled_badly is left out: op doubled_badly: its examples() fails"
    )


def test_an_op_without_examples_and_files_says_so(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    monkeypatch.setattr(type(spec_named("doubled")), "examples", lambda self: ())
    visit = visited(monkeypatch, wish=own)
    assert "names no examples" in finding(visit.file, "ops").told


def test_every_installed_op_is_tried_at_its_examples_and_at_the_entries_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Candidates are not listed here: tests of the op itself say that its examples reach all variants."""
    monkeypatch.setattr(items_module, "plausible", lambda request, target: ([], {}))
    visit = visited(monkeypatch, wish=Wish(ops=installed_ops()))
    assert visit.exit_code == 0
    assert not visit.file.not_reached
    for op in installed_ops():
        tried = [one for one in visit.file.kernels if one.op == op]
        assert {problem.describe() for problem in spec_named(op).examples()} <= {one.described for one in tried}
        entries = [one for examined in tried for one in examined.launched if one.recorded is not None]
        assert entries
        for one in entries:
            assert one.recorded is not None
            assert one.recorded.evidence == "predicted"
            assert one.predicted_us is not None
            assert one.source == "baseline" or one.us is not None


# --- the end of the time


def test_a_run_that_is_cut_off_says_what_it_did_not_reach(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    clock = iter(range(0, 100_000, 2))  # Each look at the clock is two seconds later.
    monkeypatch.setattr("fusetune.doctor.visit.Deadline", lambda limit_s: Deadline(limit_s, lambda: next(clock)))
    saved: list[DoctorFile] = []
    visit = visited(monkeypatch, wish=Wish(ops=own.ops, limit_s=100.0), save=saved.append)
    assert visit.file.complete
    clock = iter(range(0, 100_000, 2))
    visit = visited(monkeypatch, wish=Wish(ops=own.ops, limit_s=38.0), save=saved.append)
    assert not visit.file.complete
    names = [problem.describe() for problem in spec_named("doubled").examples()]
    reached = [one.described for one in visit.file.kernels]
    assert reached + [one.described for one in visit.file.not_reached] == names
    assert 0 < len(reached) < 3
    assert finding(visit.file, "kernels").do == "give more time with --limit"
    assert not any(one.complete for one in saved if one.not_reached)


def test_what_takes_longer_than_is_left_is_not_begun() -> None:
    now = [0.0]
    deadline = Deadline(10.0, lambda: now[0])
    assert not deadline.over
    now[0] = 7.0
    assert deadline.over  # A first problem takes four seconds, as far as is known.
    now[0] = 1.0
    with deadline.timing():
        now[0] = 3.0
    now[0] = 7.5
    assert not deadline.over
    now[0] = 8.5
    assert deadline.over
    assert not Deadline(None, lambda: 1e9).over


def test_every_process_is_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch, own: Wish) -> None:
    bench = Bench()
    visited(monkeypatch, bench, wish=own)
    assert [gpu.closed for gpu in bench.made] == [True] * 5
    lost = Bench(prepares=NoUsableGpuError("the GPU has fallen off the bus"))
    visit = visited(monkeypatch, lost, wish=own)
    assert all(gpu.closed for gpu in lost.made)
    assert visit.exit_code == 4
    assert len(visit.file.not_reached) == 3


def test_problems_are_measured_in_order_beside_the_next_ones_process(
    monkeypatch: pytest.MonkeyPatch, own: Wish
) -> None:
    monkeypatch.setattr(rounds, "AT_ONCE", 2)
    bench = Bench()
    visit = visited(monkeypatch, bench, wish=own)
    assert len(visit.file.kernels) == 3
    assert [name for name, _ in bench.asked[2:]] == ["doubled"] * 3
