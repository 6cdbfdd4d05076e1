"""D8: the attention of fla, both ways."""

import torch
from fla.ops.attn.parallel import parallel_attn

torch.manual_seed(0)


def made(heads):
    return torch.randn(1, 2048, heads, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)


q, k, v = made(16), made(4), made(4)
parallel_attn(q, k, v).sum().backward()
