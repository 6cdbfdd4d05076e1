"""The static gate of captured kernels: what is found of an entry before anything is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fusetune.capture.from_source import KernelSource, NoKernel
from fusetune.cli import tuned_pins
from fusetune.core.progress import SilentProgress
from fusetune.errors import ConfigFileError, MachineError, UsageError
from fusetune.gate import static
from fusetune.gate.findings import Finding, exit_code
from fusetune.gate.pins import PINS_VERSION, Pin, PinFile, Toolchain, pins_path, read_pins, write_pins
from fusetune.store.schema import ConfigFile, Entry
from tests.unit.gate.test_replays import BEFORE, CHOSEN, HASH, HERE, PROBLEM, entry_of

SOURCE = KernelSource("/nowhere", "norms", "add", HASH)
TOOLS = Toolchain("3.7.1", "12.8")


class Given:
    """Sources that have this of every kernel."""

    def __init__(self, found: KernelSource | NoKernel | Exception) -> None:
        self._found = found

    def kernels(self, files: Any) -> dict[Path, KernelSource | NoKernel]:
        if isinstance(self._found, Exception):
            raise self._found
        return dict.fromkeys((path for path, *_ in files), self._found)


class NoProcesses:
    """Processes that nothing is asked of."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def begin_to_load(self) -> None:
        pass

    def __enter__(self) -> NoProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(spec: object, jobs: list[object], target: object, **_: object) -> list[object]:
        assert jobs == []
        return []

    monkeypatch.setattr(static, "compile_jobs", none)
    monkeypatch.setattr(static, "CompileProcesses", NoProcesses)
    monkeypatch.setattr(static, "toolchain_for", lambda _: TOOLS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "configs" / "nvidia-geforce-rtx-4090" / "norms_add.yaml"


def file_of(entry: Entry) -> ConfigFile:
    return ConfigFile(schema=2, op="norms_add", kernel="norms:add", file="norms.py", target=HERE, entries=(entry,))


def gated(path: Path, found: Any, entry: Entry | None = None) -> Finding:
    (finding,) = static.static_gate([(path, file_of(entry or entry_of()))], SilentProgress(), sources=Given(found))  # type: ignore[arg-type]
    return finding


REVERTED = entry_of(config=BEFORE, verdict="revert", reason="gain_below_minimum")


@pytest.mark.parametrize(
    ("found", "entry", "status"),
    [
        (NoKernel("norms.py is not there any more", gone=True), entry_of(), "regression"),
        (NoKernel("norms.py is not there any more", gone=True), REVERTED, "not_gated"),
        (NoKernel("norms.py cannot be imported: ImportError"), entry_of(), "inconclusive"),
        (NoKernel("norms.py: it stands inside a function", never=True), entry_of(), "not_gated"),
        (SOURCE, entry_of(), "no_reference"),
        (SOURCE, REVERTED, "no_reference"),
        (msgspec.structs.replace(SOURCE, source_hash="b" * 16), entry_of(), "regression"),
        (msgspec.structs.replace(SOURCE, source_hash="b" * 16), REVERTED, "no_reference"),
    ],
)
def test_what_is_found_where_no_launch_is_pinned(path: Path, found: Any, entry: Entry, status: str) -> None:
    finding = gated(path, found, entry)
    assert (finding.status, finding.check) == (status, "static")
    if isinstance(found, NoKernel):
        assert finding.detail.startswith(found.why)


def test_a_launch_that_no_file_can_hold_is_gated_on_a_gpu_alone(path: Path) -> None:
    pin = Pin(PROBLEM, CHOSEN, HASH, TOOLS, (), before=BEFORE)
    write_pins(pins_path(path), PinFile(pins=PINS_VERSION, op="norms_add", target=HERE, entries=(pin,)))
    finding = gated(path, SOURCE)
    assert (finding.status, exit_code([finding])) == ("not_gated", 0)
    assert "it is gated on a GPU alone" in finding.detail


@pytest.mark.parametrize(
    ("error", "code"), [(MachineError("the process was ended by SIGKILL"), 3), (UsageError("TRITON_INTERPRET"), 2)]
)
def test_what_keeps_kernels_from_being_imported_ends_the_gate_in_one_line(
    path: Path, error: MachineError | UsageError, code: int
) -> None:
    with pytest.raises(type(error)) as caught:
        gated(path, error)
    assert caught.value.exit_code == code
    with pytest.raises(type(error)):
        static.pin([(path, file_of(entry_of()))], SilentProgress(), sources=Given(error))  # type: ignore[arg-type]
    assert not pins_path(path).exists()


def test_pins_of_a_later_fusetune_are_refused_and_those_of_the_first_are_read(path: Path) -> None:
    place = pins_path(path)
    write_pins(place, PinFile(pins=PINS_VERSION, op="norms_add", target=HERE))
    text = place.read_text()
    place.write_text(text.replace(f"pins: {PINS_VERSION}", "pins: 1"))
    first = read_pins(place, ())
    assert first is not None
    assert first.pins == 1
    place.write_text(text.replace(f"pins: {PINS_VERSION}", f"pins: {PINS_VERSION + 1}"))
    with pytest.raises(ConfigFileError, match=r"pins"):
        read_pins(place, ())


def test_trouble_with_pins_is_told_and_ends_no_tuning(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Case:
        kept = "/kept/01"

    class Result:
        file, entry = path, entry_of()

    class One:
        result, case = Result(), Case()

    def refused(place: Path, entries: list[Any], processes: object) -> list[str]:
        assert (place, [(one.entry, one.capture) for one in entries]) == (path, [(Result.entry, "/kept/01")])
        raise MachineError("No space left on device")

    monkeypatch.setattr("fusetune.gate.tuned.pin_tuned", refused)
    tuned: Any = [One()]
    nothing: Any = None
    tuned_pins.pin_all(tuned, nothing)
    assert capsys.readouterr().err == f"note: {path} has no new pins: No space left on device\n"
