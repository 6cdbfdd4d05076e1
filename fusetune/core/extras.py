"""What has to be installed for which part: `pip install fusetune` brings what serves, extras the rest."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

from fusetune.errors import MissingPackageError

EXTRAS: Final[dict[str, dict[str, str]]] = {
    "tune": {
        "scipy": "scipy",
        "numpy": "numpy",
        "pebble": "pebble",
        "pynvml": "nvidia-ml-py",
        "libcst": "libcst",
        "black": "black",
        "junitparser": "junitparser",
    },
    "report": {"jinja2": "jinja2", "markupsafe": "markupsafe"},
    "fleet": {"distributed": "distributed", "dask": "dask"},
}
"""Of each extra the modules that it brings, with the name that pip has for each. pyproject.toml says the same."""


def need(extra: str, who: str) -> None:
    """Make sure, before any work is done, that all of an extra is installed; nothing of it is loaded.

    Raises MissingPackageError, a sentence that begins with `who` and has the line for pip.
    """
    missing = [package for module, package in EXTRAS[extra].items() if not _is_there(module)]
    if missing:
        raise MissingPackageError(lacking(who, missing, extra))


def _is_there(module: str) -> bool:
    # One that is loaded is there, also where somebody made it by hand: `find_spec` does not take those.
    return sys.modules.get(module) is not None or find_spec(module) is not None


def lacking(who: str, packages: list[str], extra: str) -> str:
    """The sentence for packages of an extra that are not there."""
    named = " and ".join([*([", ".join(packages[:-1])] if packages[1:] else []), packages[-1]])
    are = "are" if packages[1:] else "is"
    return f"{who} needs {named}, which {are} not installed; {install_line(extra)} installs what is missing"


def install_line(extra: str) -> str:
    """What installs an extra, in the form in which messages have commands."""
    return f"`pip install 'fusetune[{extra}]'`"


def extra_of(module: str) -> tuple[str, str] | None:
    """The extra that brings a module, and the name that pip has for it; None where no extra does."""
    for extra, modules in EXTRAS.items():
        if module in modules:
            return extra, modules[module]
    return None
