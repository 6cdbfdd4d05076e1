"""What comes back of an op with types of its own, through processes that have not loaded it."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import pytest

from fusetune.fleet.collect import kept_here
from fusetune.fleet.lane import _portable
from fusetune.fleet.words import Answer


def test_a_result_of_an_op_s_own_types_passes_through_a_process_that_has_not_loaded_the_op(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("own_types_of_a_user")
    exec("class Own:\n    pass\n", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sent = pickle.dumps(_portable(Answer(0, "done", result=module.Own())))
    with monkeypatch.context() as elsewhere:
        elsewhere.delitem(sys.modules, module.__name__)
        passed_on = pickle.dumps(pickle.loads(sent))
    request: Any = None  # It is asked for nothing where there is no file.
    received: Any = kept_here(request, pickle.loads(passed_on))
    assert isinstance(received, module.Own)
