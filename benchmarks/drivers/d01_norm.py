"""D1: the RMS norm of liger-kernel, forward and backward."""

import torch
from liger_kernel.ops.rms_norm import LigerRMSNormFunction

torch.manual_seed(0)
x = torch.randn(2, 2048, 4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
weight = torch.randn(4096, device="cuda", dtype=torch.bfloat16, requires_grad=True)
LigerRMSNormFunction.apply(x, weight, 1e-6, 0.0, "llama", True).sum().backward()
