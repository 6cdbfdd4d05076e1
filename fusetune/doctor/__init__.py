"""`fusetune doctor`: whether a machine is fit to tune on, and how the installed ops do on its GPU."""
