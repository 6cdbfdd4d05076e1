"""What a sweep does about the machine's trouble: candidates that it kept from being tried, and its own end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from fusetune.core.config import Config
from fusetune.core.target import Target
from fusetune.core.trouble import Trouble
from fusetune.errors import ConfigFileError, MachineError, NothingTunedError
from fusetune.store.paths import config_path
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.log import RunLog
from fusetune.tune.request import SweepRequest

NOT_TRIED: Final = "not_tried"
"""The reason of a candidate that is `skipped` because of the machine. A later run tries it."""


@contextmanager
def ends_with_nothing() -> Iterator[None]:
    """What of the machine ends a sweep comes out as NothingTunedError: no timing was noisy, there was none."""
    try:
        yield
    except NothingTunedError:
        raise
    except MachineError as error:
        raise NothingTunedError(f"{error}. Nothing was written") from error


def allow_for(
    troubled: Mapping[Config, Trouble], tried: int, request: SweepRequest, target: Target, log: RunLog
) -> None:
    """Tell of the candidates that the machine kept from being compiled or checked, beside `tried` others with BASELINE.

    Raises the trouble where what is left is no sweep: Before or BASELINE was hit, or more than half of the others, or
    the config that the file holds for this problem, which must not lose without having been tried.
    """
    if not troubled:
        return
    first = next(iter(troubled.values()))
    for config, name in ((log.reference, log.reference_name), (request.baseline, "BASELINE")):
        if config in troubled:
            raise _as(troubled[config], f"{name} could not be tried for {target.name}")
    if len(troubled) >= tried:
        raise _as(first, f"{len(troubled)} of {len(troubled) + tried} candidates could not be tried")
    held = held_by_file(request, target)
    if held is not None and held in troubled:
        raise _as(troubled[held], f"{held.label()}, which the file keeps for this problem, could not be tried")
    log.note(
        f"{len(troubled)} of {len(troubled) + tried} candidates were not tried because of the machine "
        f"({first.detail}); run the command again to try them"
    )


def _as(trouble: Trouble, what: str) -> Exception:
    return Trouble(f"{what}: {trouble.detail}", trouble.is_setting).error()


def held_by_file(request: SweepRequest, target: Target) -> Config | None:
    """The config of the measured entry that this sweep would replace."""
    path = config_path(request.output, target.name, request.spec.name)
    try:
        entries = read_config_file(path).entries if path.is_file() else ()
    except ConfigFileError:
        return None  # Checked before the sweep; whoever damaged it since is told as the entry is written.
    measured = (entry for entry in entries if entry.problem == request.problem and entry.evidence == "measured")
    return next((entry.config for entry in measured), None)
