"""The process that Nsight Compute looks at: draws inputs, launches one config a few times, and ends.

`python -m fusetune.measure.profiled JOB`, where JOB is JSON with op, problem and config.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.measure.profile import WARM_UPS


class _Job(msgspec.Struct, frozen=True):
    op: str
    problem: Problem
    config: Config


def main(text: str) -> int:
    """Launch the job's config WARM_UPS times and once more; returns the exit code."""
    import torch

    from fusetune.ops.loading import load_spec
    from fusetune.store.typed import decoding_of

    if not torch.cuda.is_available():
        print("==ERROR== torch sees no GPU", file=sys.stderr)
        return 1
    job = msgspec.json.decode(text, type=_Job, dec_hook=decoding_of(msgspec.json.decode(text)["op"]))
    spec = load_spec(job.op)
    generator = torch.Generator(device="cuda").manual_seed(0)
    tensors: dict[str, Any] = {}
    for operand in (*spec.operands(job.problem), *spec.workspace(job.problem, job.config)):
        tensor = tensors[operand.name] = operand.allocate("cuda")
        if operand.role in {"input", "state"}:
            drawn = torch.randn(operand.shape, generator=generator, device="cuda")
            tensor.copy_(drawn * operand.std + operand.mean)
    launches = spec.launches(job.problem, job.config, tensors)
    for _ in range(WARM_UPS + 1):
        for launch in launches:
            launch.run()
    torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
