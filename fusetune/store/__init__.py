"""What fusetune keeps on disk: tuned configs in YAML, runs as journals."""
