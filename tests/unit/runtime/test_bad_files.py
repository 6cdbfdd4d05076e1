"""A look-up answers, whatever lies where its files should: BASELINE, one short warning, in bounded time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import fusetune
from fusetune.core.target import find_target
from fusetune.errors import ConfigFileError
from fusetune.runtime import configs, warmup
from fusetune.store.paths import config_path
from fusetune.store.schema import Environment, TargetIdentity
from fusetune.store.yaml_files import dump_config_file
from tests.support.bad_files import CONFIG_FILES
from tests.support.sample import BASELINE, OP, SPEC, Config, columns_of, make_problem, tile
from tests.unit.store.store_examples import ENVIRONMENT, RTX4090, config_file, measured, problem

TILE = tile(columns=16, depth=128, num_stages=3)
SECONDS = 20.0
"""Far more than any takes on a busy machine, far less than what has no end."""
MOST_WARNED = 1500


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No file of this machine, of its user or of this checkout; and the search path is back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: None)
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / "home" / name)
    monkeypatch.delenv("FUSETUNE_CONFIGS", raising=False)
    fusetune.load()
    yield
    fusetune.load()


def _good(count: int = 1) -> str:
    here = Environment(triton=version("triton"), kernel_hash=SPEC.source_hash(BASELINE))
    entries = [measured(problem(128, N=512 + 16 * n), TILE, environment=here) for n in range(count)]
    return dump_config_file(config_file(*entries))


def _explain(M: int = 128, N: int = 512) -> fusetune.store.lookup.Lookup:
    return fusetune.explain(M=M, N=N, K=1024, target="rtx4090")


def _place(root: Path = Path("configs")) -> Path:
    path = config_path(root, RTX4090.name, OP)
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_whatever_lies_in_a_files_place_the_answer_is_baseline_with_one_short_warning(name):
    path = _place()
    CONFIG_FILES[name](path, _good())
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="damaged") as caught:
        found = _explain()
    assert (found.config, found.rung) == (BASELINE, "baseline")
    (warning,) = caught
    told = str(warning.message)
    assert str(path) in told
    assert len(told) < MOST_WARNED
    assert told.isprintable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _explain() == found
        assert _explain(100).config == BASELINE
    assert len(found.explain()) < 2 * MOST_WARNED
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("name", CONFIG_FILES)
@pytest.mark.parametrize("named", ["the file", "a folder"])
def test_strict_raises_one_short_line_for_it(name, named):
    path = _place()
    CONFIG_FILES[name](path, _good())
    with pytest.raises(ConfigFileError) as caught:  # noqa: PT012 - whichever of the two it is
        fusetune.load(path if named == "the file" else "configs", strict=True)
        _explain()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < MOST_WARNED
    assert str(caught.value).isprintable()


def test_a_good_file_is_used():
    _place().write_text(_good())
    assert _explain().config == TILE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{M: 128, N: 512,", "{M: 1" + "0" * 5000 + ", N: 512,"),
        ("num_warps: 4", "num_warps: 1" + "0" * 5000),
        ("num_stages: 3", "num_stages: " + "w" * 100_000),
        ("variant: tiled", "variant: nosuch"),
    ],
    ids=["M", "num_warps", "num_stages", "variant"],
)
def test_a_large_file_with_such_an_entry_is_as_good_as_a_small_one(old, new):
    text = _good(140)
    assert len(text) > 64_000
    _place().write_text(text.replace(old, new, 1))
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert _explain().config == BASELINE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _explain().config == BASELINE


def test_a_thousand_damaged_entries_are_told_in_a_few_warnings_and_looked_at_once():
    entries = [measured(problem(M), Config(variant="nosuch"), environment=ENVIRONMENT) for M in range(129, 257)]
    _place().write_text(dump_config_file(config_file(*entries)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [_explain(M) for M in range(129, 257)]
    assert {one.config for one in found} == {BASELINE}
    assert len(caught) <= configs.MOST_WARNINGS + 1
    assert sum(len(str(one.message)) for one in caught) < 200 * MOST_WARNED
    assert all(len(one.damaged) <= 8 for one in found)


def test_warming_up_leaves_damaged_entries_out(monkeypatch):
    text = _good(3).replace("variant: tiled", "variant: nosuch", 1)
    _place().write_text(text)
    known = TargetIdentity(RTX4090.name, RTX4090.capability, RTX4090.sms)
    monkeypatch.setattr(warmup, "device_identity", lambda index: known)
    assert [columns_of(problem) for _, problem in warmup._loaded(0)] == [528, 544]


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1.0e+308"])
@pytest.mark.parametrize("figure", ["median: 0.598", "low: 0.596", "baseline: 13.2", "confidence: 0.95"])
def test_figures_that_are_no_numbers_are_no_end_of_an_explanation(figure, number):
    _place().write_text(_good().replace(figure, f"{figure.partition(':')[0]}: {number}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert _explain().explain()


# --- folders and the environment


def _without_a_working_directory(folder, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()


def _closed(path: Path, monkeypatch) -> None:
    """As a folder of somebody else's is, to root too: the tests may run as root."""
    really = Path.stat, Path.lstat

    def refusing(real):
        def stat(self, **options):
            if path in (self, *self.parents) and self != path:
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, **options)

        return stat

    monkeypatch.setattr(Path, "stat", refusing(really[0]))
    monkeypatch.setattr(Path, "lstat", refusing(really[1]))


FOLDERS = {
    "the user's folder may not be searched": lambda folder, patch: (
        (folder / "home").mkdir(),
        _closed(folder / "home", patch),
    ),
    "a folder that is named may not be searched": lambda folder, patch: (
        (folder / "closed").mkdir(),
        patch.setenv("FUSETUNE_CONFIGS", str(folder / "closed")),
        _closed(folder / "closed", patch),
    ),
    "the folder of a GPU may not be searched": lambda folder, patch: (
        _place(folder / "configs"),
        _closed(folder / "configs" / "nvidia-geforce-rtx-4090", patch),
        patch.setenv("FUSETUNE_CONFIGS", str(folder / "configs")),
    ),
    "the working directory is gone": _without_a_working_directory,
    "./configs is a link to itself": lambda folder, patch: Path("configs").symlink_to("configs"),
    "a name of 300 characters": lambda folder, patch: patch.setenv("FUSETUNE_CONFIGS", "n" * 300),
    "a name of 100,000 characters": lambda folder, patch: patch.setenv("FUSETUNE_CONFIGS", "n/" * 50_000),
    "the home of nobody": lambda folder, patch: patch.setenv("FUSETUNE_CONFIGS", "~nosuchuser/x"),
    "a name that is no UTF-8 and too long": lambda folder, patch: patch.setenv("FUSETUNE_CONFIGS", "\udcff" * 300),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_searched_is_told_once_and_the_others_are_used(name, tmp_path, monkeypatch):
    FOLDERS[name](tmp_path, monkeypatch)
    with pytest.warns(RuntimeWarning, match="fusetune looks for tuned configs elsewhere: ") as caught:
        assert _explain().config == BASELINE
    assert len({str(one.message) for one in caught}) == len(caught) == 1
    assert len(str(caught[0].message)) < MOST_WARNED
    assert str(caught[0].message).isprintable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _explain(64).config == BASELINE
    shipped = tmp_path / "shipped"
    _place(shipped).write_text(_good())
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: shipped)
    fusetune.reload()
    with pytest.warns(RuntimeWarning, match="elsewhere"):
        assert _explain().config == TILE


@pytest.mark.parametrize("name", FOLDERS)
def test_strict_raises_for_a_folder_that_cannot_be_searched(name, tmp_path, monkeypatch):
    FOLDERS[name](tmp_path, monkeypatch)
    fusetune.load(strict=True)
    with pytest.raises(ConfigFileError, match="cannot"):
        _explain()


_AS_ANOTHER_USER = """
import os, warnings
os.setgid(65534); os.setuid(65534)
import fusetune
from fusetune.errors import ConfigFileError
from fusetune.store import paths
paths.shipped_configs = lambda: None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = fusetune.explain(M=128, N=512, K=1024, target="rtx4090")
print(found.config.label(), len(caught), "Permission denied" in str(caught[0].message))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_s_home_is_no_end_of_a_program(tmp_path):
    import tempfile

    if not os.access(Path(sys.executable).resolve(), os.X_OK):
        pytest.skip("another user cannot run this Python")
    with tempfile.TemporaryDirectory() as made:
        (home := Path(made) / "home").mkdir(mode=0o700)
        Path(made).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", _AS_ANOTHER_USER],
            cwd=made,
            env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": "", "TRITON_CACHE_DIR": made},
            capture_output=True,
            text=True,
            check=False,
        )
    if "ModuleNotFoundError" in done.stderr or "Permission denied: '/root" in done.stderr:
        pytest.skip("another user cannot import this checkout")
    assert done.stdout == "64x64x32 w4 s2 1 True\n", done.stderr


@pytest.mark.parametrize("path", ["n" * 300, "a\0b", "loop/x", "~nosuchuser/x", "\udcff"])
def test_loading_a_path_that_cannot_be_is_one_line_and_what_was_loaded_stays(path):
    Path("loop").symlink_to("loop")
    _place().write_text(_good())
    with pytest.raises(ConfigFileError) as caught:
        fusetune.load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < MOST_WARNED
    assert _explain().config == TILE


# --- how much is kept, and what hears warnings


def test_a_hundred_thousand_values_of_m_take_no_more_memory_than_a_few_thousand():
    _place().write_text(_good())
    source = configs.active_source()
    identity = TargetIdentity(RTX4090.name, RTX4090.capability, RTX4090.sms)
    step = 20_000

    def ask(begin):
        for M in range(begin, begin + step):
            source.find(OP, make_problem(M, 512, 1024, "float32"), identity)

    ask(1)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ask(1 + step)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    kept = len(source._found) + len(source._used) + len(source._refused)
    assert kept <= 3 * configs.MOST_FOUND
    assert grown < 4 << 20
    assert _explain().config == TILE


def test_a_warning_that_is_an_error_leaves_an_answer_for_the_next_call():
    path = _place()
    path.write_text("schema: [")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="damaged"):
            _explain()
        assert _explain().config == BASELINE


def test_what_hears_a_warning_may_look_up_something_itself(monkeypatch):
    _place().write_text("schema: [")
    heard = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *given: heard.append(_explain().config))
        assert _explain().config == BASELINE
    assert heard == [BASELINE]


def test_reading_them_takes_a_bounded_amount_of_memory(tmp_path):
    """In a process of its own, whose memory is measured."""
    script = """
import resource, sys, warnings
from pathlib import Path
from fusetune.store.yaml_reader import read_text, parse_config_file
from fusetune.errors import ConfigFileError
from tests.support.bad_files import CONFIG_FILES
good = sys.stdin.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number, make in enumerate(CONFIG_FILES.values()):
    path = Path(f"{number}.yaml")
    make(path, good)
    try:
        parse_config_file(read_text(path), path)
    except ConfigFileError as error:
        assert len(str(error)) < 1500
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=_good(),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) < 500, "MiB"


def test_the_targets_of_the_examples_are_known():
    known = find_target("rtx4090")
    assert (known.name, known.capability, known.sms) == (RTX4090.name, RTX4090.capability, RTX4090.sms)
