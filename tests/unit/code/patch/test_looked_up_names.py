"""What Triton's own decorator may be called in a file that is to look its configs up."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.code.patch.plan import planned
from tests.unit.code.patch.test_patch_forms import change_of, copied


@pytest.mark.parametrize(
    ("imported", "name"),
    [("import triton as tr\n", "tr.autotune"), ("from triton.runtime.autotuner import autotune\n", "autotune")],
)
def test_triton_s_own_decorator_is_known_by_any_name(tmp_path: Path, imported: str, name: str) -> None:
    file = copied("looked_up", tmp_path)
    file.write_text(imported + file.read_text().replace("@triton.autotune(", f"@{name}("))
    (patch,) = planned([change_of("looked_up", file)]).files
    assert b"import fusetune\n" in patch.after
    assert b"@fusetune.autotune(" in patch.after
