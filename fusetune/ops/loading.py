"""From the name of an op, or the place of its spec, to the KernelSpec: built in, a plug-in's, or a user's own."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from fusetune.core.near import did_you_mean
from fusetune.errors import FusetuneError, UsageError
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.checking import refuse_unfit
from fusetune.ops.importing import make_importable
from fusetune.ops.spec import KernelSpec
from fusetune.ops.types import register

ENTRY_POINT_GROUP = "fusetune.ops"
_NO_ROOM = "failed to map segment"
"""The dynamic linker's words where there is too little memory for a library."""

_given: dict[str, KernelSpec] = {}
"""By their own names: what `load_spec` has loaded of what a user gave as `module:attribute` in this process."""


def load_spec(op: str) -> KernelSpec:
    """The KernelSpec of an op that a user asks for: one with a name, as `spec_named` finds it, or of a module or file.

    These are written `module:attribute` and `folder/file.py:attribute`; modules of the current folder are found, too.
    It imports what it is told to, so that it is for a command line or a caller, never for what stands in a file: those
    name ops, and `spec_named` knows them. Raises UsageError where there is no such op, or what is there is no
    KernelSpec.
    """
    if ":" not in op:
        return spec_named(op)
    spec = _imported(op, make_importable(op))
    _given[spec.name] = spec
    return spec


def spec_named(op: str) -> KernelSpec:
    """The KernelSpec of an op by its name alone: built in, loaded by `load_spec` before, or of an installed plug-in.

    Whatever the name is, it chooses among these: data that names a module imports none. Raises UsageError where there
    is no such op, or what the plug-in's entry point in the group `fusetune.ops` leads to is no KernelSpec.
    """
    built_in = built_in_ops()
    if op in built_in:
        return _imported(op, built_in[op])
    if op in _given:
        return _given[op]
    plugins = _plugins()
    if op not in plugins:
        known = ", ".join(sorted({**plugins, **built_in}))
        near = did_you_mean(op, {**plugins, **built_in})
        raise UsageError(
            f"op {op[:100]!r} is not known; use one of: {known}, or module:attribute of your own KernelSpec{near}"
        )
    return _imported(op, plugins[op])


def known_ops() -> tuple[str, ...]:
    """The names that `spec_named` knows."""
    return tuple(dict.fromkeys((*built_in_ops(), *_given, *_plugins())))


def _plugins() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def _imported(op: str, reference: str) -> KernelSpec:
    module_name, _, attribute = reference.partition(":")
    if not module_name or module_name.startswith("."):
        raise UsageError(f"op {op!r}: write it as module:attribute, with the module's full name")
    try:
        spec = getattr(import_module(module_name), attribute)
    except (FusetuneError, MemoryError):
        raise
    except Exception as error:  # Whatever a module of the user's does when it is loaded.
        if (isinstance(error, OSError) and error.errno is not None) or _NO_ROOM in str(error):
            raise  # The machine's trouble, and nothing of the op's.
        named = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise UsageError(f"op {op!r}: cannot load {reference}: {named}{error}") from error
    if isinstance(spec, type):
        raise UsageError(f"op {op!r}: {reference} is a class; name an instance of it, as in SPEC = {attribute}()")
    if not isinstance(spec, KernelSpec):
        raise UsageError(f"op {op!r}: {reference} is not a KernelSpec; derive its class from fusetune.KernelSpec")
    refuse_unfit(spec, f"op {op!r}: {reference}", reference)
    register(spec.name, spec.types)
    return spec
