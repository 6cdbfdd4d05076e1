"""D9: a permutation by counting and a grouped product, of moe-ops."""

import torch
from moe_ops.grouped_gemm_ops import gmm_try_fn
from moe_ops.permute_ops import permute_countsort

torch.manual_seed(0)
x = torch.randn(4096, 1024, device="cuda", dtype=torch.bfloat16)
experts = torch.randint(0, 8, (4096, 2), device="cuda", dtype=torch.int32)
permute_countsort(x, experts, 0, 8)
a = torch.randn(8192, 1024, device="cuda", dtype=torch.bfloat16)
b = torch.randn(8, 2048, 1024, device="cuda", dtype=torch.bfloat16)
gmm_try_fn(a, b, torch.arange(9, device="cuda", dtype=torch.int64) * 1024)
