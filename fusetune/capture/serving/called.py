"""Call a function as a program: `python -m fusetune.capture.serving.called package.module:function [EXPRESSION]`."""

from __future__ import annotations

import sys

from fusetune.capture.child import print_failure
from fusetune.capture.programs import parse_program, run_program
from fusetune.errors import EXIT_PROGRAM, FusetuneError


def main() -> int:
    """Call it with the arguments; exit code 6 where it fails, and that of the error where there is no such function."""
    place, *expression = sys.argv[1:]
    try:
        run_program(parse_program([place], args=expression[0] if expression else None))
    except FusetuneError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - it is told, and the program's own
        print_failure(error)
        return EXIT_PROGRAM
    return 0


if __name__ == "__main__":
    sys.exit(main())
