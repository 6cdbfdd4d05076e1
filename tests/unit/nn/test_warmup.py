"""What can be warmed up, what a fork leaves behind, and what is said where a package or a GPU is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import fusetune
from fusetune.cli.main import cli
from fusetune.errors import FusetuneError, NoUsableGpuError, UsageError
from fusetune.nn import bound
from fusetune.nn.plans import MOST_PLANS, Plan, Plans
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.runtime import configs, warmup

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")


@without_gpu
def test_without_a_gpu_there_is_nothing_to_warm_up():
    with pytest.raises(NoUsableGpuError, match="nothing can be warmed up: "):
        fusetune.warmup([{"M": 128, "N": 512, "K": 1024}])
    assert "built without CUDA" in configs.why_no_gpu() or "no CUDA GPU" in configs.why_no_gpu()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"M": 1, "N": 2},
            "K is missing: a problem has M, K and N",
        ),
        ({"M": 1, "N": 2, "K": 3, "rows": 4}, "'rows' is not known: a problem has M, K, N"),
        ({"M": 1, "N": 2, "K": 3, "op": "mine"}, "op 'mine' is not known; use one of: gemm_scale"),
        ({"M": 1, "N": 2, "K": 3, "mode": "eval"}, "gemm_scale has no mode 'eval'"),
        ({"M": 1, "N": 2, "K": 3, "op": "gemm_scale_bn"}, "give it one: --mode train or --mode eval"),
        ({"M": 0, "N": 2, "K": 3}, "M is 0; a size to tune lies between"),
        ({"M": 1, "N": 2, "K": 3, "dtype": "float64"}, "dtype 'float64' is not known"),
    ],
)
def test_what_is_no_problem_is_told(given, told):
    with pytest.raises(FusetuneError) as caught:
        warmup._named(given, "gemm_scale")
    assert told in str(caught.value)


def test_a_problem_is_a_mapping_with_defaults_or_a_problem():
    expected = make_problem(128, 512, 1024, "float32")
    assert warmup._named({"M": 128, "N": 512, "K": 1024}, "gemm_scale") == ("gemm_scale", expected)
    assert warmup._named(expected, "gemm_scale") == ("gemm_scale", expected)


@without_gpu
@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["--M", "3"], UsageError, "--K, --N: K, N are missing: a problem has M, K and N"),
        (["--K", "3", "--N", "3"], UsageError, "--M: M is missing"),
        (["--M", "3", "--K", "3", "--N", "3"], NoUsableGpuError, "no NVIDIA GPU here"),
        ([], NoUsableGpuError, "no NVIDIA GPU here"),
    ],
)
def test_the_command_says_what_it_lacks(arguments, error, told):
    with pytest.raises(error, match=told):
        cli.main(["warmup", *arguments], standalone_mode=False)


def _plan(M):
    problem = make_problem(M, 4, 4, "float32")
    return Plan(BASELINE, problem, None, (), 0, generation=bound.PLANS.generation)


def test_plans_are_bounded_and_forgotten_when_other_configs_are_loaded():
    plans = Plans()
    plans.generation = bound.PLANS.generation
    for M in range(1, MOST_PLANS + 10):
        plans.put(("gemm_scale", M), _plan(M))
    assert len(plans) < MOST_PLANS
    assert plans.count == MOST_PLANS + 9
    try:
        bound.PLANS.put(("gemm_scale", "test"), _plan(1))
        assert len(bound.PLANS) == 1
        fusetune.reload()
        assert len(bound.PLANS) == 0
        bound.PLANS.put(("gemm_scale", "test"), _plan(1))
        fusetune.load()
        assert len(bound.PLANS) == 0
    finally:
        fusetune.load()


_FORK = """
import os, threading
import torch, fusetune
from fusetune.nn import bound
from fusetune.runtime import configs
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.nn.plans import Plan

fusetune.fused_gemm_scale(torch.randn(5, 7), torch.randn(4, 7), torch.randn(4), torch.randn(4))
bound.PLANS.put(("gemm_scale", 1), Plan(BASELINE, make_problem(1, 4, 4, "float32"), None, (), 0))
source = configs.active_source()
held = threading.Event()
def hold():
    with source._lock, bound.PLANS.making:
        held.set()
        threading.Event().wait(30)
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    assert len(bound.PLANS) == 0
    with bound.PLANS.making:
        pass
    print(fusetune.explain(M=128, N=512, K=1024, target="rtx4090").rung, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("parent", len(bound.PLANS))
os._exit(0)
"""


def test_a_forked_child_starts_without_the_parent_s_plans_and_locks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _FORK], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "parent 1"


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_a_missing_package_is_told_by_its_name_and_is_an_import_error(tmp_path, package):
    script = f"import sys; sys.modules[{package!r}] = None\nimport fusetune\nfusetune.fused_gemm_scale"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert f"MissingPackageError: fusetune.fused_gemm_scale needs {package}, which is not installed here" in last
