"""Names that somebody may have meant."""

from __future__ import annotations

import pytest

from fusetune.core.near import did_you_mean
from fusetune.core.target import find_target
from fusetune.errors import UnknownTargetError, UsageError
from fusetune.ops.loading import load_spec
from tests.support.sample import OP


def test_the_nearest_name_is_told_as_it_is_written_and_nothing_where_none_is_near() -> None:
    assert did_you_mean("colums", ["rows", "columns"]) == "; did you mean columns?"
    assert did_you_mean("rtx4900", ["RTX4090", "h100"]) == "; did you mean RTX4090?"
    assert did_you_mean("zzz", ["rows", "columns"]) == ""


def test_a_misspelt_gpu_and_a_misspelt_op_are_told_the_nearest_of_theirs() -> None:
    with pytest.raises(UnknownTargetError, match=r"'rtx4900' is not known; .*; did you mean rtx4090\?"):
        find_target("rtx4900")
    with pytest.raises(UsageError, match=rf"'{OP[1:]}' is not known; .*; did you mean {OP}\?"):
        load_spec(OP[1:])
