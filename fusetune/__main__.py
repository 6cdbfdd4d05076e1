"""`python -m fusetune` is the `fusetune` command."""

from fusetune.cli.main import main

main()
