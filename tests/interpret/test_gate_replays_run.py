"""A gate's replay launches the captured kernel, the one of now and another revision's, on the bytes that were kept."""

from __future__ import annotations

from pathlib import Path

import torch

from fusetune.capture.cases import Case
from fusetune.capture.from_source import KernelSource
from fusetune.capture.keeping import Keeper
from fusetune.capture.launches import kernel_seen
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import Config, NamedConfig
from fusetune.gate.replays import ReplayedSpec
from fusetune.measure.own_data import Wrong
from tests.support.kept_kernels import kernels

BEFORE = NamedConfig(num_warps=4, num_stages=3)
CHOSEN = NamedConfig(num_warps=8, num_stages=2)
OTHER = """import triton
import triton.language as tl


@triton.jit
def combined(x_ptr, n, BLOCK: tl.constexpr{more}):
    at = tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) * 7, mask=at < n)
"""


def written(folder: Path, more: str = "") -> KernelSource:
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").write_text("")
    (folder / "kernels" / "norms.py").write_text(OTHER.format(more=more))
    return KernelSource(str(folder), "norms", "combined", "b" * 16)


def captured(folder: Path) -> CapturedSpec:
    x = torch.randn(64)
    keeper = Keeper(folder, exact=False, quota_bytes=1 << 20, program="a.py")
    arguments = {"x_ptr": x, "n": 40, "BLOCK": 64}
    pending = keeper.before("a", kernels.combined, arguments)
    assert pending is not None
    kernels.combined[(1,)](**arguments)
    keeper.after(pending)
    case = Case(kernel_seen(kernels.combined), (1,), "tuple", {}, {}, {"BLOCK": 64}, {}, {}, roles={"x_ptr": "both"})
    found = keeper.keep(pending, case)
    assert found is not None, pending.why
    return CapturedSpec(Path(found))


def results(spec: ReplayedSpec, *configs: Config) -> list[float | Wrong]:
    """What the checks of these configs come to, the first of which all are held to."""
    problem = spec.captured_problem()
    data = spec.own_data(problem, 0, "cpu")
    tensors = data.make()

    def run(config: Config) -> None:
        for launch in spec.launches(problem, config, tensors):
            launch.run()

    return [data.check(tensors, lambda config=config: run(config)) for config in configs]


def test_the_kernel_of_now_is_held_to_what_the_captured_one_writes(tmp_path: Path) -> None:
    capture = captured(tmp_path / "run")
    problem = capture.captured_problem()
    same = ReplayedSpec(capture.folder, problem, BEFORE)
    assert results(same, same.before(problem), CHOSEN) == [0.0, 0.0]

    here = written(tmp_path / "now")
    changed = ReplayedSpec(capture.folder, problem, BEFORE, here=here, held_to_capture=True)
    first, before, chosen = results(changed, changed.before(problem), BEFORE, CHOSEN)
    assert first == 0.0
    assert isinstance(before, Wrong)
    assert isinstance(chosen, Wrong)
    assert (before.reason, chosen.reason) == ("wrong_result", "wrong_result")


def test_a_config_that_is_elsewhere_is_launched_by_the_other_revision_s_kernel(tmp_path: Path) -> None:
    capture = captured(tmp_path / "run")
    there = written(tmp_path / "then")
    spec = ReplayedSpec(capture.folder, capture.captured_problem(), BEFORE, there=there)
    before, chosen, other = results(spec, BEFORE, CHOSEN, CHOSEN.elsewhere())
    assert (before, chosen) == (0.0, 0.0)
    assert isinstance(other, Wrong)
