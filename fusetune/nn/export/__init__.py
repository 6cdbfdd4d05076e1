"""Standalone modules, made from the kernels' own source."""
