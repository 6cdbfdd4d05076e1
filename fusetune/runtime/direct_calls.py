"""A launch of somebody's kernel with as little as there can be between the caller and the driver.

`kernel[grid](...)` binds, specializes and hashes all arguments at every call. A function made for one kernel, and for
one kind of each of its arguments, does what is left of that: it tells the launches apart that Triton's JIT would, and
calls the C function of the compiled kernel. Whatever it was not made for, it hands on to `again`.

Private parts of Triton 3.6 to 3.9 that this relies on, beside those of `ops/direct.py`: `JITFunction.run` takes each
launch, and looks at `pre_run_hooks`, at `used_global_vals`, and at the hooks and flags of `knobs` named below; a
callable grid is given the arguments by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from textwrap import indent
from typing import Any, Final

from fusetune.ops.arguments import constexprs_of, signature_of
from fusetune.ops.direct import Firing, firing_of
from fusetune.runtime.pure_grids import Shapes, asked

_OURS: Final = "_ft_"
"""What names of the function begin with, so that they are none of the kernel's parameters."""
MOST_KNOWN: Final = 4096
"""So many launches are known of one kernel, and so many grids of one of these; then all are made anew."""
POINTER, INT, FLOAT, BOOL, NONE, CONSTANT = "pointer", "int", "float", "bool", "none", "constant"
_PLAIN: Final = {int: INT, float: FLOAT, bool: BOOL, type(None): NONE}


class Bound:
    """A compiled kernel for launches of one key. `grids` are those it was chosen for; None where they do not count.

    `shapes` are grids that need not be asked for.
    """

    __slots__ = ("after", "compiled", "config", "constants", "grids", "launch", "shapes")

    def __init__(
        self, config: Any, constants: Mapping[str, Any], compiled: Any, firing: Firing, grids: set[Any] | None
    ) -> None:
        self.config, self.constants, self.compiled, self.grids = config, dict(constants), compiled, grids
        self.launch, self.after = firing.launch, firing.after
        self.shapes: Shapes = {}


class DirectCalls:
    """The function for one kind of each argument, `call(grid, *args, **kwargs)`, and what it knows: Bound by `key`."""

    def __init__(self, call: Callable[..., Any], key: Callable[..., Any], known: dict[Any, Bound]) -> None:
        self.call, self.key, self.known = call, key, known

    def remember(self, key: Any, bound: Bound) -> None:
        """Launch so from now on; another grid of the same config goes beside those that it is known for."""
        before = self.known.get(key)
        if before is not None and before.config is bound.config and before.grids and bound.grids:
            bound.grids |= before.grids if len(before.grids) < MOST_KNOWN else set()
        if len(self.known) >= MOST_KNOWN:
            self.known.clear()
        self.known[key] = bound


def kinds_of(kernel: Any, named: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What each given argument of a launch is, in order; None where one is nothing that can be launched directly."""
    import torch

    constants = constexprs_of(kernel)
    found = []
    for name, value in named.items():
        if name in constants:
            kind: str | None = CONSTANT
        elif isinstance(value, torch.Tensor):
            kind = POINTER if value.is_cuda else None
        else:
            kind = _PLAIN.get(type(value))
        if kind is None:
            return None
        found.append(kind)
    return tuple(found)


def bound_of(
    config: Any, constants: Mapping[str, Any], compiled: Any, grids: set[Any] | None
) -> tuple[Bound, Firing] | None:
    """A Bound of a compiled kernel, with what fires it; None where it cannot be launched directly."""
    firing = firing_of(compiled)
    return None if firing is None else (Bound(config, constants, compiled, firing, grids), firing)


def direct_calls(
    kernel: Any,
    kinds: Mapping[str, str],
    supplied: Collection[str],
    *,
    in_a_row: bool,
    again: Callable[..., Any],
    tuner: Any,
) -> DirectCalls | None:
    """Make the function for a JITFunction that has been launched, and the kind of each argument by name.

    `supplied` are the constants that a config gives, which the caller does not. `again(grid, *args, **kwargs)` launches
    in the JIT's own way. None where somebody has put a function of his own in the place of Triton's `run` or of the
    tuner's, and where a parameter has a name of ours or is of another kind.
    """
    import torch
    from triton import knobs
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    own = type(tuner)
    if JITFunction.run.__module__ != "triton.runtime.jit" or own.run.__module__ != own.__module__:
        return None
    parameters = signature_of(kernel).parameters
    if any(name.startswith(_OURS) or one.kind is not one.POSITIONAL_OR_KEYWORD for name, one in parameters.items()):
        return None
    runtime, active = knobs.runtime, driver.active
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    several = torch.cuda.device_count() > 1
    held = [(name, around) for (name, _), (_, around) in kernel.used_global_vals.items()]
    known: dict[Any, Bound] = {}
    scope: dict[str, Any] = {
        "known": known,
        "again": again,
        "tuner": tuner,
        "own": own,
        "own_run": own.run,
        "jit": JITFunction,
        "jit_run": JITFunction.run,
        "runtime": runtime,
        "enter": enter,
        "enter_calls": getattr(enter, "calls", ()),
        "leave": leave,
        "leave_calls": getattr(leave, "calls", ()),
        "debug": runtime.debug,
        "compilation": knobs.compilation,
        "mode": knobs.compilation.instrumentation_mode,
        "before": kernel.pre_run_hooks,
        "device": _device_of(active) if several else active.get_current_device(),
        "stream": active.get_current_stream,
        **{one.__name__: one for one in (id, len, tuple, int, float, bool)},  # a parameter may have such a name
        "asked": asked,
        "told": frozenset([name for name, kind in kinds.items() if kind not in {POINTER, FLOAT}] + list(supplied)),
        **{f"default_{name}": one.default for name, one in parameters.items()},
        **{f"around_{place}": around for place, (_, around) in enumerate(held)},
        **{f"held_{place}": around.get(name) for place, (name, around) in enumerate(held)},
    }
    scope = {f"{_OURS}{name}": value for name, value in scope.items()}
    globals_text = [f"_ft_around_{place}.get({name!r}) is not _ft_held_{place}" for place, (name, _) in enumerate(held)]
    text = _Text(parameters, kinds, supplied, several=several).text(in_a_row=in_a_row, also=globals_text)
    exec(compile(text, f"{__file__}: launch of {kernel.__name__}", "exec"), scope)
    return DirectCalls(scope["_ft_call"], scope["_ft_key"], known)


def _device_of(active: Any) -> Callable[[], int]:
    """What tells the current device; PyTorch's own C function where Triton would ask PyTorch."""
    import torch

    ask: Callable[[], int] = active.get_current_device
    return torch._C._cuda_getDevice if ask is torch.cuda.current_device else ask


class _Text:
    """The source of the function for one kernel and the kinds of its arguments."""

    def __init__(
        self, parameters: Mapping[str, Any], kinds: Mapping[str, str], supplied: Collection[str], *, several: bool
    ) -> None:
        self._parameters, self._kinds, self._supplied, self._several = parameters, kinds, supplied, several
        self._given = [name for name in parameters if name not in supplied]
        self._pointers = {name: f"_ft_p{place}" for place, name in enumerate(self._of(POINTER))}

    def text(self, *, in_a_row: bool, also: Sequence[str]) -> str:
        """Two functions over the names that `direct_calls` puts into their scope: the key of a launch, and the launch.

        `also` are further reasons to launch in the JIT's own way.
        """
        head = ", ".join(["_ft_grid", "/", *self._signature(), "**_ft_more"])
        passed = ", ".join(["_ft_grid", *self._passed(), "**_ft_more"])
        meta = ", ".join(f"{name!r}: {name}" for name in self._given)
        arguments = ", ".join(self._argument(name) for name in self._parameters)
        return f"""\
def _ft_key({head}):
{indent(self._key(), "    ")}
    return _ft_at if _ft_usual and not ({" or ".join(_COMPILED_OTHERWISE)}) else None

def _ft_call({head}):
    try:
{indent(self._key(), "        ")}
        _ft_found = _ft_known.get(_ft_at) if _ft_usual else None
    except (AttributeError, TypeError):
        _ft_found = None
    if {" or ".join([*_UNUSUAL, *_COMPILED_OTHERWISE, *also])}:
        return _ft_again({passed})
    if _ft_grid.__class__ is _ft_tuple:
        _ft_shape = _ft_grid
    else:
        try:
            _ft_shape = _ft_found.shapes.get(
                (_ft_id(_ft_grid.__code__), *[one.cell_contents for one in _ft_grid.__closure__ or ()])
            )
        except (AttributeError, TypeError, ValueError):
            _ft_shape = None
        if _ft_shape is None:
            _ft_shape = _ft_asked(_ft_grid, {{{meta}, **_ft_found.constants}}, _ft_told, _ft_found.shapes)
    if _ft_shape.__class__ is not _ft_tuple or (_ft_found.grids is not None and _ft_shape not in _ft_found.grids):
        return _ft_again({passed})
    _ft_axes = _ft_len(_ft_shape)
    _ft_found.launch(
        _ft_shape[0],
        _ft_shape[1] if _ft_axes > 1 else 1,
        _ft_shape[2] if _ft_axes > 2 else 1,
        _ft_stream({"_ft_here" if self._several else "_ft_device"}),
        *_ft_found.after,
        {"" if in_a_row else "("}{arguments},{"" if in_a_row else ")"}
    )
    _ft_tuner.best_config = _ft_found.config
    return _ft_found.compiled
"""

    def _of(self, kind: str) -> list[str]:
        return [name for name, one in self._kinds.items() if one == kind]

    def _signature(self) -> list[str]:
        """The parameters that a caller gives; those behind the first that a config gives by name alone."""
        found = [self._parameter(name) for name in self._given]
        places = [place for place, name in enumerate(self._parameters) if name in self._supplied]
        if places and places[0] < len(found):
            found.insert(places[0], "*")
        return found

    def _parameter(self, name: str) -> str:
        one = self._parameters[name]
        return name if one.default is one.empty else f"{name}=_ft_default_{name}"

    def _passed(self) -> list[str]:
        by_place = next((place for place, name in enumerate(self._parameters) if name in self._supplied), None)
        return [
            name if by_place is None or place < by_place else f"{name}={name}" for place, name in enumerate(self._given)
        ]

    def _argument(self, name: str) -> str:
        """What the C function gets for a parameter; what stands in a constant's place is not read."""
        if name in self._pointers:
            return self._pointers[name]
        return name if self._kinds.get(name) in {INT, FLOAT, BOOL} else "None"

    def _key(self) -> str:
        """What Triton's JIT compiles by, and each number, since a choice of config goes by it. Classes are checked."""
        lines = [f"{pointer} = {name}.data_ptr()" for name, pointer in self._pointers.items()]
        parts = []
        if self._pointers:
            each = ", ".join(f"{pointer} & 15" for pointer in self._pointers.values())
            lines.append(f"_ft_off = ({' | '.join(self._pointers.values())}) & 15")
            lines.append(f"if _ft_off: _ft_off = ({each},)")
            parts.append("_ft_off")
        if self._several:
            lines.append("_ft_here = _ft_device()")
            parts.append("_ft_here")
        parts += [f"{name}.dtype" for name in self._pointers]
        parts += [*self._of(INT), *self._of(BOOL)]
        parts += [part for name in self._of(CONSTANT) for part in (name, f"{name}.__class__")]
        usual = ["not _ft_more", *(f"{name}.is_cuda" for name in self._pointers)]
        for kind, told in ((INT, "_ft_int"), (FLOAT, "_ft_float"), (BOOL, "_ft_bool")):
            if names := self._of(kind):
                usual.append(" is ".join([*(f"{name}.__class__" for name in names), told]))
        usual += [f"{name} is None" for name in self._of(NONE)]
        lines.append(f"_ft_at = ({''.join(f'{part}, ' for part in parts)})")
        lines.append(f"_ft_usual = {' and '.join(usual)}")
        return "\n".join(lines)


_UNUSUAL: Final = (
    "_ft_found is None",
    "_ft_runtime.launch_enter_hook is not _ft_enter",
    "_ft_runtime.launch_exit_hook is not _ft_leave",
    "_ft_enter_calls",
    "_ft_leave_calls",
    "_ft_before",
    "_ft_jit.run is not _ft_jit_run",
    "_ft_own.run is not _ft_own_run",
)
"""Why a launch is Triton's own affair: somebody listens."""
_COMPILED_OTHERWISE: Final = (
    "_ft_runtime.debug is not _ft_debug",
    "_ft_runtime.add_stages_inspection_hook is not None",
    "_ft_compilation.instrumentation_mode != _ft_mode",
)
"""And why what it launches is nothing to be remembered: somebody asks for other machine code than at the first."""
