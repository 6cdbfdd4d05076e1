"""From a program that launches Triton kernels to its launches, recorded in a process of its own."""
