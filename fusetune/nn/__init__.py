"""What PyTorch users import of our op: the fused functions, modules, operators and their gradients."""
