"""Kernels and helpers that only tests use."""
