"""A Config whose constants alone reach a launch: what else it asks for is left behind, and Triton's defaults run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from fusetune.capture.call_sites import call_site
from fusetune.capture.expressions import NotPureError
from fusetune.core.config import OPTIONS


def left_behind(
    frame: FrameType, kernel: Any, constants: Mapping[str, Any], options: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[str, ...]:
    """A sentence for each `**config.kwargs` of the launch that a frame is in the middle of, where that is so.

    `options` are those that the launch was given, `before` those that its compiled kernel has.
    """
    site = call_site(frame, kernel, constants)
    if site is None:
        return ()
    found = []
    for source in dict.fromkeys(_configs(site.arguments.values())):
        try:
            config = site.value(ast.parse(source, mode="eval").body)
        except NotPureError:
            continue
        asked = {name: getattr(config, name, None) for name in OPTIONS if name not in options and name in before}
        lost = {name: value for name, value in asked.items() if type(value) is int and value != before[name]}
        if lost:
            wanted = ", ".join(f"{name}={value}" for name, value in lost.items())
            runs = ", ".join(f"{name}={before[name]}" for name in lost)
            found.append(f"{source} asks for {wanted}, and only its kwargs are passed on: {runs} runs")
    return tuple(found)


def _configs(arguments: Any) -> Iterator[str]:
    """The sources of those whose `kwargs` are spread over a launch."""
    for node in arguments:
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "kwargs":
            yield ast.unparse(node.value.value)
