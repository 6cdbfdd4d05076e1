"""A program that fails by itself after its first launch."""

import torch

from tests.support.programs.partial_sums import total

total(torch.ones(1000, device="cuda"))
raise ValueError("the program's own mistake")
