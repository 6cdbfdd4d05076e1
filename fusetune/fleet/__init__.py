"""Many cases on many GPUs of this machine, or of a Dask cluster: one core decides who has what, two executors do it."""
