"""What processes of a program are told that are to launch with tuned configs, and how their children hear of it.

Two environment variables reach every child that inherits the environment: FUSETUNE_RUN with the settings, and
PYTHONPATH with a folder that holds a `sitecustomize` of ours, which Python imports at its start. Neither reaches a
process that is started with another environment, or as `python -I`, `-E` or `-S`.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

VARIABLE: Final = "FUSETUNE_RUN"
PYTHON_PATH: Final = "PYTHONPATH"
STARTUP: Final = str(Path(__file__).resolve().parent / "startup")
"""The folder of our `sitecustomize`, and of nothing else."""
_PACKAGE: Final = str(Path(__file__).resolve().parents[3])


class Settings(NamedTuple):
    """How launches are served.

    `configs` is the folder or file to look in, None for the search path. `folder` is where each process leaves what it
    served, None for nowhere. `program` is how the program is named to other commands. `parent` is the process that
    started the program's first one. `package` is the folder that fusetune is imported from.
    """

    configs: str | None = None
    on_miss: str = "default"
    predicted: bool = False
    folder: str | None = None
    program: str = "PROGRAM"
    parent: int = 0
    package: str = _PACKAGE

    def command(self, kernel: str) -> str:
        """The command that tunes a kernel of the program."""
        return f"fusetune tune --kernel {shlex.quote(kernel)} {self.program}"


def variables_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, with their values, that a child's environment has beside those of this one."""
    before = [one for one in (environment.get(PYTHON_PATH) or "").split(os.pathsep) if one != STARTUP]
    path = os.pathsep.join([STARTUP, *before] if any(before) else [STARTUP])
    return {VARIABLE: json.dumps(settings._asdict()), PYTHON_PATH: path}


def give_back(environment: MutableMapping[str, str], settings: Settings, before: Mapping[str, str | None]) -> None:
    """Take the variables of these settings out again, for those of `before`; what was changed since stays so."""
    ours = variables_of(settings, {name: value for name, value in before.items() if value is not None})
    for name, value in before.items():
        if environment.get(name) != ours[name]:
            if name == PYTHON_PATH and STARTUP not in (value or "").split(os.pathsep):
                _without_startup(environment)
        elif value is None:
            environment.pop(name, None)
        else:
            environment[name] = value


def withdraw(environment: MutableMapping[str, str]) -> None:
    """Take the variables out of an environment again, for what is not to be served."""
    environment.pop(VARIABLE, None)
    _without_startup(environment)


def _without_startup(environment: MutableMapping[str, str]) -> None:
    path = [one for one in (environment.get(PYTHON_PATH) or "").split(os.pathsep) if one != STARTUP]
    if any(path):
        environment[PYTHON_PATH] = os.pathsep.join(path)
    else:
        environment.pop(PYTHON_PATH, None)


def settings_of(environment: Mapping[str, str]) -> Settings | None:
    """The settings that a process inherits; None where there are none, or none that this version understands."""
    try:
        return Settings(**json.loads(environment.get(VARIABLE) or "null"))
    except (ValueError, TypeError):
        return None
