"""Which config a call gets, when files are read, and what is said about it."""

from __future__ import annotations

import os
import threading
import warnings
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
import torch

import fusetune
from fusetune.core.decision import Gain
from fusetune.core.target import find_target
from fusetune.errors import ConfigFileError, MissingConfigError, NoUsableGpuError, UnknownTargetError
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.runtime import configs
from fusetune.store.paths import config_path
from fusetune.store.schema import ConfigFile, Entry, Environment, TargetIdentity, Times
from fusetune.store.yaml_files import dump_config_file

NARROW = Config(BLOCK_N=16, BLOCK_K=128, num_stages=3)
WIDE = Config(BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=3)
HERE = Environment(
    triton=version("triton"),
    kernel_hash=SPEC.source_hash(BASELINE),
    torch=str(torch.__version__),
    cuda=torch.version.cuda,
)


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


def _entry(config: Config = NARROW, M: int = 128, environment: Environment = HERE, **changes: object) -> Entry:
    entry = Entry(
        problem=make_problem(M, 512, 1024, "float32"),
        config=config,
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=environment,
        run="20261123T101500-3f9a",
        date="2026-11-23",
        gain=Gain(median=0.598, low=0.596, high=0.601, confidence=0.95, min_gain=0.02, blocks=50),
        time_us=Times(baseline=13.2, conservative=6.6, config=5.3),
    )
    return msgspec.structs.replace(entry, **changes)


def _predicted(config: Config = NARROW) -> Entry:
    return _entry(
        config,
        evidence="predicted",
        verdict="unverified",
        reason="predicted_not_timed",
        gain=None,
        time_us=None,
        predicted_us=Times(baseline=14.0, conservative=7.0, config=6.0),
    )


def _put(root: Path, *entries: Entry, target: str = "rtx4090") -> Path:
    known = find_target(target)
    identity = TargetIdentity(name=known.name, capability=known.capability, sms=known.sms)
    path = config_path(root, known.name, "gemm_scale")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_config_file(ConfigFile(schema=2, op="gemm_scale", target=identity, entries=entries)))
    return path


def _explain(M: int = 128, target: str = "rtx4090"):
    return fusetune.explain(M=M, N=512, K=1024, target=target)


@pytest.mark.parametrize(
    ("M", "config", "rung"),
    [(128, NARROW, "exact"), (100, NARROW, "nearest"), (129, BASELINE, "baseline"), (64, BASELINE, "baseline")],
)
def test_the_exact_problem_then_the_nearest_m_of_its_bucket_then_baseline(tmp_path, M, config, rung):
    path = _put(tmp_path / "configs", _entry())
    found = _explain(M)
    assert (found.config, found.rung) == (config, rung)
    assert found.file == (None if rung == "baseline" else Path("configs") / path.relative_to(tmp_path / "configs"))


def test_sizes_are_given_by_name_alone_since_libraries_order_them_differently():
    with pytest.raises(TypeError, match="positional"):
        fusetune.explain(128, 512, 1024, target="rtx4090")  # type: ignore[misc]


def test_what_is_explained_prints_itself(capsys):
    _put(Path("configs"), _entry())
    found = _explain()
    print(found)
    told = capsys.readouterr().out
    assert told == f"{found.explain()}\n"
    first, *_ = told.splitlines()
    assert first == f"{NARROW.label()}: the entry for exactly this problem"
    assert "the gain over BASELINE" in told


def test_the_entry_of_another_gpu_is_not_used():
    _put(Path("configs"), _entry())
    assert _explain(target="rtx4090").config == NARROW
    assert _explain(target="h200").config == BASELINE


def test_a_file_that_is_named_is_used_for_its_own_gpu_only(tmp_path):
    path = _put(tmp_path / "elsewhere", _entry())
    fusetune.load(path)
    assert _explain(target="rtx4090").config == NARROW
    other = _explain(target="h200")
    assert other.config == BASELINE
    assert "it is for NVIDIA GeForce RTX 4090, this GPU is NVIDIA H200" in other.explain()


def test_sizes_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        fusetune.explain(128, 512, 1024)
    assert fusetune.explain(M=128, N=512, K=1024, dtype="fp16", target="rtx4090").config == BASELINE


def test_an_entry_for_another_kernel_source_is_not_used_and_the_answer_says_so():
    _put(Path("configs"), _entry(environment=msgspec.structs.replace(HERE, kernel_hash="0123456789abcdef")))
    found = _explain()
    assert found.config == BASELINE
    assert (
        f"the kernel source has changed since (0123456789abcdef then, {SPEC.source_hash(BASELINE)} now)"
        in found.explain()
    )


def test_what_is_found_says_where_and_with_which_evidence():
    _put(Path("configs"), _entry())
    text = str(_explain(100))
    assert text == _explain(100).explain()
    assert text.startswith("64x16x128 w4 s3: the entry for M=128, the nearest ")
    assert "configs/nvidia-geforce-rtx-4090/gemm_scale.yaml" in text
    assert "measured, keep" in text
    assert "59.8 %" in text


def test_environment_variable_then_working_directory_then_user_then_shipped(tmp_path, monkeypatch):
    """Each is put in after the one that it is to hide, and hides it."""
    places = [
        tmp_path / "shipped",
        tmp_path / "home" / "fusetune" / "configs",
        tmp_path / "configs",
        tmp_path / "second",
        tmp_path / "first",
    ]
    monkeypatch.setattr("fusetune.store.paths.shipped_configs", lambda: places[0])
    monkeypatch.setenv("FUSETUNE_CONFIGS", f"{places[4]}{os.pathsep}{places[3]}")
    found = []
    for stages, place in enumerate(places, start=1):
        _put(place, _entry(Config(num_stages=stages)))
        fusetune.reload()
        found.append(_explain().config.num_stages)
    assert found == [1, 2, 3, 4, 5]


def test_a_folder_that_is_named_takes_the_place_of_the_whole_search_path(tmp_path):
    _put(Path("configs"), _entry(WIDE))
    _put(tmp_path / "mine", _entry(M=32))
    fusetune.load(tmp_path / "mine")
    assert _explain(32).config == NARROW
    assert _explain(128).config == BASELINE


def test_a_path_that_is_not_there_is_refused_and_what_was_loaded_stays(tmp_path):
    fusetune.load(_put(tmp_path / "mine", _entry()))
    with pytest.raises(ConfigFileError, match=r"nowhere: no such file or folder; `fusetune sweep` writes"):
        fusetune.load(tmp_path / "nowhere")
    assert _explain().config == NARROW


@pytest.mark.parametrize("named", ["the file", "a folder", "the search path"])
def test_a_damaged_file_warns_once_and_baseline_is_used(named):
    path = _put(Path("configs"), _entry())
    path.write_text(path.read_text().replace("BLOCK_K: 128", "BLOCK_K: many"))
    fusetune.load({"the file": path, "a folder": Path("configs"), "the search path": None}[named])
    with pytest.warns(RuntimeWarning, match=r"damaged file and falls back to BASELINE: .*gemm_scale\.yaml, line \d+"):
        assert _explain().config == BASELINE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _explain().config == BASELINE
        assert _explain(64).config == BASELINE


def test_beside_a_damaged_file_the_others_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSETUNE_CONFIGS", str(tmp_path / "first"))
    _put(tmp_path / "first", _entry(WIDE)).write_text("schema: [")
    _put(Path("configs"), _entry())
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert _explain().config == NARROW


def test_strict_raises_for_a_damaged_file_at_once_when_it_is_named_and_else_at_the_first_call():
    path = _put(Path("configs"), _entry())
    path.write_text("schema: 99\n")
    with pytest.raises(ConfigFileError, match="written by a newer fusetune"):
        fusetune.load(path, strict=True)
    fusetune.load(Path("configs"), strict=True)
    for _ in range(2):
        with pytest.raises(ConfigFileError, match="written by a newer fusetune"):
            _explain()


def test_strict_raises_where_there_is_no_entry_and_says_what_to_run():
    _put(Path("configs"), _entry())
    fusetune.load(strict=True)
    assert _explain().config == NARROW
    for _ in range(2):
        with pytest.raises(MissingConfigError) as caught:
            _explain(4096)
        message = str(caught.value)
        assert (
            "no tuned config of gemm_scale for M=4096 K=1024 N=512 float32 tf32 on NVIDIA GeForce RTX 4090" in message
        )
        assert "`fusetune sweep --M 4096 --K 1024 --N 512`" in message


def test_strict_accepts_an_entry_whose_verdict_is_to_stay_with_baseline():
    _put(Path("configs"), _entry(BASELINE, verdict="revert", reason="gain_below_minimum"))
    fusetune.load(strict=True)
    assert (_explain().config, _explain().rung) == (BASELINE, "exact")


def test_predicted_entries_are_used_on_request_only():
    _put(Path("configs"), _predicted())
    found = _explain()
    assert found.config == BASELINE
    assert "it is predicted, not measured" in found.explain()
    fusetune.load(allow_predicted=True)
    assert _explain().config == NARROW
    fusetune.load(strict=True)
    with pytest.raises(MissingConfigError, match="it is predicted, not measured"):
        _explain()


def test_a_file_changed_on_disk_is_not_picked_up_until_reload(tmp_path):
    path = _put(tmp_path / "mine", _entry())
    fusetune.load(path)
    assert _explain().config == NARROW
    _put(tmp_path / "mine", _entry(WIDE), _entry(WIDE, M=64))
    assert _explain().config == NARROW
    assert _explain(64).config == BASELINE, "a problem that was not asked for yet comes from what was read as well"
    fusetune.reload()
    assert (_explain().config, _explain(64).config) == (WIDE, WIDE)


def test_reload_keeps_path_strictness_and_leave_to_predict(tmp_path):
    fusetune.load(_put(tmp_path / "mine", _predicted()), strict=True, allow_predicted=True)
    fusetune.reload()
    assert _explain().config == NARROW
    with pytest.raises(MissingConfigError):
        _explain(4096)


def test_another_driver_torch_or_triton_is_used_with_one_warning():
    old = msgspec.structs.replace(HERE, torch="2.0.1", triton="2.0.0", driver="470.1")
    _put(Path("configs"), _entry(environment=old))
    with pytest.warns(RuntimeWarning, match="although its environment differs") as caught:
        found = _explain()
    assert found.config == NARROW
    (warning,) = caught
    assert f"torch {torch.__version__}, file has 2.0.1" in str(warning.message)
    assert f"triton {version('triton')}, file has 2.0.0" in str(warning.message)
    assert "driver" not in str(warning.message), "without a GPU nothing is known of its driver"
    assert warning.filename == __file__, "it points to the code of the user"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _explain().config == NARROW


def test_threads_get_the_same_answer_from_one_reading_of_the_files(monkeypatch):
    _put(Path("configs"), _entry(), _entry(WIDE, M=4096))
    reads = []
    monkeypatch.setattr(
        configs, "open_config_file", lambda path, read=configs.open_config_file: (reads.append(path), read(path))[1]
    )
    start, answers = threading.Barrier(8), []

    def ask():
        start.wait()
        answers.append([_explain(M).config for M in (128, 4096, 100, 7) * 20])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[NARROW, WIDE, NARROW, BASELINE] * 20] * 8
    assert len(reads) == 1


def test_without_a_gpu_and_without_a_name_explain_says_what_to_name():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(NoUsableGpuError, match="target='rtx4090'"):
        fusetune.explain(M=128, N=512, K=1024)
    with pytest.raises(UnknownTargetError, match="rtx4091"):
        _explain(target="rtx4091")


def test_a_missing_entry_of_another_op_is_told_with_the_command_that_makes_it(tmp_path):
    fusetune.load(tmp_path, strict=True)
    with pytest.raises(MissingConfigError) as caught:
        fusetune.explain(M=128, N=512, K=1024, op="gemm_scale_bn", mode="train", target="rtx4090")
    assert "`fusetune sweep --op gemm_scale_bn --M 128 --K 1024 --N 512 --mode train`" in str(caught.value)
    with pytest.raises(MissingConfigError) as caught:
        fusetune.explain(M=128, N=512, K=1024, dtype="float16", op="gemm_scale_bn", mode="eval", target="rtx4090")
    assert "--op gemm_scale_bn --M 128 --K 1024 --N 512 --mode eval --dtype float16`" in str(caught.value)
    with pytest.raises(MissingConfigError) as caught:
        fusetune.explain(M=128, N=512, K=1024, precision="tf32x3", target="rtx4090")
    assert "`fusetune sweep --M 128 --K 1024 --N 512 --precision tf32x3`" in str(caught.value)
