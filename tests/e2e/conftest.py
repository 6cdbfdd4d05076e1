"""What the commands of all e2e tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiler cache that is empty when the tests begin: one for all processes of the run, as users have it."""
    own = tmp_path_factory.getbasetemp()
    whole = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = whole / "triton-cache"
    folder.mkdir(exist_ok=True)
    return folder
