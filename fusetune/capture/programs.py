"""The forms in which a user names a program, and how each is run as Python itself would run it."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec

from fusetune.core.brief import brief
from fusetune.errors import UsageError
from fusetune.store.regular import is_folder, is_regular

_FORMS = "write script.py, -m module, or package.module:function, each with its own arguments behind it"
MODEL = "ModelNew"
_INPUTS = frozenset({"get_inputs", "get_init_inputs"})
_REFERENCE = _INPUTS | {"Model"}
"""What a reference file defines: the model in plain PyTorch, and what it is made from and called with."""
_REFERENCE_NAMES = ("ref.py", "reference.py")


class Program(msgspec.Struct, frozen=True):
    """What is to be run once. `what` is a path, a module's name, or `module:function`, as `kind` says.

    `arguments` are its sys.argv[1:]. `expression` is the text between the brackets of a function's call. `reference` is
    the file that says what a model is made from and called with; None where the model's own file says so without being
    a reference.
    """

    kind: Literal["script", "module", "function", "model"]
    what: str
    arguments: tuple[str, ...] = ()
    expression: str | None = None
    reference: str | None = None

    def told(self) -> str:
        """As it was named, for people."""
        words = [*(["-m"] if self.kind == "module" else []), self.what, *self.arguments]
        return shlex.join(words) + (f" --args {shlex.quote(self.expression)}" if self.expression else "")


def parse_program(words: Sequence[str], *, args: str | None = None, reference: Path | None = None) -> Program:
    """The program that the words of a command line name; nothing of it is imported or run.

    Raises UsageError where there is no such file, it is no Python, or the options do not go with its form.
    """
    if not words:
        raise UsageError(f"no program is given; {_FORMS}")
    first, rest = words[0], tuple(words[1:])
    if first == "-m":
        if not rest:
            raise UsageError("-m needs a module; write -m package.module and its arguments")
        program = Program("module", rest[0], rest[1:])
    elif not is_regular(Path(first)) and ":" in first and os.sep not in first and ".py:" not in first:
        program = _function(first, rest, args)
    else:
        program = _file(first, rest, reference)
    if args is not None and program.kind != "function":
        raise UsageError(f"--args belongs to package.module:function; {program.what} takes its arguments behind it")
    if reference is not None and program.kind != "model":
        raise UsageError(f"--reference belongs to a file that defines {MODEL}; {program.what} is run as it is")
    return program


def _function(place: str, rest: tuple[str, ...], args: str | None) -> Program:
    module, _, name = place.partition(":")
    if not module or not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise UsageError(f"{place!r} names no function of a module; write package.module:function")
    if rest:
        raise UsageError(f'{place} is given {rest[0]!r}; write the arguments of a function as --args "x, y=2"')
    if args is not None:
        _call_of(args)
    return Program("function", place, expression=args)


def _call_of(expression: str) -> str:
    """The source that makes a tuple and a dict of an argument list. Raises UsageError where it is none."""
    source = f"_taken({expression}\n)"
    try:
        body = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f'--args {expression!r} is no argument list in Python; write --args "x, y=2"') from error
    if not (isinstance(body, ast.Call) and isinstance(body.func, ast.Name)):
        raise UsageError(f'--args {expression!r} is more than an argument list; write --args "x, y=2"')
    return source


def _file(what: str, rest: tuple[str, ...], reference: Path | None) -> Program:
    path = Path(what)
    if is_folder(path):
        raise UsageError(f"{what} is a folder; {_FORMS}")
    if not is_regular(path):
        file, _, node = what.partition("::")
        if node and is_regular(Path(file)):
            raise UsageError(f"{what} is a test of pytest; write -m pytest {what}")
        raise UsageError(f"there is no file {brief(what)}; {_FORMS}")
    tree = _parsed(path)
    names = _defined(tree)
    if MODEL not in names or (reference is None and _asks_whether_main(tree)):
        return Program("script", what, rest)
    if rest:
        raise UsageError(f"{what} defines {MODEL} and is called by us, so it takes no arguments such as {rest[0]!r}")
    return Program("model", what, reference=_reference_of(path, names, reference))


def _reference_of(path: Path, names: set[str], given: Path | None) -> str | None:
    """The file that makes a model's inputs; None where it is the model's own file, which is no reference."""
    if given is not None:
        if not is_regular(given):
            raise UsageError(f"there is no file {given}; --reference is the file that defines Model and its inputs")
        missing = sorted(_REFERENCE - _defined(_parsed(given)))
        if missing:
            raise UsageError(
                f"{given} does not define {missing[0]}; a reference defines Model, get_inputs, get_init_inputs"
            )
        return str(given)
    if names >= _REFERENCE:
        return str(path)
    for name in _REFERENCE_NAMES:
        if _is_reference(path.with_name(name), path):
            return str(path.with_name(name))
    found = [other for other in sorted(path.parent.glob("*.py")) if _is_reference(other, path)]
    if len(found) == 1:
        return str(found[0])
    if names >= _INPUTS:
        return None
    if found:
        several = f"{found[0].name} and {found[1].name}"
        raise UsageError(f"{path} may belong to {several}; say which with --reference FILE")
    raise UsageError(
        f"{path} defines {MODEL} and nothing says its inputs; give --reference FILE, with Model, get_inputs and "
        "get_init_inputs"
    )


def _is_reference(path: Path, model: Path) -> bool:
    """Whether a neighbour is a reference; what cannot be read is none."""
    if not is_regular(path) or path.resolve() == model.resolve():
        return False
    with contextlib.suppress(UsageError):
        return _defined(_parsed(path)) >= _REFERENCE
    return False


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        told = brief(error.msg if isinstance(error, SyntaxError) else error)
        raise UsageError(f"{path} is no Python that this interpreter reads{line}: {told}; mend it there") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def _defined(tree: ast.Module) -> set[str]:
    """The names that a file defines at its top, those in an `if` or a `try` there too, and those it imports."""
    names: set[str] = set()
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.If | ast.Try):
            waiting += [*node.body, *node.orelse]
    return names


def _asks_whether_main(tree: ast.Module) -> bool:
    """Whether a file has a part that only runs when it is the program: `if __name__ == "__main__":`."""
    return any(
        isinstance(node, ast.If)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
        for node in tree.body
    )


def run_program(program: Program) -> Any:
    """Run a program in this process, as its owner would, and return what it gives: a function's or model's result.

    A script or a module gives its globals, or None where it ended by SystemExit with code 0 or None. All else that it
    raises goes through, other SystemExits too. Raises UsageError where a function's module, name or arguments are not
    there.
    """
    runners = {"script": _run_script, "module": _run_module, "function": _run_function, "model": _run_model}
    try:
        return runners[program.kind](program)
    except SystemExit as ended:
        if ended.code in (None, 0):
            return None
        raise


def _run_script(program: Program) -> Any:
    # By its whole path, as Python's own __file__ is: kernels' sources are read after a program changed its folder, too.
    path = Path(program.what).absolute()
    with as_command([program.what, *program.arguments], path.resolve().parent):
        return runpy.run_path(str(path), run_name="__main__")


def _run_module(program: Program) -> Any:
    with as_command([program.what, *program.arguments], Path.cwd()):
        return runpy.run_module(program.what, run_name="__main__", alter_sys=True)


def _run_function(program: Program) -> Any:
    with as_command([program.what], Path.cwd()):
        called = function_of(program)
        arguments, keywords = arguments_of(program)
        return called(*arguments, **keywords)


def function_of(program: Program) -> Callable[..., Any]:
    """The function that a program names, imported. Raises UsageError where it is not there."""
    module, _, name = program.what.partition(":")
    called: Any = _imported(module)
    for part in name.split("."):
        called = getattr(called, part, None)
    if not callable(called):
        raise UsageError(f"module {module} has no function {name}; write package.module:function")
    found: Callable[..., Any] = called
    return found


def arguments_of(program: Program) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a function's call, evaluated. Raises UsageError where that fails."""
    return _evaluated(program.expression or "")


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # The module is there, and lacks another that it needs.
        raise UsageError(
            f"Python finds no module {module} from {Path.cwd()}; start where it can be imported"
        ) from error


def _evaluated(expression: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, evaluated among torch and Python's built-in names.

    Raises UsageError where that fails.
    """
    import torch

    names = {"torch": torch, "_taken": lambda *arguments, **keywords: (arguments, keywords)}
    try:
        taken: tuple[tuple[Any, ...], dict[str, Any]] = eval(_call_of(expression), names)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"--args {expression!r} cannot be evaluated: {type(error).__name__}: {error}") from error
    return taken


def _run_model(program: Program) -> Any:
    with loaded_model(program) as (model, inputs_of):
        return model(*on_cuda(inputs_of.get_inputs()))


@contextlib.contextmanager
def loaded_model(program: Program) -> Iterator[tuple[Any, ModuleType]]:
    """A model, made, and the module that says its inputs; sys.argv and sys.path are as it expects meanwhile."""
    path = Path(program.what).absolute()
    reference = Path(program.reference).absolute() if program.reference else path
    with as_command([program.what], path.resolve().parent):
        inputs_of = _loaded(reference)
        module = inputs_of if reference.resolve() == path.resolve() else _loaded(path)
        yield made_alike(getattr(module, MODEL), inputs_of), inputs_of


def made_alike(kind: Any, inputs_of: ModuleType) -> Any:
    """A model on the GPU with the weights of a fixed seed: two that draw theirs in the same order have the same."""
    import torch

    torch.manual_seed(0)
    model = kind(*inputs_of.get_init_inputs())
    return on_cuda(model)


def on_cuda(value: Any) -> Any:
    """A value, and each tensor in its lists, tuples and dicts, moved to the GPU; to Triton's interpreter, none is."""
    import torch
    import triton

    if isinstance(value, torch.Tensor | torch.nn.Module):
        return value if triton.knobs.runtime.interpret else value.cuda()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(on_cuda(part) for part in value)
    if isinstance(value, Mapping):
        return {key: on_cuda(part) for key, part in value.items()}
    return value


def _loaded(path: Path) -> ModuleType:
    """A file imported under a module name that nothing else has: its own where that is free."""
    stem = path.stem if path.stem.isidentifier() else "program"
    name, number = stem, 1
    while name in sys.modules or (number == 1 and name in sys.stdlib_module_names):
        number += 1
        name = f"{stem}_{number}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported; a file of a model ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def as_command(argv: list[str], folder: Path) -> Iterator[None]:
    """sys.argv and the first place of sys.path as Python would have them; both as they were afterwards."""
    old_argv, old_path = sys.argv[:], sys.path[:]
    safe = getattr(sys.flags, "safe_path", False)  # python -P, from 3.11 on: there is no first place to take.
    sys.argv[:] = argv
    sys.path[:] = [str(folder), *(sys.path if safe else sys.path[1:])]
    try:
        yield
    finally:
        sys.argv[:] = old_argv
        sys.path[:] = old_path
