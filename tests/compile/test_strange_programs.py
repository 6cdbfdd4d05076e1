"""What other people's libraries do around their launches: tuners that keep times, and what only looks like a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusetune.capture.kept import read_kept
from fusetune.capture.look import look
from fusetune.capture.programs import Program

BEGIN = """import torch
import triton
import triton.language as tl
from triton.runtime import Autotuner


@triton.jit
def copied(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK > 64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n), mask=at < n)


x, y = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda")
"""
REMEMBERING = """

class OnDisk:
    def __contains__(self, key):
        return False

    def __getitem__(self, key):
        return None

    def __setitem__(self, key, value):
        open("remembered", "a").write(f"{key} {value}")


class Remembering(Autotuner):
    def __init__(self, *args):
        super().__init__(*args)
        self.cache = OnDisk()

    def run(self, *args, **kwargs):
        self.nargs = dict(zip(self.arg_names, args))
        times = {}
        for config in self.prune_configs(kwargs):
            times[config] = self._bench(*args, config=config, **kwargs)
            self.cache[str(config)] = times[config]
        config = min(times, key=times.get)
        return self.fn.run(*args, **kwargs, **config.all_kwargs())


configs = [triton.Config({"BLOCK": size}, num_warps=2) for size in (64, 128, 256)]
tuned = Remembering(copied, copied.arg_names, configs, ["n"], None, None)
for _ in range(3):
    tuned[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, y, 1000)
print("BLOCK", tuned.best_config.kwargs["BLOCK"])
"""
LIKE_A_TENSOR = """

class Strided:
    def __init__(self, base, shape, strides, offset):
        self.base_, self.shape, self.strides, self.offset = base, shape, strides, offset
        self.dtype, self.device = base.dtype, base.device

    def stride(self):
        return self.strides

    def data_ptr(self):
        return self.base_.data_ptr() + self.offset * self.dtype.itemsize

    def untyped_storage(self):
        return self.base_.untyped_storage()


copied[(8,)](Strided(x, (500,), (2,), 4), Strided(y, (1000,), (-1,), 999), 500, BLOCK=128)
"""
NO_TENSOR = """

class Pointer:
    dtype = torch.float32

    def data_ptr(self):
        return x.data_ptr()

    def untyped_storage(self):
        raise NotImplementedError("mine")


copied[(8,)](Pointer(), y, 1000, BLOCK=128)
copied[(8,)](x, y, 1000, BLOCK=128)
print("goes on")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def looked_at(folder: Path, text: str, keep: Path | None = None):
    (folder / "program.py").write_text(BEGIN + text, encoding="utf-8")
    return look(Program("script", str(folder / "program.py")), target="rtx4090", keep=keep)


def test_a_tuner_of_a_program_s_own_is_given_no_time_to_keep(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    looked = looked_at(folder, REMEMBERING)
    assert looked.failed is None
    (case,) = looked.cases
    assert (case.constants["BLOCK"], case.before["num_warps"], case.launches) == (128, 2, 3)
    assert case.proposals == 3
    assert not (folder / "remembered").exists()
    assert "BLOCK 128" in capfd.readouterr().err


def test_what_only_looks_like_a_tensor_is_taken_by_its_pointer(folder: Path) -> None:
    looked = looked_at(folder, LIKE_A_TENSOR, folder / "kept")
    assert looked.failed is None
    (case,) = looked.cases
    x, y = case.tensors["x_ptr"], case.tensors["y_ptr"]
    assert (x.shape, x.stride, x.offset, x.dtype) == ((500,), (2,), 4, "float32")
    assert (y.offset, y.storage_bytes) == (999, 4000)
    assert case.kept is not None
    assert read_kept(Path(case.kept)).unlaunchable is None


def test_a_launch_that_cannot_be_described_is_told_and_the_program_goes_on(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    looked = looked_at(folder, NO_TENSOR)
    assert looked.failed is None
    assert "goes on" in capfd.readouterr().err
    assert len(looked.cases) == 1
    (lost,) = looked.not_captured
    assert (lost.kernel.name, lost.launches, lost.why) == ("copied", 1, "mine")


def test_a_library_with_a_folder_named_triton_is_no_part_of_triton(folder: Path) -> None:
    (folder / "ops" / "triton").mkdir(parents=True)
    launching = BEGIN[: BEGIN.index("x, y =")] + (
        "\n\ndef copy(x, y):\n    n = x.numel()\n    copied[(triton.cdiv(n, 128),)](x, y, n, BLOCK=128)\n"
    )
    (folder / "ops" / "triton" / "copying.py").write_text(launching, encoding="utf-8")
    calls = "import torch\nfrom ops.triton.copying import copy\n\nx = torch.ones(1000, device='cuda')\ncopy(x, x)\n"
    (folder / "program.py").write_text(calls, encoding="utf-8")
    (case,) = look(Program("script", str(folder / "program.py")), target="rtx4090").cases
    assert case.site is not None
    line = launching.splitlines().index("    copied[(triton.cdiv(n, 128),)](x, y, n, BLOCK=128)") + 1
    assert (Path(case.site.file).name, case.site.line) == ("copying.py", line)
    assert case.site.follows == ("BLOCK",)
