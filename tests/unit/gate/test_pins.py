"""The static gate with pins: each way in which a compiled config can differ from its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.compiler.record import KernelRecord
from fusetune.compiler.sass import InstructionCounts
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.progress import SilentProgress
from fusetune.core.resources import Resources
from fusetune.core.space import Rejection
from fusetune.core.target import find_target
from fusetune.core.trouble import Trouble
from fusetune.errors import ConfigFileError, MachineError, UsageError
from fusetune.gate import static
from fusetune.gate.drift import METRICS, drift
from fusetune.gate.findings import Finding, exit_code
from fusetune.gate.pins import Override, Toolchain, pins_path, read_pins, write_pins
from fusetune.store.schema import ConfigFile, Entry, Times
from tests.support.fake_compiler import FakeCompiler, install
from tests.support.sample import BASELINE, FILE, OP, SPEC, Config, make_problem, tile

TARGET = find_target("rtx4090")
IDENTITY = TargetIdentity(name=TARGET.name, capability=TARGET.capability, sms=TARGET.sms)
WINNER = tile(rows=64, columns=16, depth=128, num_stages=3)
PROBLEM = make_problem(128, 512, 1024, "float32")
OTHER_PROBLEM = make_problem(4096, 512, 1024, "float32")
HERE = Toolchain(triton="3.7.1", ptxas="12.9.86")
COUNTS = InstructionCounts(total=1000, mma=32, ldmatrix=16, cp_async=24)
RECORD = KernelRecord("tiled_products", 96, 0, 81920, "a" * 16, COUNTS)


def entry_of(problem: Any = PROBLEM, config: Config = WINNER) -> Entry:
    return Entry(
        problem=problem,
        config=config,
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        environment=Environment(triton="3.7.1", kernel_hash=SPEC.source_hash(BASELINE)),
        run="20261123T101500-3f9a",
        date="2026-11-23",
        predicted_us=Times(baseline=20.0, conservative=12.0, config=10.0),
    )


class Workplace:
    """One file of configs on disk, and what the compiler makes of its configs."""

    def __init__(self, folder: Path, compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "nvidia-geforce-rtx-4090" / FILE
        self.path.parent.mkdir(parents=True)
        self.file = ConfigFile(schema=2, op=OP, target=IDENTITY, entries=(entry_of(),))
        self.compiler, self.toolchain, self.hash = compiler, HERE, SPEC.source_hash(BASELINE)
        self.records: dict[Config, tuple[KernelRecord, ...]] = {WINNER: (RECORD,), BASELINE: (RECORD,)}
        monkeypatch.setattr(static, "kernel_records", lambda spec, problem, config, target: self.records[config])
        monkeypatch.setattr(static, "toolchain_for", lambda target: self.toolchain)
        monkeypatch.setattr(type(SPEC), "source_hash", lambda _self, _variant=None: self.hash)

    def becomes(self, **changes: Any) -> None:
        record = msgspec.structs.replace(RECORD, cubin="b" * 16, **changes)
        self.records[WINNER] = (record,)
        self.compiler.planted = {WINNER: Resources(record.registers, record.stack_bytes, record.shared_bytes)}

    def pin(self) -> static.Pinned:
        (pinned,) = static.pin([(self.path, self.file)], SilentProgress())
        return pinned

    def gate(self) -> list[Finding]:
        return static.static_gate([(self.path, self.file)], SilentProgress())

    def override(self, *accepts: str, reason: str = "wider tiles pay for it") -> None:
        place = pins_path(self.path)
        pins = read_pins(place, METRICS)
        assert pins is not None
        write_pins(place, msgspec.structs.replace(pins, overrides=(Override(PROBLEM, accepts, reason),)))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return Workplace(tmp_path, install(monkeypatch), monkeypatch)


def test_what_was_pinned_a_moment_ago_holds(place: Workplace) -> None:
    assert place.pin().count == 1
    (finding,) = place.gate()
    assert (finding.status, finding.check) == ("holds", "static")
    assert finding.detail.endswith(", as pinned")
    assert exit_code([finding]) == 0


def test_pins_are_no_file_of_configs_to_whoever_lists_those(place: Workplace) -> None:
    place.pin()
    root = place.path.parent.parent
    assert list(root.glob("*/*.yaml")) == []
    assert pins_path(place.path).read_text().startswith("# Written by `fusetune gate --pin`")


def test_without_pins_only_what_is_always_wrong_is_found(place: Workplace) -> None:
    place.becomes(registers=200)
    assert place.gate()[0].status == "holds"
    place.becomes(stack_bytes=8)
    assert place.gate()[0].status == "regression"


@pytest.mark.parametrize(
    ("changes", "metric", "figures"),
    [
        ({"registers": 128}, "registers", "registers 96 -> 128"),
        ({"shared_bytes": 98304}, "shared_bytes", "shared 80.0 KiB -> 96.0 KiB"),
        (
            {"instructions": msgspec.structs.replace(COUNTS, spill_store_bytes=64, spill_load_bytes=64)},
            "spill_bytes",
            "spill 0 B -> 128 B",
        ),
        ({"instructions": msgspec.structs.replace(COUNTS, total=1100)}, "instructions", "instructions 1000 -> 1100"),
        ({"instructions": msgspec.structs.replace(COUNTS, cp_async=0)}, "cp_async", "cp_async 24 -> 0"),
    ],
    ids=["registers", "shared memory", "spill", "instructions", "cp.async lost"],
)
def test_what_is_worse_than_pinned_is_a_regression_with_both_figures(
    place: Workplace, changes: dict[str, Any], metric: str, figures: str
) -> None:
    place.pin()
    place.becomes(**changes)
    (finding,) = place.gate()
    assert finding.status == "regression"
    assert finding.detail.startswith(f"worse than pinned in {metric}: ")
    assert figures in finding.detail
    assert "fusetune gate --pin" in finding.detail
    assert exit_code([finding]) == 1


def test_a_spill_is_a_regression_whatever_is_pinned(place: Workplace) -> None:
    place.pin()
    place.becomes(stack_bytes=120, registers=255)
    (finding,) = place.gate()
    assert (finding.status, finding.detail) == ("regression", "spills: 120 bytes of stack a thread")


def test_what_is_better_than_pinned_passes_and_asks_to_be_pinned(place: Workplace) -> None:
    place.pin()
    place.becomes(registers=80)
    (finding,) = place.gate()
    assert finding.status == "better"
    assert "better than pinned: registers 96 -> 80" in finding.detail
    assert "`fusetune gate --pin` records it" in finding.detail
    assert exit_code([finding]) == 0
    place.pin()
    assert place.gate()[0].status == "holds"


def test_better_in_one_and_worse_in_another_is_worse(place: Workplace) -> None:
    place.pin()
    place.becomes(registers=80, shared_bytes=98304)
    assert place.gate()[0].status == "regression"


def test_a_few_instructions_more_are_told_and_do_not_fail(place: Workplace) -> None:
    place.pin()
    place.becomes(instructions=msgspec.structs.replace(COUNTS, total=1020))
    (finding,) = place.gate()
    assert finding.status == "better"
    assert "no worse: instructions 1000 -> 1020" in finding.detail


def test_another_toolchain_is_told_as_such_and_never_called_a_regression(place: Workplace) -> None:
    place.pin()
    place.toolchain = Toolchain(triton="3.9.0", ptxas="13.0.88")
    place.becomes(registers=255)
    (finding,) = place.gate()
    assert finding.status == "other_toolchain"
    assert "pinned with triton 3.7.1, ptxas 12.9.86, compiled with triton 3.9.0, ptxas 13.0.88" in finding.detail
    assert exit_code([finding]) == 0


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (Resources(255, 120, 4096), "spills: 120 bytes"),
        (Resources(96, 0, 256 * 1024), "needs 256.0 KiB of shared memory"),
        (Rejection("compile_error", "ptxas said no"), "does not compile: ptxas said no"),
        (Rejection("compiler_crash", "died with exit code -11"), "does not compile: died with exit code -11"),
    ],
    ids=["spill", "shared memory", "error", "crash"],
)
@pytest.mark.parametrize("version", [{"triton": "3.8.0"}, {"ptxas": "13.1.80"}], ids=["triton", "ptxas"])
def test_whatever_another_toolchain_makes_of_a_pinned_config_is_reported_and_not_compared(
    place: Workplace, made: Resources | Rejection, told: str, version: dict[str, str]
) -> None:
    place.pin()
    before = pins_path(place.path).read_text()
    place.toolchain = msgspec.structs.replace(HERE, **version)
    place.compiler.planted = {WINNER: made}
    (finding,) = place.gate()
    assert (finding.status, exit_code([finding])) == ("other_toolchain", 0)
    assert finding.detail.startswith(told)
    assert "pinned with triton 3.7.1, ptxas 12.9.86, compiled with" in finding.detail
    assert finding.detail.endswith(": not compared"), "that it could be pinned would be no advice"
    # Pinning refuses it, and leaves what the other toolchain promised.
    assert place.pin().count == 0
    assert pins_path(place.path).read_text() == before
    place.toolchain, place.compiler.planted = HERE, {}
    assert place.gate()[0].status == "holds"
    place.compiler.planted = {WINNER: made}
    assert place.gate()[0].status == "regression"


def test_what_is_refused_keeps_its_pin_so_that_pinning_twice_launders_nothing(place: Workplace) -> None:
    place.pin()
    place.becomes(stack_bytes=120)
    for _ in range(2):
        assert place.pin().count == 0
        assert place.gate()[0].status == "regression"


def test_each_toolchain_keeps_its_own_pin(place: Workplace) -> None:
    place.pin()
    place.toolchain = Toolchain(triton="3.9.0", ptxas="13.0.88")
    place.becomes(registers=120)
    place.pin()
    assert place.gate()[0].status == "holds"
    place.toolchain = HERE
    assert place.gate()[0].status == "regression"


def test_a_changed_kernel_source_is_named_beside_what_became_worse(place: Workplace) -> None:
    place.pin()
    place.hash = "f" * 16
    assert place.gate()[0].detail.endswith("as pinned; the kernels' source has changed since")
    place.becomes(registers=128)
    (finding,) = place.gate()
    assert finding.status == "regression"
    assert "the kernels' source has changed since" in finding.detail


def test_an_entry_without_a_pin_among_pinned_ones_is_a_missing_reference(place: Workplace) -> None:
    place.pin()
    place.file = msgspec.structs.replace(place.file, entries=(entry_of(), entry_of(OTHER_PROBLEM, BASELINE)))
    pinned, missing = place.gate()
    assert (pinned.status, missing.status) == ("holds", "no_reference")
    assert "not pinned, while others are: `fusetune gate --pin`" in missing.detail
    assert exit_code([pinned, missing]) == 3


def test_an_override_accepts_what_it_names_with_its_reason_and_nothing_else(place: Workplace) -> None:
    place.pin()
    place.override("registers")
    place.becomes(registers=128)
    (finding,) = place.gate()
    assert finding.status == "holds"
    assert "registers 96 -> 128; accepted, because: wider tiles pay for it" in finding.detail
    place.becomes(registers=128, shared_bytes=98304)
    (finding,) = place.gate()
    assert finding.status == "regression"
    assert finding.detail.startswith("worse than pinned in shared_bytes: ")


def test_an_override_can_accept_a_spill_and_survives_pinning(place: Workplace) -> None:
    place.pin()
    place.override("stack_bytes", "registers", reason="8 bytes, outside of the loop")
    place.becomes(stack_bytes=8, registers=128)
    (finding,) = place.gate()
    assert (finding.status, exit_code([finding])) == ("holds", 0)
    assert "8 bytes, outside of the loop" in finding.detail
    assert place.pin().count == 1
    assert "8 bytes, outside of the loop" in place.gate()[0].detail


def test_what_spills_is_not_pinned(place: Workplace) -> None:
    place.becomes(stack_bytes=120)
    pinned = place.pin()
    assert pinned.count == 0
    assert "spills: 120 bytes" in pinned.refused[0]


def test_an_override_of_a_metric_that_there_is_not_is_refused_with_the_known_ones(place: Workplace) -> None:
    place.pin()
    place.override("speed")
    with pytest.raises(ConfigFileError, match="accepts speed, which is not a metric; use some of registers, stack"):
        place.gate()


def test_an_override_needs_a_reason(place: Workplace) -> None:
    place.pin()
    place.override("registers", reason="")
    with pytest.raises(ConfigFileError, match=rf"pins/{OP}\.yaml, line \d+: .*reason"):
        place.gate()


def test_damaged_pins_are_an_error_that_names_the_line(place: Workplace) -> None:
    place.pin()
    path = pins_path(place.path)
    path.write_text(path.read_text().replace("registers: 96", "registers: many"))
    with pytest.raises(ConfigFileError, match=rf"pins/{OP}\.yaml, line \d+: Expected `int`"):
        place.gate()


def test_pins_of_another_gpu_are_refused(place: Workplace) -> None:
    place.pin()
    place.file = msgspec.structs.replace(place.file, target=TargetIdentity("NVIDIA H200", "9.0", 132))
    with pytest.raises(UsageError, match=rf"pins {OP} on NVIDIA GeForce RTX 4090, its configs are for .*H200"):
        place.gate()


def test_other_kernels_than_pinned_are_worse() -> None:
    second = msgspec.structs.replace(RECORD, kernel="finish_split")
    found = drift([RECORD], [RECORD, second])
    assert found.worse == ("instructions",)
    assert found.told == "launches tiled_products, finish_split instead of tiled_products"
    assert drift([RECORD, second], [RECORD, second]).is_none


@pytest.mark.parametrize("is_setting", [False, True])
def test_what_the_machine_kept_from_being_compiled_is_neither_a_regression_nor_pinned(
    place: Workplace, is_setting: bool
) -> None:
    place.file = msgspec.structs.replace(place.file, entries=(entry_of(), entry_of(OTHER_PROBLEM, BASELINE)))
    place.pin()
    before = pins_path(place.path).read_text()
    place.compiler.planted = {WINNER: Trouble("was ended by SIGKILL", is_setting)}
    hit, other = place.gate()
    assert (hit.status, other.status) == ("inconclusive", "holds")
    assert hit.detail == "not compiled, because of the machine: was ended by SIGKILL"
    assert exit_code([hit, other]) == 3
    with pytest.raises(UsageError if is_setting else MachineError, match=r"was not pinned, .* was ended by SIGKILL"):
        place.pin()
    assert pins_path(place.path).read_text() == before


def test_a_record_that_the_machine_keeps_from_being_made_is_no_regression(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.pin()

    def full(*_: object) -> None:
        raise MachineError("No space left on device")

    monkeypatch.setattr(static, "kernel_records", full)
    with pytest.raises(MachineError, match=r"^No space left on device$"):
        place.gate()
