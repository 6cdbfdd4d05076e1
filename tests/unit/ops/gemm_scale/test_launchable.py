"""What no GPU can launch is known from a config's numbers, and nothing else is refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from fusetune.core.target import known_targets
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.gemm_scale.batch_norm import SPEC as BATCH_NORM
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.launchable import VARIANTS, incapable, unlaunchable
from fusetune.ops.gemm_scale.linear_scale import SPEC as PLAIN
from fusetune.ops.gemm_scale.problem import MODES, make_problem
from fusetune.ops.gemm_scale.space import candidates, reject_reason
from fusetune.ops.spec import KernelSpec, abstract_tensors
from fusetune.runtime.believed import read_believed_file
from fusetune.store.paths import config_files

SHIPPED = Path(__file__).parents[3] / "configs"


def _problem(M=512, N=512, K=1024, dtype="float16", mode=None):
    return make_problem(M, N, K, dtype, mode=mode)


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_the_kernels_refuse_is_what_is_told_beforehand(mode, dtype):
    spec = PLAIN if mode is None else BATCH_NORM
    for variant, split, K in itertools.product((*VARIANTS, "nosuch"), (1, 4), (64, 1024)):
        problem, config = _problem(K=K, dtype=dtype, mode=mode), Config(variant, SPLIT_K=split, BLOCK_N=128)
        why = incapable(config, problem, mode)
        tensors = abstract_tensors(spec, problem, config)
        if why is None:
            assert spec.launches(problem, config, tensors)
        else:
            with pytest.raises(UnsupportedProblemError, match=re.escape(why)):
                spec.launches(problem, config, tensors)
        assert why is None or spec.unlaunchable(problem, config) == why


@pytest.mark.parametrize("path", config_files(SHIPPED), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_config_can_be_launched(path):
    assert read_believed_file(path).entries


@pytest.mark.parametrize("problem", [_problem(M=16), _problem(M=16, mode="train"), _problem(4096, 4096, 4096)], ids=str)
def test_nothing_that_a_sweep_would_try_is_refused(problem):
    spec = PLAIN if problem.mode is None else BATCH_NORM
    for target in known_targets():
        tried = [one for one in candidates(spec.space, "full") if reject_reason(one, problem, target) is None]
        assert [one for one in tried if spec.unlaunchable(problem, one)] == []


@pytest.mark.parametrize(
    ("config", "problem", "told"),
    [
        (Config(BLOCK_M=1024, BLOCK_N=1024), _problem(), "8192 accumulators a thread"),
        (Config("split_k", SPLIT_K=64), _problem(), "64 CTAs cannot share 32 steps along K"),
        (Config("split_k", SPLIT_K=4), _problem(mode="train"), "of 256 rows at most"),
        (Config("split_k", SPLIT_K=32), _problem(16384, 4096), "its summands take 8192 MiB"),
        (Config("persistent"), _problem(K=1023), "rows of x, W and y that begin on 16 bytes"),
        (Config("masked"), _problem(N=1001, K=1023), "rows of x and W that begin on 16 bytes"),
        (Config("padded", SPLIT_K=64), _problem(N=1001, K=1023), "64 CTAs cannot share 32 steps along K"),
        (Config("deferred", BLOCK_N=16), _problem(), "a quarter of 16 columns is less than"),
    ],
)
def test_what_could_only_fail_late_is_refused(config, problem, told):
    assert told in str(unlaunchable(config, problem, problem.mode))


def test_baseline_is_never_refused():
    for M, N, K, mode in itertools.product((1, 7, 65536), (1, 7, 65536), (1, 7, 65536), (None, *MODES)):
        assert unlaunchable(BASELINE, _problem(M, N, K, mode=mode), mode) is None


def test_an_op_that_does_not_tell_is_believed():
    assert KernelSpec().unlaunchable(_problem(), Config("mine")) is None
