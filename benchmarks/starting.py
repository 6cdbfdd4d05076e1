"""A program that multiplies two matrices by a kernel under @triton.autotune: what `start_up.py` starts.

`python benchmarks/starting.py [LISTED]`: with so many of the list's 96 configs, 12 unless said. It prints one line of
JSON once the first product is there, and another one with the microseconds that the host takes for a launch.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import triton
from autotuned import matmul

LISTED = int(sys.argv[1]) if len(sys.argv) > 1 else 12
LAUNCHES = 500


def main() -> None:
    kernel = triton.autotune(configs=matmul.CONFIGS[:: len(matmul.CONFIGS) // LISTED], key=["M", "N", "K"])(
        matmul.kernel.fn
    )
    torch.manual_seed(0)
    given = matmul.inputs()
    product = matmul.launch(kernel, **given)
    torch.cuda.synchronize()
    print(json.dumps({"ready": time.time()}), flush=True)
    assert torch.allclose(product, matmul.reference(**given), rtol=1e-2, atol=1e-1)
    small = {name: one[:64, :64].contiguous() for name, one in given.items()}
    matmul.launch(kernel, **small)  # another problem, which is tuned for itself
    torch.cuda.synchronize()
    before = time.perf_counter()
    for _ in range(LAUNCHES):
        matmul.launch(kernel, **small)
    print(json.dumps({"launch_us": 1e6 * (time.perf_counter() - before) / LAUNCHES}), flush=True)


main()
