"""From a verdict to the user's own source: what is written where, as edits; every other byte stays.

It loads libcst, so whoever needs it imports it inside a function. It knows neither torch nor Triton nor a capture: what
a launch was is told as `Launched`.
"""
