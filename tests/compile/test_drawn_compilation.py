"""The picture of docs/ whose command compiles."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton

pytestmark = pytest.mark.compile

ROOT = Path(__file__).parents[2]
PINNED = re.findall(r"^triton==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.skipif(triton.__version__ not in PINNED, reason=f"it is drawn with triton {PINNED[0]}, which is pinned")
def test_the_picture_of_inspect_is_what_the_command_prints_now() -> None:
    command = [sys.executable, str(ROOT / "docs" / "pictures.py"), "--check", "inspect"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
