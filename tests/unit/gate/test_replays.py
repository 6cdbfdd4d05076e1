"""A live gate of captured kernels: what launches an entry, and what is found of it, on a simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.capture.cases import Case, KernelSeen, KnobSeen
from fusetune.capture.from_source import KernelSource, NoKernel
from fusetune.capture.kept import MANIFEST, VERSION, Kept, PlainKept
from fusetune.core.config import Config, NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import NamedProblem, Problem
from fusetune.core.progress import SilentProgress
from fusetune.core.target import find_target
from fusetune.errors import NotCheckableError
from fusetune.gate.findings import Finding
from fusetune.gate.live import LiveOptions, live_gate
from fusetune.gate.pins import PINS_VERSION, Pin, PinFile, Toolchain, pins_path, write_pins
from fusetune.gate.replayed import gate_from
from fusetune.gate.replays import ReplayedSpec, Replays
from fusetune.gate.source_revision import SourceRevision
from fusetune.measure.fake import FakeMeasurer
from fusetune.measure.protocol import Failure, SamplingFacts
from fusetune.ops.spec import KernelSpec
from fusetune.store.schema import ConfigFile, Entry, Times

RTX4090 = find_target("rtx4090")
HERE = TargetIdentity(name=RTX4090.name, capability=RTX4090.capability, sms=RTX4090.sms)
HASH = "a" * 16
BEFORE = NamedConfig(BLOCK=128, num_warps=8, num_stages=3)
CHOSEN = NamedConfig(BLOCK=256, num_warps=4, num_stages=2)
PROBLEM = NamedProblem(n=1000, grid_0=8)


def capture(folder: Path, *, block: int = 128, warps: int = 8, grid: int = 8, **more: Any) -> Path:
    """A capture of `norms:add`, which the program launched in so many programs of so many elements."""
    case = Case(
        kernel=KernelSeen("add", "norms", "norms.py", 1, HASH),
        grid=(grid,),
        grid_kind="callable",
        tensors={},
        values={"n": 1000},
        constants={"BLOCK": block},
        options={},
        before={"num_warps": warps, "num_stages": 3},
        knobs=(KnobSeen("BLOCK", block, True, "", (64, 128, 256)), KnobSeen("num_stages", 3, True, "", ())),
        kept=str(folder),
    )
    kept = Kept(
        version=VERSION,
        id="a",
        made="2026-11-29T07:00:00Z",
        program="bench.py",
        case=case,
        module="norms",
        kernel="add",
        arguments={"n": PlainKept(1000), "BLOCK": PlainKept(block)},
        storages=(),
        grid_text="(-(-1000 // BLOCK),)",
        grid_reads=frozenset({"BLOCK"}),
        **more,
    )
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(kept))
    return folder


def entry_of(**changes: Any) -> Entry:
    entry = Entry(
        problem=PROBLEM,
        before=BEFORE,
        config=CHOSEN,
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=Environment(triton="3.7.1", kernel_hash=HASH),
        run="20261129T101500-3f9a",
        date="2026-11-29",
        gain=Gain(median=0.5, low=0.49, high=0.51, confidence=0.95, min_gain=0.02, blocks=50),
        time_us=Times(before=20.0, baseline=20.0, conservative=10.0, config=10.0),
    )
    return msgspec.structs.replace(entry, **changes)


class Place:
    """A file of configs, captures beside it, and a simulated GPU with these times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "configs" / "nvidia-geforce-rtx-4090" / "norms_add.yaml"
        self.us: dict[Config, float] = {BEFORE: 20.0, CHOSEN: 10.0}
        self.failures: dict[Config, Failure] = {}
        self.specs: list[ReplayedSpec] = []

    def measurer(self, spec: KernelSpec, problem: Problem) -> FakeMeasurer:
        assert isinstance(spec, ReplayedSpec)
        assert problem == PROBLEM
        spec.check(problem)
        self.specs.append(spec)

        def us(config: Config) -> float:
            return self.us[config] if config in self.us else self.us[config.here()]

        return FakeMeasurer(RTX4090, us, failures=self.failures)

    def gate(self, replays: Replays, *, entry: Entry | None = None, against: str | None = None) -> list[Finding]:
        file = ConfigFile(schema=2, op="norms_add", kernel="norms:add", target=HERE, entries=(entry or entry_of(),))
        options = LiveOptions(
            replays=replays,
            against=None if against is None else SourceRevision(against),
            journals=self.folder / "runs",
        )
        return live_gate([(self.path, file)], self.measurer, SilentProgress(), options)

    def pin(self, before: Config) -> None:
        pin = Pin(PROBLEM, CHOSEN, HASH, Toolchain("3.7.1", "12.8"), (), before=before)
        write_pins(pins_path(self.path), PinFile(pins=PINS_VERSION, op="norms_add", target=HERE, entries=(pin,)))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def source(hashed: str = HASH) -> KernelSource:
    return KernelSource("/nowhere", "norms", "add", hashed)


def test_a_kept_config_is_measured_beside_what_ran_before_on_the_program_s_own_launch(place: Place) -> None:
    (finding,) = place.gate(Replays([capture(place.folder / "a")]))
    assert finding.status == "holds"
    assert "+50.0 %" in finding.detail
    (spec,) = place.specs
    assert (spec.before(PROBLEM), spec.captured_problem()) == (BEFORE, PROBLEM)
    place.us[CHOSEN] = 19.9
    assert place.gate(Replays([capture(place.folder / "b")]))[0].status == "regression"
    place.failures[CHOSEN] = Failure("wrong_result", "z_ptr: relative error 0.3")
    assert place.gate(Replays([capture(place.folder / "c")]))[0].status == "wrong_result"


def test_a_program_that_runs_the_kept_config_by_now_is_still_held_to_what_ran_before(place: Place) -> None:
    applied = capture(place.folder / "a", block=256, warps=4, grid=4)
    (finding,) = place.gate(Replays([applied]))
    assert (finding.status, place.specs[0].before(PROBLEM)) == ("holds", BEFORE)

    baseline = NamedConfig(BLOCK=128, num_warps=4, num_stages=2)
    place.us[baseline] = 20.0
    entry = entry_of(before=None, time_us=Times(baseline=20.0, conservative=20.0, config=10.0))
    (unknown,) = place.gate(Replays([applied]), entry=entry)
    assert unknown.status == "inconclusive", "it was BASELINE, at constants that nothing says"
    place.pin(baseline)
    (finding,) = place.gate(Replays([applied]), entry=entry)
    assert (finding.status, place.specs[-1].before(PROBLEM)) == ("holds", baseline)


def test_a_launch_that_nothing_captured_or_that_cannot_be_placed_is_no_pass(place: Place) -> None:
    other = capture(place.folder / "a", grid=9)
    assert [one.status for one in place.gate(Replays([other], {place.path: source()}))] == ["inconclusive"]
    assert "no capture of this launch is kept here" in place.gate(Replays([], {place.path: source()}))[0].detail
    assert "the program makes no such launch" in place.gate(Replays([]))[0].detail
    unknown = entry_of(config=NamedConfig(TILE=2, num_warps=4))
    (finding,) = place.gate(Replays([capture(place.folder / "b")]), entry=unknown)
    assert (finding.status, "is not known: tune again" in finding.detail) == ("inconclusive", True)
    closed = capture(place.folder / "c", unlaunchable="it uses cache, a dict")
    (finding,) = place.gate(Replays([closed]))
    assert (finding.status, finding.detail) == ("not_gated", "it cannot be launched again: it uses cache, a dict")
    assert place.specs == []


def test_a_changed_kernel_has_to_give_what_the_captured_one_gives_and_nothing_uses_its_entry(place: Place) -> None:
    captures = [capture(place.folder / "a")]
    (finding,) = place.gate(Replays(captures, {place.path: source("b" * 16)}))
    assert finding.status == "regression"
    assert "source has changed since it was tuned, so that nothing uses this entry: tune again; gain" in finding.detail
    (spec,) = place.specs
    assert spec.before(PROBLEM) == BEFORE.elsewhere(), "which the captured kernel launches"
    assert spec.source_hash() == "b" * 16
    assert finding.journal is not None
    assert gate_from(Path(finding.journal)).status == "holds", "by its blocks alone"
    place.failures[BEFORE] = Failure("wrong_result", "z_ptr: relative error 0.3")
    assert place.gate(Replays(captures, {place.path: source("b" * 16)}))[0].status == "wrong_result"
    place.failures.clear()
    (same,) = place.gate(Replays(captures, {place.path: source()}))
    assert (same.status, place.specs[-1].before(PROBLEM)) == ("holds", BEFORE.elsewhere()), "as its module may be other"


@pytest.mark.parametrize(
    ("why", "status"),
    [
        (NoKernel("norms.py has no kernel add any more", gone=True), "regression"),
        (NoKernel("norms.py cannot be imported: ImportError"), "inconclusive"),
        (NoKernel("norms.py: it stands inside a function", never=True), "holds"),
    ],
)
def test_a_kernel_that_cannot_be_had_from_its_file(place: Place, why: NoKernel, status: str) -> None:
    """Where no import ever reached, the capture's own is launched."""
    (finding,) = place.gate(Replays([capture(place.folder / "a")], {place.path: why}))
    assert finding.status == status


def test_against_a_revision_the_same_config_is_launched_by_its_kernel(place: Place) -> None:
    captures, path = [capture(place.folder / "a")], place.path
    slower = CHOSEN.elsewhere()
    for us, status in ((10.0, "holds"), (9.95, "slower"), (9.6, "regression")):
        place.us[slower] = us
        replays = Replays(captures, {path: source()}, {path: source("c" * 16)})
        baseline, against = place.gate(replays, against="main")
        assert (baseline.status, against.status, against.check) == ("holds", status, "against")
    (gone,) = place.gate(Replays(captures, {path: source()}, {path: NoKernel("gone", gone=True)}), against="main")[1:]
    assert (gone.status, gone.detail) == ("not_gated", "main has no such kernel to compare with (gone)")


def test_a_launch_whose_results_differ_each_time_ends_no_gate(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(_: FakeMeasurer, seed: int) -> SamplingFacts:
        raise NotCheckableError("not checkable: two runs of Before differ")

    monkeypatch.setattr(FakeMeasurer, "prepare", prepare)
    (finding,) = place.gate(Replays([capture(place.folder / "a")]))
    assert (finding.status, finding.detail) == ("inconclusive", "not checkable: two runs of Before differ")


def test_a_kernel_that_its_user_vouches_for_is_not_compared(place: Place) -> None:
    captures = [capture(place.folder / "a")]
    for globs, vouched in (((), False), (("*drop*",), False), (("rms", "ad*"), True)):
        place.gate(Replays(captures, vouched=globs))
        assert place.specs[-1].strictness.vouched is vouched
