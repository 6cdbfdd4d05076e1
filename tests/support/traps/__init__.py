"""The fifteen traps that a tuner of other people's kernels meets, each as a small program of our own.

Each ends with a check of its own result, which a stand-in for a GPU takes as passed.
"""
