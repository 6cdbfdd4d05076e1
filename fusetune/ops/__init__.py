"""The ops that can be tuned, each behind a KernelSpec."""
