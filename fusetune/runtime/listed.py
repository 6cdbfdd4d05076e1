"""The list of configs of a tuner with what entries add to it, and what comes from the list and not from a caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from triton.runtime.autotuner import Config

from fusetune.core.config import OPTIONS
from fusetune.ops.naming import value_name
from fusetune.runtime.launch_configs import Candidate, KernelFacts
from fusetune.runtime.traced import Rule, rule_of


class Gives(NamedTuple):
    """Who gives which of a kernel's `parameters`: `by_list` the configs, `computed` heuristics, the caller the rest."""

    parameters: frozenset[str]
    by_list: frozenset[str]
    computed: frozenset[str]

    @property
    def by_caller(self) -> frozenset[str]:
        """What a launch has of its own."""
        return self.parameters - self.by_list - self.computed


class Tuned(NamedTuple):
    """The list of configs with those that entries add.

    `places` say where in it an entry's config is, or why it cannot be used. `rules` are for a trace.
    """

    configs: list[Config]
    places: Mapping[tuple[Path, int], int | str] = {}
    rules: tuple[Rule, ...] = ()


def with_entries(known: KernelFacts, candidates: Sequence[Candidate], listed: Sequence[Config], gives: Gives) -> Tuned:
    """The list, and behind it the configs of entries that it does not hold."""
    configs = list(listed)
    places: dict[tuple[Path, int], int | str] = {}
    rules = []
    for one in candidates:
        config = one.entry.config
        constants = {known.parameters[name].name: value for name, value in config.constants().items()}
        problem = one.entry.problem.to_builtins()
        said = {name: problem[value_name(name)] for name in gives.by_list if value_name(name) in problem}
        fixed = {name: value for name, value in said.items() if not isinstance(value, str)}  # a dtype's name is none
        own = {name: value for name, value in {**fixed, **constants}.items() if name in gives.by_list}
        place = _place_like(configs, listed, own, config.options())
        places[one.path, one.number] = place
        if isinstance(place, str) or not _has_what_is_fixed(configs[place], problem, gives):
            continue
        also = {name: value for name, value in constants.items() if name not in gives.by_list}
        rule = rule_of(known, problem, also, gives.by_caller, place, one.position)
        rules += [rule] if rule is not None else []
    return Tuned(configs, places, tuple(rules))


def _has_what_is_fixed(config: Config, problem: Mapping[str, Any], gives: Gives) -> bool:
    """Whether a config has the constants that a problem has and that no caller gives."""
    given = {name: value for name, value in config.all_kwargs().items() if name in gives.parameters}
    return all(problem.get(value_name(name), value) == value for name, value in given.items())


def place_of(default: Config | int | None, configs: list[Config]) -> int | None:
    """The place of the default in the list, to which it is added where it is not there."""
    if default is None:
        return None
    if isinstance(default, int):
        if not -len(configs) <= default < len(configs):
            raise ValueError(
                f"default={default} is no place in a list of {len(configs)} configs; give one, or a Config"
            )
        return default % len(configs)
    if default not in configs:
        configs.append(default)
    return configs.index(default)


def _place_like(
    configs: list[Config], listed: Sequence[Config], constants: Mapping[str, Any], options: Mapping[str, int]
) -> int | str:
    """The place of the config with these constants and options, to be added where there is none; or why there is none.

    What else the list's configs give, and the pre_hook, is that of those with the same constants, or of all of them.
    """
    wanted = {"num_ctas": 1, "maxnreg": None, **options}
    same = [one for one in listed if all(one.kwargs.get(name) == value for name, value in constants.items())]
    for place, one in enumerate(configs):
        has = all(one.kwargs.get(name) == value for name, value in constants.items())
        if has and all(getattr(one, name) == value for name, value in wanted.items()):
            return place
    like = same or listed
    rest = [{name: value for name, value in one.kwargs.items() if name not in constants} for one in like]
    if any(one != rest[0] for one in rest) or len({one.pre_hook for one in like}) > 1:
        return "the list's configs differ in what it does not say, as in their pre_hook"
    named = {name: value for name, value in rest[0].items() if name not in OPTIONS}
    configs.append(Config({**named, **constants}, **options, pre_hook=like[0].pre_hook))
    return len(configs) - 1
