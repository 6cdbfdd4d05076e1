"""Launches of torch.compile's own are counted by name, as soon as it has its launchers."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from fusetune.capture import inductor
from fusetune.capture.inductor import MODULE, name_of, when_imported
from fusetune.capture.watch import Watch
from fusetune.report.captured import besides

LAUNCHERS = """
class CachingAutotuner:
    def __init__(self, name):
        self.inductor_meta = {"kernel_name": name}
    def run(self, *args, stream, benchmark_run=False):
        return args, stream
"""


@pytest.fixture
def launchers(tmp_path, monkeypatch) -> str:
    """The name of a module that nobody has imported."""
    (tmp_path / "some_launchers.py").write_text(LAUNCHERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_launchers", raising=False)
    return "some_launchers"


@pytest.mark.parametrize("is_imported_before", [True, False])
def test_launches_of_what_torch_compile_made_are_counted_and_told(launchers, monkeypatch, is_imported_before):
    monkeypatch.setattr(inductor, "MODULE", launchers)
    if is_imported_before:
        importlib.import_module(launchers)
    watch = Watch()
    watch.install()
    try:
        module: Any = importlib.import_module(launchers)
        fused = module.CachingAutotuner("triton_poi_fused_add_0")
        assert [fused.run(1, 2, stream=3), fused.run(1, 2, stream=3)] == [((1, 2), 3)] * 2
        module.CachingAutotuner("double_0").run(stream=0)
    finally:
        watch.remove()
    fused.run(stream=0)
    looked = watch.looked()
    assert looked.by_inductor == {"triton_poi_fused_add_0": 2, "double_0": 1}
    told = besides(looked, ())
    assert "2 launches of triton_poi_fused_add_0: compiled by torch.compile; not captured" in told
    assert "1 launch of double_0: compiled by torch.compile; not captured" in told


def test_a_module_is_imported_as_without(launchers):
    found: list[Any] = []
    end = when_imported(launchers, found.append)
    module = importlib.import_module(launchers)
    assert found == [module]
    assert type(module.__spec__.loader).__name__ == type(module.__loader__).__name__ == "SourceFileLoader"
    end()
    assert not [one for one in sys.meta_path if type(one).__name__ == "_Finder"]


def test_a_module_that_is_not_there_is_not_there(monkeypatch):
    end = when_imported("no_such_launchers", lambda module: pytest.fail("there is none"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_launchers")
    end()


def test_a_launcher_s_kernel_has_a_name_whatever_it_tells():
    assert name_of(SimpleNamespace(fn=SimpleNamespace(__name__="double"))) == "double"
    assert name_of(SimpleNamespace()) == "a kernel"


def test_torch_has_the_launchers_that_are_watched():
    module = pytest.importorskip(MODULE)
    own = vars(module.CachingAutotuner)["run"]
    watch = Watch()
    watch.install()
    try:
        assert vars(module.CachingAutotuner)["run"].__wrapped__ is own
    finally:
        watch.remove()
    assert vars(module.CachingAutotuner)["run"] is own
