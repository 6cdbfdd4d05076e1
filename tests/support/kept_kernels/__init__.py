"""Kernels of a program, in modules that nobody installed."""
