"""D5: the softmax of fla, under an Autotuner of its own."""

import torch
from fla.ops.utils.softmax import softmax_fwd

torch.manual_seed(0)
softmax_fwd(torch.randn(4096, 4096, device="cuda"))
