"""From the name of an op, or the place of its spec, to the KernelSpec: built in, a plug-in's, or a user's own."""

from __future__ import annotations

import contextlib
import inspect
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from fusetune.core.brief import brief
from fusetune.core.near import did_you_mean
from fusetune.errors import FusetuneError, UsageError
from fusetune.ops.approved import Approved, Place, approve, approved, approved_ops, digest_of, noted_place
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.checking import refuse_unfit
from fusetune.ops.hashing import innermost, kernels_named_by
from fusetune.ops.importing import absolute_place, make_importable
from fusetune.ops.spec import KernelSpec
from fusetune.ops.types import NAMED, OpTypes, find_by, register

ENTRY_POINT_GROUP = "fusetune.ops"
_NO_ROOM = "failed to map segment"
"""The dynamic linker's words where there is too little memory for a library."""

_given: dict[str, KernelSpec] = {}
"""By their own names: what `load_spec` has loaded of what a user gave as `module:attribute` in this process."""
_places: dict[str, Place] = {}
"""Where these are."""


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
    _places[spec.name] = absolute_place(op)
    return spec


def place_of(op: str) -> Place | None:
    """Where a user's own op is, as a file of configs remembers it; None for one that has a name everywhere."""
    return _places.get(op)


def remember(spec: KernelSpec) -> str | None:
    """Have later commands of this user find an op again that `load_spec` has loaded by its place.

    Returns why it could not be written down, in half a line, or None.
    """
    place = _places.get(spec.name)
    if place is None:
        return None
    own, base = type(spec), KernelSpec
    own_types = spec.types is not NAMED
    plain = not own_types and own.unlaunchable is base.unlaunchable
    kernels = kernels_named_by(own.launches) if own.source_hash is base.source_hash else ()
    files = {inspect.getsourcefile(innermost(kernel)) for kernel in (*kernels, own)} if kernels else set()
    digests = {str(Path(file).resolve()): digest_of(file) for file in files if file is not None}
    sources = {path: digest for path, digest in digests.items() if digest is not None}
    known = spec.source_hash() if kernels and len(sources) == len(files) else None
    folder = None if place.rpartition(":")[0].endswith(".py") else _folder_of(place)
    return approve(place, Approved(spec.name, folder, own_types, plain, known, sources))


def spec_named(op: str) -> KernelSpec:
    """The KernelSpec of an op by its name alone.

    Built in, loaded by `load_spec` before, of a place that this user has named to a command (`remember`), or of an
    installed plug-in. Whatever the name is, it chooses among these: data that names a module imports none. Raises
    UsageError where there is no such op, or what is in its place is no KernelSpec.
    """
    built_in = built_in_ops()
    if op in built_in:
        return _imported(op, built_in[op])
    if op in _given:
        return _given[op]
    found = approved(op)
    if found is not None:
        place, known = found
        if known.folder is not None and known.folder not in sys.path:
            sys.path.append(known.folder)
        spec = load_spec(place)
        if spec.name == op:
            return spec
        raise UsageError(
            f"op {op[:100]!r}: {place} is the op {spec.name} by now; give its place, as in --op FILE.py:SPEC"
        )
    plugins = _plugins()
    if op in plugins:
        return _imported(op, plugins[op])
    named = noted_place(op)
    if named is not None:
        raise UsageError(
            f"op {op[:100]!r} is of {brief(named)}, which is imported only where you name it yourself: "
            f"once, as in `fusetune inspect --op {brief(named)}`, or here, with --op"
        )
    known_names = {**plugins, **built_in}
    near = did_you_mean(op, known_names)
    raise UsageError(
        f"op {op[:100]!r} is not known; use one of: {', '.join(sorted(known_names))}, or module:attribute of your own "
        f"KernelSpec{near}"
    )


def known_ops() -> tuple[str, ...]:
    """The names that `spec_named` knows."""
    own = (op.name for op in approved_ops().values())
    return tuple(dict.fromkeys((*built_in_ops(), *_given, *own, *_plugins())))


def installed_ops() -> tuple[str, ...]:
    """The names of the ops that are installed for everybody here: built in, and of plug-ins."""
    return tuple(dict.fromkeys((*built_in_ops(), *_plugins())))


def _folder_of(place: Place) -> str | None:
    """The folder in which Python finds the module of a place, where that is one of files."""
    name = place.partition(":")[0]
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return None
    above = Path(file).resolve().parents
    return str(above[name.count(".") + (Path(file).name == "__init__.py")])


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


def _own_types(op: str) -> OpTypes | None:
    found = approved(op)
    if found is None or not found[1].own_types:
        return None
    with contextlib.suppress(UsageError):  # who needs the op itself is told
        return spec_named(op).types
    return None


find_by(_own_types)
