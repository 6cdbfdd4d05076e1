"""From a verdict to source."""
