"""D11: the cumulative sums of fla: BT is a format in the local ones, and a tile in the global ones."""

import torch
from fla.ops.utils.cumsum import chunk_global_cumsum, chunk_local_cumsum

torch.manual_seed(0)
for g in (torch.randn(2, 2048, 8, device="cuda"), torch.randn(2, 2048, 8, 64, device="cuda")):
    chunk_local_cumsum(g, 64)
    chunk_global_cumsum(g)
