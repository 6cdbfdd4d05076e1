"""Triton source to machine code and Resources for any Target, without a GPU."""
