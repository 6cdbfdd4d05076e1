"""The steps that bring an older YAML file to the schema of today, one version at a time.

A step takes the file's mapping as YAML gave it and returns that of the next version; `schema` is set for it. Steps
are never changed once released: the types of their day are gone, so they work on plain mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from fusetune.errors import ConfigFileError
from fusetune.store.schema import SCHEMA_VERSION

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: Final[Mapping[int, Step]] = {1: dict}
"""From which schema each step starts. What schema 2 added may be left out, so that a file of schema 1 is one of it."""


def migrate(raw: dict[str, Any], steps: Mapping[int, Step] = STEPS, to: int = SCHEMA_VERSION) -> dict[str, Any]:
    """`raw` brought from the schema that it names to schema `to`, step by step; `raw` itself is not changed.

    Raises ConfigFileError where a step is missing or does not find what it needs.
    """
    for version in range(raw["schema"], to):
        step = steps.get(version)
        if step is None:
            raise ConfigFileError(f"schema {version} is not one that fusetune ever wrote; schema {to} is current")
        try:
            # Steps run before anything was checked, so a damaged file shows as whatever the step trips over.
            raw = {**step(dict(raw)), "schema": version + 1}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ConfigFileError(
                f"the step from schema {version} to {version + 1} failed: {type(error).__name__}: {error}"
            ) from error
    return raw
