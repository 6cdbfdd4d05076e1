"""D10: the blockwise quantisation of bitsandbytes, whose BLOCK_SIZE is the format."""

import torch
from bitsandbytes.backends.triton.kernels_8bit_quant import quantize_blockwise_triton

torch.manual_seed(0)
code = torch.linspace(-1, 1, 256, device="cuda")
quantize_blockwise_triton(torch.randn(1 << 24, device="cuda"), code, 4096)
