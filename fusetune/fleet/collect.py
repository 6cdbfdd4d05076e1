"""What the client does with an answer: it alone writes, so that no entry is lost and no file mixes two GPU models."""

from __future__ import annotations

import pickle
from pathlib import Path

from msgspec import structs

from fusetune.core.trouble import why_not_written
from fusetune.errors import MachineError
from fusetune.fleet.words import Answer
from fusetune.ops.loading import place_of
from fusetune.store.paths import config_path
from fusetune.store.yaml_files import write_entry
from fusetune.store.yaml_reader import parse_config_file
from fusetune.tune.request import SweepRequest, SweepResult


def kept_here(request: SweepRequest, answer: Answer) -> SweepResult:
    """The result of an answer, its entry and its journal in the folders of the request.

    Raises ConfigFileError where the entry does not fit into the file that is there, as where that is of another GPU,
    and MachineError where the journal cannot be written.
    """
    result: SweepResult = pickle.loads(answer.result) if isinstance(answer.result, bytes) else answer.result
    if answer.journal is not None:
        result = structs.replace(result, journal=_written(request.runs, *answer.journal))
    if answer.file is None:
        return result
    op, path = request.spec.name, config_path(request.output, result.target_name, request.spec.name)
    measured_on = parse_config_file(answer.file, path).target
    written = write_entry(path, op, measured_on, result.entry, place_of(op), request.spec.kernel_place)
    return structs.replace(result, file=path if written.written else None, kept_instead=written.kept)


def _written(runs: Path, name: str, data: bytes) -> Path:
    path = runs / Path(name).name
    try:
        runs.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {why_not_written(error, 'choose another folder with --runs')}"
        ) from error
    return path
