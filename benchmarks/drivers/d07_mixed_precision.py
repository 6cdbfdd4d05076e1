"""D7: the product of float16 and packed 4-bit weights of conch, in groups of 128."""

import torch
from conch.ops.quantization.gemm import mixed_precision_gemm

torch.manual_seed(0)
x = torch.randn(64, 4096, device="cuda", dtype=torch.float16)
packed = torch.randint(-(2**31), 2**31 - 1, (512, 4096), device="cuda", dtype=torch.int32)
scales = torch.rand(32, 4096, device="cuda", dtype=torch.float16) * 0.01
mixed_precision_gemm(x, packed, scales, None, 4, 8, 128)
