"""D6: the split-K product of torchao, whose hook zeroes what the parts are added to."""

import torch
from torchao.prototype.common.triton.matmul import matmul

torch.manual_seed(0)
a = torch.randn(64, 8192, device="cuda", dtype=torch.float16)
b = torch.randn(8192, 512, device="cuda", dtype=torch.float16)
matmul(a, b)
