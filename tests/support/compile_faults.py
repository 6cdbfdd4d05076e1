"""The sample as the compiler's workers may meet it: launches of certain configs hang, kill the process or raise."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fusetune.ops.spec import Launch
from tests.support.broken_kernels import shapes_do_not_fit
from tests.support.sample import Config, Problem, SampleSpec, tile

HANG = tile(depth=16)
CRASH = tile(depth=64)
RAISE = tile(columns=32)
DOES_NOT_COMPILE = tile(rows=32)

EXIT_CODE = 7


class FaultyToCompile(SampleSpec):
    name = "faulty_to_compile"

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        if config == HANG:
            time.sleep(600)
        if config == CRASH:
            os._exit(EXIT_CODE)
        if config == RAISE:
            raise KeyError("an op's own mistake")
        if config == DOES_NOT_COMPILE:
            return [Launch(shapes_do_not_fit, (1,), {"y_ptr": tensors["y"]}, {"BLOCK": 32})]
        return super().launches(problem, config, tensors)


SPEC = FaultyToCompile()
