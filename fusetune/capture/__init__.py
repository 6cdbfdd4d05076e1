"""A program -> cases: what it launches, what of it may vary, and why the rest may not."""
