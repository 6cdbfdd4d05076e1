"""A kernel that had no autotuner is given one, with the few configs that are left to try."""

from __future__ import annotations

import libcst as cst

from fusetune.code.patch.calls import launch_call, removed
from fusetune.code.patch.change import OPTIONS, Change
from fusetune.code.patch.config_lists import MOST_TRIED, config_name, is_imported, new_config
from fusetune.code.patch.edits import Edit
from fusetune.code.patch.grid_text import reads_constant
from fusetune.code.patch.kernel_users import refuse_other_users
from fusetune.code.patch.source_file import SourceFile, Sources, last_name


def autotune_edits(source: SourceFile, kernel: cst.FunctionDef, change: Change, sources: Sources) -> list[Edit]:
    """The edits that put `@triton.autotune` above a kernel, and take from its launch what the configs say.

    Constants that all of them have alike stay where they are. Raises NotWritableError.
    """
    tried = change.tried[:MOST_TRIED]
    varied = [name for name in change.wanted if name not in OPTIONS and len({repr(one.get(name)) for one in tried}) > 1]
    held = sources.file(change.launch.file)
    call = launch_call(held, change.launch)
    if not kernel.decorators:
        raise source.refused(kernel, f"{change.launch.kernel} has no decorator to put an autotuner above")
    if change.unrestored:
        why = f"an autotuner cannot give {change.unrestored[0]} back between its trials what it held: none is added"
        raise held.refused(call, why)
    refuse_other_users(source, kernel, call, sources)
    keywords = {one.keyword.value for one in call.args if one.keyword is not None}
    for name in [*varied, *(one for one in OPTIONS if one in change.launch.given)]:
        if name not in keywords:
            raise held.refused(call, f"{name} is given by no keyword here, and an autotuner has to give it")
        goes_with = change.launch.goes_with(name) in varied
        if name in change.launch.follows and not goes_with and not reads_constant(held, call, name):
            raise held.refused(call, f"the grid does not read {name} from what it is called with")
    for name in change.launch.following:
        leads = sorted(change.launch.leads(name) & set(varied))
        if leads and not (name in varied and change.launch.goes_with(name)):
            why = f"{name} is computed from {', '.join(leads)} before an autotuner has chosen"
            raise held.refused(call, why)
    name = config_name(source, kernel.decorators[-1].decorator)
    text = _text(source, kernel, name, varied, change)
    # Behind others, such as @staticmethod, which give no kernel that an autotuner could take.
    at = source.start(next((one for one in kernel.decorators if _is_tritons(one)), kernel.decorators[-1]))
    return [source.inserted(at, text, "@triton.autotune"), *removed(held, call, {*varied, *OPTIONS})]


def _text(source: SourceFile, kernel: cst.FunctionDef, name: str, varied: list[str], change: Change) -> str:
    indent = source.indent(kernel.decorators[0])
    configs = [new_config(name, {one: values[one] for one in varied}, values) for values in change.tried[:MOST_TRIED]]
    module = name.rpartition(".")[0]
    if not module and not is_imported(source, "autotune"):
        raise source.refused(kernel, "there is no name for triton.autotune in the file")
    lines = [
        f"@{module}.autotune(" if module else "@autotune(",
        "    configs=[",
        *(f"        {config}," for config in dict.fromkeys(configs)),
        "    ],",
        f"    key=[{_listed(change.key)}],",
        *([f"    restore_value=[{_listed(change.restored)}],"] if change.restored else []),
        ")",
    ]
    return "".join(f"{line}{source.newline}{indent}" for line in lines)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _is_tritons(decorator: cst.Decorator) -> bool:
    held = decorator.decorator
    return last_name(held.func if isinstance(held, cst.Call) else held) in {"heuristics", "jit"}
