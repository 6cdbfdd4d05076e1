"""D12: the causal convolution of fla, whose backward launches forward's kernel again."""

import torch
from fla.modules.causal_conv1d import causal_conv1d

torch.manual_seed(0)
x = torch.randn(2, 2048, 2048, device="cuda", dtype=torch.bfloat16, requires_grad=True)
weight = torch.randn(2048, 4, device="cuda", dtype=torch.bfloat16, requires_grad=True)
y = causal_conv1d(x, weight, activation="silu")
(y[0] if isinstance(y, tuple) else y).sum().backward()
