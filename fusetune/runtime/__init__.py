"""Load a config and launch with it; nothing here ever tunes."""
