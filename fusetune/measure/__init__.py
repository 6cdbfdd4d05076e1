"""The GPU: a worker process that checks and times, clocks, and paired blocks."""
