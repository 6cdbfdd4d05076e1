"""Programs of our own that launch Triton kernels as other people's do: what `fusetune capture` is tried on."""
