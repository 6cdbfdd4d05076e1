"""gemm_scale with a fixed list of about 200 configs, the same for every tuner. For tuning_time.py."""

from __future__ import annotations

import random

from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.linear_scale import GemmScale
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.ops.gemm_scale.space import TILED_VALUES, Space, candidates, reject_reason

PROBLEM = make_problem(128, 512, 1024, "float32")
COUNT = 200


def listed() -> tuple[Config, ...]:
    """BASELINE and 199 others of the variant tiled, in the standard space, that fit both an H200 and an RTX 4090.

    Always the same. autotune is given one kernel, so one variant it is.
    """
    targets = [find_target("h200"), find_target("rtx4090")]
    fitting = [
        config
        for config in candidates(Space(TILED_VALUES), "standard")
        if config != BASELINE and all(reject_reason(config, PROBLEM, target) is None for target in targets)
    ]
    return (BASELINE, *random.Random(0).sample(fitting, COUNT - 1))


class ListedSpace(Space, frozen=True):
    """A space that is a list."""

    def configs(self) -> tuple[Config, ...]:
        return listed()


class ListedGemmScale(GemmScale):
    """The KernelSpec."""

    space = ListedSpace({})


SPEC = ListedGemmScale()
