"""Pins of what was just tuned of a program: from its captures, while these are there."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fusetune.capture.pinned import NotPinnedError
from fusetune.capture.spec import CapturedSpec
from fusetune.compiler.pool import TIME_LIMIT_S, outcome_of
from fusetune.compiler.processes import CompileProcesses
from fusetune.compiler.record import kernel_records
from fusetune.core.brief import brief_error
from fusetune.core.target import Target
from fusetune.errors import FusetuneError
from fusetune.gate.drift import METRICS
from fusetune.gate.pins import PINS_VERSION, Pin, PinFile, Toolchain, merged, pins_path, read_pins, write_pins
from fusetune.gate.sources import launch_of
from fusetune.gate.static import target_of, toolchain_for
from fusetune.ops.before import reference_of
from fusetune.ops.refusals import CannotLaunchError
from fusetune.store.schema import Entry
from fusetune.store.yaml_files import read_config_file


class TunedEntry(msgspec.Struct, frozen=True):
    """An entry that was written, and the folder of the capture that it was tuned from."""

    entry: Entry
    capture: str


def pin_tuned(path: Path, tuned: Sequence[TunedEntry], processes: CompileProcesses) -> list[str]:
    """Put on record what the compiler makes of entries of one file, and how they are launched; why not, for some.

    Pins of the file's other entries stay, and so do those by other toolchains. Raises ConfigFileError where a file
    cannot be read or written, UsageError for a GPU that the table of targets does not hold, MachineError where the
    machine does not let it be compiled.
    """
    file = read_config_file(path)
    target, place = target_of(file), pins_path(path)
    toolchain, old = toolchain_for(target), read_pins(place, METRICS)
    asked = [(one, (CapturedSpec(Path(one.capture)), one.entry, target, toolchain)) for one in tuned]
    running = [(one, processes.schedule(pin_of_capture, given, TIME_LIMIT_S)) for one, given in asked]
    pins: list[Pin] = []
    refused: list[str] = []
    for one, future in running:
        made = outcome_of(future.result, TIME_LIMIT_S)
        if isinstance(made, Pin):
            pins.append(made)
        else:
            why = made if isinstance(made, str) else made.detail
            refused.append(f"{one.entry.config.label()} of {file.op} has no pin for `fusetune gate --static`: {why}")
    new = PinFile(pins=PINS_VERSION, op=file.op, target=file.target, entries=tuple(pins))
    if old is not None and (old.op, old.target) != (file.op, file.target):
        old = None
    write_pins(place, merged(old, new, [(entry.problem, entry.config) for entry in file.entries]))
    return refused


def pin_of_capture(spec: CapturedSpec, entry: Entry, target: Target, toolchain: Toolchain) -> Pin | str:
    """The pin of an entry, compiled from its capture in this process; the reason why there is none otherwise."""
    problem, config = entry.problem, entry.config
    launch = None
    try:
        with contextlib.suppress(NotPinnedError):  # Such as a function: it is gated on a GPU alone.
            launch = launch_of(spec, config, target)
        kernels = kernel_records(spec, problem, config, target)
    except (CannotLaunchError, FusetuneError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - what was tuned is shown all the same
        return brief_error(error)
    hashed = spec.source_hash(config)
    before = entry.before or reference_of(spec, problem)
    return Pin(problem, config, hashed, toolchain, kernels, before=before, launch=launch)
