"""D4: the gated activation of conch."""

import torch
from conch.ops.activation.silu_and_mul import silu_and_mul

torch.manual_seed(0)
silu_and_mul(torch.randn(4096, 22016, device="cuda", dtype=torch.float16))
