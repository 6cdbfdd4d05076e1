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
from typing import Any, Final, NamedTuple

from fusetune.ops.arguments import constexprs_of, signature_of
from fusetune.ops.direct import Firing, firing_of
from fusetune.runtime.pure_grids import Shapes, asked

_OURS: Final = "_ft_"
"""What names of the function begin with, so that they are none of the kernel's parameters."""
MOST_KNOWN: Final = 4096
"""So many launches are known of one kernel, and so many grids of one of these; then all are made anew."""
NO_FIRING: Final = Firing(lambda *_: None, (), in_a_row=False)
"""Of what Triton's own `run` has to launch."""
MOST_KINDS: Final = 8
"""So many combinations of kinds of arguments are launched directly; further ones go the JIT's way."""
POINTER, INT, FLOAT, BOOL, NONE, CONSTANT = "pointer", "int", "float", "bool", "none", "constant"
OTHER: Final = "other"
PLAIN: Final = {int: INT, float: FLOAT, bool: BOOL, type(None): NONE}


class Bound:
    """A compiled kernel for launches of one key. `grids` are those it was chosen for; None where they do not count.

    `shapes` are grids that need not be asked for. A launch gives back `result`, and `tally` is what counts it. Where
    `still()` is false, it is chosen anew. `moved(grid, shape, held)` is the Bound that it is launched by instead,
    with the grid `shape` that this one has; None where that is not known. `given` is what a config gives a launch, and
    `hook` its own pre_hook, which heuristics and the hook hear of.
    """

    __slots__ = (
        *("after", "config", "constants", "given", "grids", "hook", "launch"),
        *("moved", "result", "shape", "shapes", "still", "tally"),
    )

    def __init__(
        self, config: Any, constants: Mapping[str, Any], compiled: Any, firing: Firing, grids: set[Any] | None
    ) -> None:
        self.config, self.constants, self.result, self.grids = config, dict(constants), compiled, grids
        self.launch, self.after = firing.launch, firing.after
        self.shapes: Shapes = {}
        self.given = config.all_kwargs() if config is not None else {}
        self.hook = config.pre_hook if config is not None else None
        self.tally: Any = None
        self.still: Callable[[], bool] | None = None
        self.moved: Callable[[Any, Any, tuple[Any, ...]], Bound | None] | None = None
        self.shape: tuple[int, ...] | None = None


class Around(NamedTuple):
    """What there is about direct launches, beside the kernel.

    `watched` are classes, each with the function that has to be its `run`: another one is somebody's who listens.
    `tuner` is told the config that it launches with. `note` is told the `tally` of each launch. `exact` are the whole
    numbers that tell launches apart, of which others count as Triton specializes them; None: all. With `numbers` the
    others count by power-of-two buckets, too, but for those among them, which count alone. `heuristics` compute
    constants anew at each launch, which another one than before makes one of another kind. `by_values`: shapes and
    floats tell launches apart, too. `moves`: a Bound may be `moved`. Where Triton's C function cannot be called, as for
    a descriptor, `run(kernel, grid, warmup, **named)` launches what is bound, if it is given, and `kind((value,), {})`
    is what tells such values apart, or None.
    """

    watched: tuple[tuple[type, Any], ...]
    tuner: Any = None
    note: Callable[[Any], None] | None = None
    exact: frozenset[str] | None = None
    numbers: frozenset[int] | None = None
    heuristics: Mapping[str, Callable[[dict[str, Any]], Any]] = {}
    by_values: bool = False
    moves: bool = False
    run: Callable[..., Any] | None = None
    kind: Callable[[tuple[Any, ...], Mapping[str, Any]], Any] | None = None


class Listener(NamedTuple):
    """Who counts launches that are made directly, since he stands in the place of Triton's `run` himself.

    `run` is his. `last` tells what counted the last launch of this thread that came by there, and forgets it.
    """

    run: Any
    last: Callable[[], Any]
    note: Callable[[Any], None]


class DirectCalls:
    """The function for one kind of each argument, `call(grid, *args, **kwargs)`, and what it knows: Bound by `key`."""

    def __init__(self, call: Callable[..., Any], key: Callable[..., Any], known: dict[Any, Bound]) -> None:
        self.call, self.key, self.known = call, key, known

    def remember(self, key: Any, bound: Bound) -> None:
        """Launch so from now on; another grid of the same config goes beside those that it is known for."""
        before = self.known.get(key)
        alike = before is not None and before.config is bound.config and before.tally is bound.tally
        if before is not None and alike and before.grids and bound.grids:
            bound.grids |= before.grids if len(before.grids) < MOST_KNOWN else set()
        if len(self.known) >= MOST_KNOWN:
            self.known.clear()
        self.known[key] = bound


def kinds_of(kernel: Any, named: Mapping[str, Any]) -> tuple[str, ...]:
    """What each given argument of a launch is, in order: OTHER of one with which nothing can be launched directly."""
    import torch

    constants = constexprs_of(kernel)

    def kind(name: str, value: Any) -> str:
        if name in constants:
            return CONSTANT
        if isinstance(value, torch.Tensor):
            return POINTER if value.is_cuda else OTHER
        return PLAIN.get(type(value), OTHER)

    return tuple(kind(name, value) for name, value in named.items())


def bound_of(
    config: Any, constants: Mapping[str, Any], compiled: Any, grids: set[Any] | None, *, direct: bool = True
) -> tuple[Bound, Firing] | None:
    """A Bound of a compiled kernel, with what fires it; None where it cannot be launched directly.

    Not `direct`, it may be one that fires nothing.
    """
    firing = firing_of(compiled)
    if firing is None and not direct:
        firing = NO_FIRING
    return None if firing is None else (Bound(config, constants, compiled, firing, grids), firing)


class DirectLaunches:
    """Direct launches of one JITFunction: `call(grid, *args, **kwargs)`, and what it learns from launches by the JIT.

    There is a function for each combination of kinds of arguments; the newest one is called, and what it was not made
    for, it hands on to the one before it, and the first to `again`. What is `held` lives as long.
    """

    def __init__(self, kernel: Any, again: Callable[..., Any], around: Around, held: Any = None) -> None:
        self.kernel, self.call, self._again, self.around, self._held = kernel, again, again, around, held
        self.made: dict[Any, DirectCalls] = {}
        self._parameters = signature_of(kernel).parameters
        self._defaults = {name: one.default for name, one in self._parameters.items() if one.default is not one.empty}

    def learn(self, grid: Any, args: Sequence[Any], named: Mapping[str, Any], made: tuple[Bound, Firing]) -> bool:
        """Have the next launch like this one go past the JIT, as `bound_of` has made it; False where it cannot.

        `named` are arguments and options by name. For one thread at a time.
        """
        bound, firing = made
        supplied = tuple(bound.constants)
        values = {**self._defaults, **dict(zip(self._parameters, args, strict=False)), **named}
        given = {name: values[name] for name in self._parameters if name in values and name not in bound.constants}
        options = tuple(name for name in named if name not in self._parameters)
        kinds = kinds_of(self.kernel, given)
        indirect = firing is NO_FIRING or OTHER in kinds
        if indirect and self.around.run is None:
            return False
        kind = (kinds, supplied, options, indirect)
        direct = self.made.get(kind)
        if direct is None and len(self.made) < MOST_KINDS:
            direct = direct_calls(
                self.kernel,
                dict(zip(given, kinds, strict=True)),
                supplied,
                options=options,
                in_a_row=None if indirect else firing.in_a_row,
                again=self.call,
                around=self.around,
            )
            if direct is not None:
                self.made[kind] = direct
                self.call = direct.call
        key = direct.key(grid, *args, **named) if direct is not None else None
        if direct is None or key is None:
            return False
        direct.remember(key, bound)
        return True

    def known(self, grid: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Bound | None:
        """What such a launch was learned to be."""
        for direct in self.made.values():
            try:
                found = direct.known.get(direct.key(grid, *args, **named))
            except (AttributeError, KeyError, TypeError):  # as where it is called
                continue
            if found is not None:
                return found
        return None

    def forget(self) -> None:
        """All is to be launched by the JIT again, also by whoever holds a function."""
        for direct in self.made.values():
            direct.known.clear()
        self.made = {}
        self.call = self._again


def direct_calls(
    kernel: Any,
    kinds: Mapping[str, str],
    supplied: Collection[str],
    *,
    options: Collection[str] = (),
    in_a_row: bool | None,
    again: Callable[..., Any],
    around: Around,
) -> DirectCalls | None:
    """Make the function for a JITFunction that has been launched, and the kind of each argument by name.

    `supplied` are the constants that a config gives, which the caller does not; `options` what he gives beside the
    arguments. `again(grid, *args, **kwargs)` launches in the JIT's own way. `in_a_row` is None where Triton's `run` is
    to be called, and not its C function. None where a parameter has a name of ours or is of another kind.
    """
    import torch
    from triton import knobs
    from triton.runtime.driver import driver

    parameters = signature_of(kernel).parameters
    if any(name.startswith(_OURS) or one.kind is not one.POSITIONAL_OR_KEYWORD for name, one in parameters.items()):
        return None
    runtime, active = knobs.runtime, driver.active
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    several = torch.cuda.device_count() > 1
    held = [(name, globals_) for (name, _), (_, globals_) in kernel.used_global_vals.items()]
    exact = {name for name in kinds if around.exact is None or name in around.exact}
    fixed = [name for name, kind in kinds.items() if kind not in {POINTER, FLOAT} and (kind != INT or name in exact)]
    known: dict[Any, Bound] = {}
    scope: dict[str, Any] = {
        "known": known,
        "again": again,
        "tuner": around.tuner,
        "note": around.note,
        "numbers": around.numbers,
        "run": around.run,
        "kind": around.kind,
        "kernel": kernel,
        "nothing": {},
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
        **{one.__name__: one for one in (id, len, dict, tuple, int, float, bool)},  # a parameter may have such a name
        "asked": asked,
        "told": frozenset([*fixed, *supplied]),
        **{f"heuristic_{place}": compute for place, compute in enumerate(around.heuristics.values())},
        **{f"default_{name}": one.default for name, one in parameters.items()},
        **{f"around_{place}": globals_ for place, (_, globals_) in enumerate(held)},
        **{f"held_{place}": globals_.get(name) for place, (name, globals_) in enumerate(held)},
        **{f"class_{place}": owner for place, (owner, _) in enumerate(around.watched)},
        **{f"run_{place}": run for place, (_, run) in enumerate(around.watched)},
    }
    scope = {f"{_OURS}{name}": value for name, value in scope.items()}
    also = [f"_ft_class_{place}.run is not _ft_run_{place}" for place in range(len(around.watched))]
    also += [f"_ft_around_{place}.get({name!r}) is not _ft_held_{place}" for place, (name, _) in enumerate(held)]
    text = _Text(parameters, kinds, supplied, options, exact, around, several=several).text(also, in_a_row=in_a_row)
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
        self,
        parameters: Mapping[str, Any],
        kinds: Mapping[str, str],
        supplied: Collection[str],
        options: Collection[str],
        exact: Collection[str],
        around: Around,
        *,
        several: bool,
    ) -> None:
        self._parameters, self._kinds, self._supplied, self._several = parameters, kinds, supplied, several
        self._options, self._exact, self._around = options, exact, around
        self._given = [name for name in parameters if name not in supplied]
        self._pointers = {name: f"_ft_p{place}" for place, name in enumerate(self._of(POINTER))}

    def text(self, also: Sequence[str], *, in_a_row: bool | None) -> str:
        """Two functions over the names that `direct_calls` puts into their scope: the key of a launch, and the launch.

        `also` are further reasons to launch in the JIT's own way.
        """
        head = ", ".join(["_ft_grid", "/", *self._signature(), "**_ft_more"])
        around = self._around
        again = f"return _ft_again({', '.join(['_ft_grid', *self._passed(), '**_ft_more'])})"
        meta = ", ".join(f"{name!r}: {name}" for name in self._given)
        arguments = ", ".join(self._argument(name) for name in self._parameters)
        held = [name for name, kind in self._kinds.items() if kind in {POINTER, OTHER}]
        moved = f"""
    if _ft_found.moved is not None:
        _ft_found = _ft_found.moved(_ft_grid, _ft_shape, ({"".join(f"{name}, " for name in held)}))
        if _ft_found is None:
            {again}
        _ft_shape = _ft_found.shape"""
        asked = f'_ft_meta = {{{meta}, "grid": _ft_grid, "warmup": False, **_ft_found.given}}'
        computed = "".join(
            f"""
    _ft_meta[{name!r}] = _ft_one = _ft_heuristic_{place}(_ft_dict(_ft_meta))
    _ft_own = _ft_found.constants[{name!r}]
    if _ft_one.__class__ is not _ft_own.__class__ or _ft_one != _ft_own:
        {again}"""
            for place, name in enumerate(around.heuristics)
        )
        hooked = f"""
    if _ft_found.hook is not None:
        {asked}
        _ft_found.hook(_ft_meta)"""
        launch = f"""\
    _ft_axes = _ft_len(_ft_shape)
    _ft_found.launch(
        _ft_shape[0],
        _ft_shape[1] if _ft_axes > 1 else 1,
        _ft_shape[2] if _ft_axes > 2 else 1,
        _ft_stream({"_ft_here" if self._several else "_ft_device"}),
        *_ft_found.after,
        {"" if in_a_row else "("}{arguments},{"" if in_a_row else ")"}
    )"""
        if in_a_row is None:
            own = f"{{{meta}, **_ft_more, **_ft_found.given, **_ft_found.constants}}"
            launch = f"    _ft_run(_ft_kernel, grid=_ft_shape, warmup=False, **{own})"
        told = ["_ft_tuner.best_config = _ft_found.config"] if around.tuner is not None else []
        told += ["_ft_note(_ft_found.tally)"] if around.note is not None else []
        return f"""\
def _ft_key({head}):
{indent(self._key(), "    ")}
    return None if {" or ".join(_COMPILED_OTHERWISE)} else _ft_at

def _ft_call({head}):
    try:
{indent(self._key(), "        ")}
        _ft_found = _ft_known.get(_ft_at)
    except (AttributeError, KeyError, TypeError):
        _ft_found = None
    if {" or ".join([*_UNUSUAL, *_COMPILED_OTHERWISE, *also])}:
        {again}
    if _ft_found.still is not None and not _ft_found.still():
        {again}
    {f"{asked}{computed}" if computed else ""}
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
        {again}{moved if around.moves else ""}{hooked if around.tuner is not None else ""}
{launch}
{indent(chr(10).join(told), "    ")}
    return _ft_found.result
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
        if self._around.by_values:
            parts += [part for name in self._pointers for part in (f"{name}.shape", f"{name}.stride()")]
            parts += self._of(FLOAT)
        # Triton tells 1 apart, and what 16 divides; of what takes more than 31 bits, each.
        alike, alone = "{0} & 15 and 17", "{0} < 2 or {0} > 0x7FFFFFFF"
        if self._around.numbers is not None:  # no whole number is one of a bucket
            alike = "({0} - 1).bit_length() + (0.25 if {0} & 15 else 0.5)"
            alone += " or {0} in _ft_numbers"
        number = f"({{0}} if {alone} else {alike})"
        parts += [name if name in self._exact else number.format(name) for name in self._of(INT)]
        parts += self._of(BOOL)
        others = [(f"_ft_k{place}", name) for place, name in enumerate(self._of(OTHER))]
        lines += [f"{kind} = _ft_kind(({name},), _ft_nothing)" for kind, name in others]
        parts += [kind for kind, _ in others]
        parts += [part for name in self._of(CONSTANT) for part in (name, f"{name}.__class__")]
        if self._options:
            options = [f"_ft_o{place}" for place in range(len(self._options))]
            lines += [f"{option} = _ft_more[{name!r}]" for option, name in zip(options, self._options, strict=True)]
            parts += [part for option in options for part in (option, f"{option}.__class__")]
        usual = [f"_ft_len(_ft_more) == {len(self._options)}" if self._options else "not _ft_more"]
        usual += [f"{name}.is_cuda" for name in self._pointers]
        usual += [f"{kind} is not None" for kind, _ in others]
        for kind, told in ((INT, "_ft_int"), (FLOAT, "_ft_float"), (BOOL, "_ft_bool")):
            if names := self._of(kind):
                usual.append(" is ".join([*(f"{name}.__class__" for name in names), told]))
        usual += [f"{name} is None" for name in self._of(NONE)]
        lines.append(f"_ft_usual = {' and '.join(usual)}")
        # What is no number is not compared with one: of a tensor, that would wait for the GPU.
        lines.append(f"_ft_at = ({''.join(f'{part}, ' for part in parts)}) if _ft_usual else None")
        return "\n".join(lines)


_UNUSUAL: Final = (
    "_ft_found is None",
    "_ft_runtime.launch_enter_hook is not _ft_enter",
    "_ft_runtime.launch_exit_hook is not _ft_leave",
    "_ft_enter_calls",
    "_ft_leave_calls",
    "_ft_before",
)
"""Why a launch is Triton's own affair: somebody listens."""
_COMPILED_OTHERWISE: Final = (
    "_ft_runtime.debug is not _ft_debug",
    "_ft_runtime.add_stages_inspection_hook is not None",
    "_ft_compilation.instrumentation_mode != _ft_mode",
)
"""And why what it launches is nothing to be remembered: somebody asks for other machine code than at the first."""
