"""Python imports this at its start where `fusetune run` is above: launches are served once triton is imported.

Before that nothing but this file is loaded. It leaves sys.path as it is without it, and runs the `sitecustomize` that
it stands in front of.
"""

from __future__ import annotations

import atexit
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

TYPE_CHECKING = False  # typing's own takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib takes longer than all of this


class _UntilTriton:
    """Hears of the first import of triton."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != "triton":
            return None
        sys.meta_path.remove(_UntilTriton)
        process = _process()
        return process.begin_at_import(name) if process is not None else None


def _process() -> Any:
    """What serves this process; None where this Python has no fusetune, or one that does not go with these settings."""
    import json

    try:
        package = json.loads(os.environ["FUSETUNE_RUN"])["package"]
        try:
            from fusetune.capture.serving import process
        except ModuleNotFoundError as error:
            if error.name != "fusetune":
                raise
            sys.path.append(package)
            from fusetune.capture.serving import process
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the program is not to end by it
        import logging

        why = f"{type(error).__name__}: {error}"
        logging.getLogger("fusetune.run").warning("fusetune: this process launches as it would without: %s", why)
        return None
    return process


def _at_end() -> None:
    if "triton" in sys.modules or getattr(sys, "last_value", None) is not None:
        process = _process()
        if process is not None:
            process.end()


def _run_the_next() -> None:
    """Run the `sitecustomize` that this one stands in front of, as Python would."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.path[:] = [one for one in sys.path if not one or os.path.abspath(one) != _HERE]  # noqa: PTH100
if os.environ.get("FUSETUNE_RUN"):
    sys.meta_path.insert(0, _UntilTriton)
    atexit.register(_at_end)
_run_the_next()
