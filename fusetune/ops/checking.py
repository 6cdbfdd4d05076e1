"""Whether a spec is fit to be tuned, before anything is compiled or a GPU is touched: each mistake is one line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, get_args

from fusetune.core.brief import brief, brief_error, brief_value
from fusetune.core.config import Config
from fusetune.core.dtypes import ELEMENT_TYPES
from fusetune.core.near import did_you_mean
from fusetune.core.problem import Problem
from fusetune.core.space import Space
from fusetune.core.text import OP_NAME
from fusetune.errors import OpError, UsageError
from fusetune.ops.built_in import built_in_ops
from fusetune.ops.parameters import is_constexpr, is_kernel, parameters_of
from fusetune.ops.told import naming
from fusetune.ops.types import OpTypes

if TYPE_CHECKING:
    from fusetune.ops.spec import KernelSpec, Launch, Operand

NEEDED: Final = ("name", "operands", "launches", "reference")
"""What a KernelSpec cannot do without."""
_MOST_AXES: Final = 3
"""Of a grid, on every GPU."""


def refuse_unfit(spec: KernelSpec, place: str, reference: str) -> None:
    """Raise UsageError for what a spec lacks, and for a name that is none, cannot name a file, or is a built-in op's.

    `place` begins the message; `reference` is where the spec was loaded from, as module:attribute.
    """
    from fusetune.ops.spec import KernelSpec

    base = vars(KernelSpec)
    missing = [name for name in NEEDED if inspect.getattr_static(spec, name, NEEDED) is base.get(name, NEEDED)]
    if missing:
        raise UsageError(f"{place} lacks {' and '.join(missing)}; a KernelSpec has at least {', '.join(NEEDED)}")
    try:
        name: Any = spec.name
    except Exception as error:
        told = brief_error(error)
        raise UsageError(f"{place} does not say its name ({told}); write it as a word: name = 'my_op'") from error
    if not isinstance(name, str) or not re.match(OP_NAME, name):
        raise UsageError(
            f"{place}: its name is {brief_value(name)}, and has to be lower-case letters, digits and underscores, "
            "a letter first, a hundred at most: files are called by it"
        )
    taken = built_in_ops().get(name)
    if taken is not None and taken != reference:
        module, _, attribute = taken.partition(":")
        if getattr(import_module(module), attribute) is not spec:
            raise UsageError(f"{place} is named {name}, as the built-in op {taken} is; give it another name")
    if not isinstance(spec.types, OpTypes):
        raise UsageError(f"{place}: its types are {brief_value(spec.types)}, and have to be OpTypes")


def check_spec(spec: KernelSpec, problem: Any) -> None:
    """Raise OpError for what of a spec cannot be tuned at this problem, UnsupportedProblemError as `spec.check` does.

    What BASELINE launches is held against the parameters of its kernels and against Triton's options; nothing is
    compiled.
    """
    from fusetune.ops.spec import abstract_tensors

    if not isinstance(problem, Problem):
        raise OpError(f"op {spec.name}: its problem() gives {brief_value(problem)}, and has to give a Problem")
    _refuse_unpicklable(spec)
    spec.check(problem)
    operands = _operands(spec, spec.operands(problem), "operands")
    if not any(operand.role in {"output", "state"} for operand in operands):
        raise OpError(f"op {spec.name}: none of its operands() is an output or a state, so that nothing can be checked")
    _check_space(spec)
    baseline = spec.baseline(problem)
    if not isinstance(baseline, Config):
        raise OpError(f"op {spec.name}: its baseline() gives {brief_value(baseline)}, and has to give a Config")
    scratch = _operands(spec, spec.workspace(problem, baseline), "workspace")
    _refuse_twice(spec, [*operands, *scratch])
    with naming(spec, "launches"):
        launches = spec.launches(problem, baseline, abstract_tensors(spec, problem, baseline))
    check_launches(spec, launches)


def _refuse_unpicklable(spec: KernelSpec) -> None:
    """Kernels are compiled and timed in processes of their own, which get the spec."""
    try:
        pickle.dumps(spec)
    except Exception as error:
        raise OpError(
            f"op {spec.name} cannot be handed to the processes that compile and time it ({brief(error)}); define its "
            "class at the top of its module, and keep nothing in it that pickle cannot write"
        ) from error


def check_launches(spec: KernelSpec, launches: Any) -> None:
    """Raise OpError where these are no launches, or their kernels do not take what they give."""
    from fusetune.ops.spec import Call, Launch

    if isinstance(launches, Launch | Call):
        raise OpError(f"op {spec.name}: its launches() give a single one; give a list of them: return [Launch(...)]")
    if not isinstance(launches, Sequence) or not all(isinstance(one, Launch | Call) for one in launches):
        raise OpError(f"op {spec.name}: its launches() give {brief_value(launches)}, and have to give Launches")
    if not launches:
        raise OpError(f"op {spec.name}: its launches() give none for BASELINE, so that nothing writes its outputs")
    for launch in launches:
        if isinstance(launch, Launch):
            _check_launch(spec, launch)


def check_reference(spec: KernelSpec, problem: Any, references: Any) -> None:
    """Raise OpError where a reference leaves an output out, has one that there is not, or one of another shape."""
    told = f"op {spec.name}: its reference() gives"
    if not isinstance(references, Mapping):
        raise OpError(f"{told} {brief_value(references)}, and has to give a mapping: return {{'y': ...}}")
    shapes = {one.name: (tuple(one.shape), one.role) for one in spec.operands(problem)}
    written = [name for name, (_, role) in shapes.items() if role in {"output", "state"}]
    for name, tensor in references.items():
        if name not in written:
            raise OpError(f"{told} {brief_value(name)}, which is none of its outputs and states, {', '.join(written)}")
        found = tuple(getattr(tensor, "shape", ()))
        if not hasattr(tensor, "shape") or found != shapes[name][0]:
            what = f"{name} the shape {found}" if hasattr(tensor, "shape") else f"{name} as {brief_value(tensor)}"
            raise OpError(f"{told} {what}, and its operands() {shapes[name][0]}")
    missing = [name for name in written if shapes[name][1] == "output" and name not in references]
    if missing:
        raise OpError(f"{told} no {' and no '.join(missing)}, so that it could not be checked; give every output")


def _operands(spec: KernelSpec, found: Any, member: str) -> tuple[Operand, ...]:
    from fusetune.ops.spec import Operand, Role

    told = f"op {spec.name}: its {member}() give"
    if not isinstance(found, Iterable) or isinstance(found, str):
        raise OpError(f"{told} {brief_value(found)}, and have to give a tuple of Operand")
    operands = tuple(found)
    for one in operands:
        if not isinstance(one, Operand):
            raise OpError(f"{told} {brief_value(one)}, which is no Operand")
        if not isinstance(one.name, str) or not one.name.isidentifier():
            raise OpError(f"{told} a tensor the name {brief_value(one.name)}; use a word, as x")
        if not isinstance(one.shape, tuple | list) or not all(_is_size(size) for size in one.shape):
            shape = brief_value(one.shape) if not isinstance(one.shape, tuple | list) else brief(tuple(one.shape))
            raise OpError(f"{told} {one.name} the shape {shape}; write a tuple of whole numbers of at least 1")
        if one.dtype not in ELEMENT_TYPES:
            near = did_you_mean(str(one.dtype).rpartition(".")[2], ELEMENT_TYPES)
            known = ", ".join(ELEMENT_TYPES)
            raise OpError(f"{told} {one.name} the dtype {brief_value(one.dtype)}; write one of {known}{near}")
        if one.role not in get_args(Role):
            raise OpError(
                f"{told} {one.name} the role {brief_value(one.role)}; write one of {', '.join(get_args(Role))}"
            )
    _refuse_twice(spec, operands)
    return operands


def _refuse_twice(spec: KernelSpec, operands: Sequence[Operand]) -> None:
    names = [one.name for one in operands]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OpError(
            f"op {spec.name}: it has two tensors called {twice}; give each operand and scratch tensor its own"
        )


def _check_space(spec: KernelSpec) -> None:
    """Where the op goes by a Space: one that gives each parameter a tuple of values."""
    from fusetune.ops.spec import KernelSpec

    if type(spec).baseline is not KernelSpec.baseline and type(spec).candidates is not KernelSpec.candidates:
        return
    if not isinstance(spec.space, Space):
        raise OpError(f"op {spec.name}: its space is {brief_value(spec.space)}; write Space({{'BLOCK': (64, 128)}})")
    for space in (spec.space, *spec.space.others):
        for name, values in space.values.items():
            if not isinstance(values, tuple | list) or not values:
                told = f"op {spec.name}: its space gives {name} the values {brief(repr(values))}"
                raise OpError(f"{told}; write a tuple of one or more, as (64, 128)")


def _check_launch(spec: KernelSpec, launch: Launch) -> None:
    kernel, told = launch.kernel, f"op {spec.name}: its launches() give"
    if not is_kernel(kernel):
        what = getattr(kernel, "__name__", None) or type(kernel).__name__
        advice = "fusetune chooses configs itself, so name the @triton.jit function inside"
        if not hasattr(kernel, "fn"):
            advice = "put @triton.jit above it"
        raise OpError(f"op {spec.name}: its launches() launch {what}, which is no @triton.jit function; {advice}")
    name, known = kernel.fn.__name__, parameters_of(kernel)
    for given in (launch.arguments, launch.constants, launch.options):
        if not isinstance(given, Mapping):
            raise OpError(
                f"{told} {name} {brief_value(given)}; write arguments, constants and options as {{name: value}}"
            )
    unknown = [key for key in (*launch.arguments, *launch.constants) if key not in known]
    if unknown:
        near = did_you_mean(str(unknown[0]), known)
        raise OpError(
            f"{told} {name} a {unknown[0]}, which it does not take; its parameters are {', '.join(known)}{near}"
        )
    _check_options(spec, launch, name, known)
    twice = [key for key in launch.arguments if key in launch.constants]
    if twice:
        raise OpError(f"{told} {name} {twice[0]} twice, in arguments and in constants; a tl.constexpr is a constant")
    given_names = launch.arguments.keys() | launch.constants.keys()
    lacking = [key for key, one in known.items() if key not in given_names and one.default is inspect.Parameter.empty]
    if lacking:
        place = "constants" if is_constexpr(known[lacking[0]]) else "arguments"
        raise OpError(f"{told} {name} no {lacking[0]}, which it needs; add it to the {place} of its Launch")
    constant = [key for key in launch.arguments if is_constexpr(known[key])]
    if constant:
        raise OpError(
            f"{told} {name} {constant[0]} as an argument; it is a tl.constexpr: add it to the constants instead"
        )
    grid = launch.grid
    fits = isinstance(grid, tuple | list) and 1 <= len(grid) <= _MOST_AXES and all(_is_size(extent) for extent in grid)
    if not fits:
        shown = "a function" if callable(grid) else brief(repr(grid))
        raise OpError(f"{told} {name} the grid {shown}; write a tuple of one to three whole numbers of at least 1")


def _check_options(spec: KernelSpec, launch: Launch, name: str, known: Mapping[str, Any]) -> None:
    for key in launch.options:
        if key in known:
            told = f"as an option; it is a parameter of {name}: add it to the constants or arguments"
            raise OpError(f"op {spec.name}: its launches() give {name} {key} {told}")
        if key not in _compiler_options():
            near = did_you_mean(str(key), _compiler_options())
            raise OpError(
                f"op {spec.name}: its launches() give {name} the option {key}, which Triton does not know{near}"
            )


@functools.cache
def _compiler_options() -> frozenset[str]:
    """What Triton takes with a launch beside the kernel's own parameters, by name."""
    from triton.backends.nvidia.compiler import CUDAOptions

    return frozenset(one.name for one in dataclasses.fields(CUDAOptions))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
