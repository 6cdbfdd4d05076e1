"""A capture as a KernelSpec: to the engine it is an op like any other, whose Before is what the program runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fusetune.capture.kept import ArgumentKept, Kept, TensorKept, TupleKept, named_tensors, read_kept
from fusetune.capture.naming import problem_of
from fusetune.capture.oracle import BY_DTYPE, CapturedData, Strictness
from fusetune.capture.restore import PaddedDescriptor, argument_of, load_kept_kernel
from fusetune.core.bound import Bound
from fusetune.core.config import OPTIONS, SAFE_STAGES, SAFE_WARPS, Config, NamedConfig, with_options
from fusetune.core.problem import NamedProblem, Problem
from fusetune.core.space import Rejection, SpaceName
from fusetune.core.target import Target
from fusetune.errors import UnsupportedProblemError
from fusetune.ops.naming import kernel_place, op_name, value_name
from fusetune.ops.refusals import CannotLaunchError
from fusetune.ops.spec import KernelSpec, Launch, Operand, Role, TileDescriptor

WARPS: Final = (1, 2, 4, 8, 16)
STAGES: Final = (1, 2, 3, 4, 5)
MOST_OF_A_PRODUCT: Final = 2000
LEAST_FOR_DOT: Final = 16
"""On each side of tl.dot."""
ELEMENTS_A_THREAD: Final = 128
"""Of a tile; with more, its operands do not fit into a thread's 255 registers, and the compiler takes up to minutes."""
_ROLES: Final[Mapping[str, Role]] = {"read": "input", "unused": "input", "written": "output"}


class CapturedSpec(KernelSpec):
    """A case of a program, launched again from its capture.

    `more` names options that vary on request only: num_ctas, maxnreg. `profiled`: what limits it by a profile. `also`
    are configs to try beside those that the capture gives rise to, such as what won for another case of the kernel.
    """

    rejects_spills = False

    def __init__(self, folder: Path, *, strictness: Strictness = BY_DTYPE, more: frozenset[str] = frozenset()) -> None:
        self.folder, self.strictness, self.more = Path(folder), strictness, more
        self.profiled: Bound | None = None
        self.also: tuple[Config, ...] = ()
        kernel = self.kept.case.kernel
        self.name = op_name(kernel.module, kernel.name, kernel.file)
        self.kernel_place = (kernel_place(kernel.module, kernel.name, kernel.file), kernel.file)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in {"kept", "_names"}}

    @functools.cached_property
    def kept(self) -> Kept:
        """The capture."""
        return read_kept(self.folder)

    # What it computes.

    def captured_problem(self) -> NamedProblem:
        """The one problem that the capture holds."""
        return problem_of(self.kept, frozenset(self._knobs()))

    def problem_before(self, before: Config) -> NamedProblem:
        """The same as it was when this config ran, whose grid says the size; it may be that another runs by now."""
        placed = self._placed(before)
        grid = None if placed is None else placed.grid
        return problem_of(self.kept, frozenset(self._knobs()), grid)

    def problem(self, values: Mapping[str, Any]) -> Problem:
        """See KernelSpec: the captured one."""
        made = NamedProblem(**values)
        self.check(made)
        return made

    def check(self, problem: Any) -> None:
        """See KernelSpec."""
        if self.kept.unlaunchable is not None:
            raise UnsupportedProblemError(f"{self.name} cannot be launched again: {self.kept.unlaunchable}")
        if problem != self.captured_problem():
            raise UnsupportedProblemError(f"this capture of {self.name} is of {self.captured_problem().describe()}")

    def operands(self, problem: Any) -> tuple[Operand, ...]:
        """See KernelSpec: the launch's tensors by the names of its arguments."""
        seen, roles = self.kept.case.tensors, self.kept.case.roles
        return tuple(
            Operand(
                name,
                one.shape,
                one.read_as or one.dtype,
                _ROLES.get(roles.get(name, "both"), "state"),
                aligned=name not in seen or seen[name].aligned,
            )
            for name, one in named_tensors(self.kept).items()
        )

    def own_data(self, problem: Any, seed: int, device: Any) -> CapturedData:
        """See KernelSpec: the storages of the capture."""
        return CapturedData(self.kept, self.folder, seed, device, self.strictness)

    def bytes(self, problem: Any) -> float:
        """See KernelSpec: each tensor once, of a storage no more than it has. What a kernel gathers is not known."""
        storages: dict[int, float] = {}
        for one in self.operands(problem):
            number = named_tensors(self.kept)[one.name].storage
            storages[number] = storages.get(number, 0.0) + one.size_bytes * (2 if one.role == "state" else 1)
        sizes = self.kept.storages
        return sum(min(asked, 2.0 * sizes[number].size) for number, asked in storages.items())

    def kind(self, problem: Any) -> str | None:
        """See KernelSpec: by the kernel's intermediate code."""
        return None if self.kept.case.work is None else self.kept.case.work.kind

    def flops(self, problem: Any) -> float:
        """See KernelSpec: of matrix products alone, as Before's tiles make them, and where its loops can be counted."""
        return (self.kept.case.work and self.kept.case.work.flops) or 0.0

    def bound(self, problem: Any, target: Target) -> Bound:
        """See KernelSpec: by a profile; else by the roofline; else by whether it multiplies matrices."""
        work = self.kept.case.work
        if self.profiled is not None:
            return self.profiled
        if work is None:
            return super().bound(problem, target)
        if not work.multiplies:
            return Bound(compute=False, why="it multiplies no matrices")
        if work.flops is None or work.kind is None:
            return Bound(compute=True, why="it multiplies matrices, how much for each byte is not known")
        return super().bound(problem, target)

    @property
    def staged_loads(self) -> int:  # type: ignore[override]
        """See KernelSpec: by the kernel's intermediate code."""
        return 0 if self.kept.case.work is None else self.kept.case.work.staged_loads

    @property
    def stages_matter(self) -> bool:  # type: ignore[override]
        """See KernelSpec."""
        return self._stages_vary()

    def source_hash(self, config: Any = None) -> str:
        """See KernelSpec."""
        return self.kept.case.kernel.source_hash or ""

    # How it may be launched.

    def before(self, problem: Any) -> Config | None:
        """See KernelSpec: as launched, whatever the source asks for."""
        ran = self.kept.case.before
        options: dict[str, Any] = {name: ran.get(name) for name in OPTIONS if ran.get(name) is not None}
        made = NamedConfig(**{**self._own_constants(), **options})
        return None if made == self.baseline(problem) else made

    def baseline(self, problem: Any) -> Config:
        """See KernelSpec: 4 warps and 2 stages at Before's constants."""
        return self._config({}, SAFE_WARPS, SAFE_STAGES)

    def candidates(self, problem: Any, target: Target, space: SpaceName) -> tuple[Any, ...]:
        """See KernelSpec: Before, BASELINE, the program's own list, and what lies around Before; or the product."""
        baseline = self.baseline(problem)
        now = self.before(problem) or baseline
        found: list[Any] = [baseline, now]
        if space == "seed":
            found += [self._config({}, warps, stages) for warps in (4, 8) for stages in (2, 3)]
        else:
            found += [*self._proposals(), *self._also()]
            found += self._products() if space == "full" else self._around(now)
        return tuple(one for one in dict.fromkeys(found) if one in {baseline, now} or self._is_launchable(one))

    def listed(self, problem: Any) -> tuple[Any, ...]:
        """See KernelSpec: those of the program's own list that differ in knobs alone."""
        found = dict.fromkeys(self._proposals(as_written=True))
        return tuple(one for one in found if self._is_launchable(one))

    def neighbours(self, problem: Any, config: Any, target: Target) -> tuple[Any, ...]:
        """See KernelSpec: one knob a step up or down, and two that go together or against each other."""
        constants = {name: value for name, value in config.constants().items() if type(value) is int}
        warps, stages = config.num_warps, config.num_stages
        steps: list[tuple[dict[str, int], int, int]] = [({}, other, stages) for other in _beside(warps, WARPS)]
        if self._stages_vary():
            steps += [({}, warps, other) for other in _beside(stages, STAGES)]
        for name, value in constants.items():
            for other in self._values_beside(name, value):
                follows = warps * 2 if other > value else warps // 2
                steps.append(({name: other}, warps, stages))
                if follows in WARPS:
                    steps.append(({name: other}, follows, stages))
                steps += [
                    ({name: other, second: against}, warps, stages)
                    for second, at in constants.items()
                    if second != name
                    for against in self._values_beside(second, at)
                    if (against > at) != (other > value)
                ]
        made = (self._config({**constants, **changed}, w, s, config) for changed, w, s in steps)
        return tuple(one for one in dict.fromkeys(made) if one != config and self._is_launchable(one))

    def reject(self, config: Any, problem: Any, target: Target) -> Rejection | None:
        """See KernelSpec."""
        if self._placed(config) is None:
            return Rejection("grid", "what the program would launch with these constants is not known")
        baseline = self.baseline(problem)
        before = self.before(problem) or baseline
        if config not in {before, baseline}:
            a_thread = self._elements_a_thread(config)
            if a_thread > max(ELEMENTS_A_THREAD, 2 * self._elements_a_thread(before)):
                return Rejection("registers", f"a tile of {a_thread} elements a thread")
        return super().reject(config, problem, target)

    def launches(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> Sequence[Launch]:
        """See KernelSpec."""
        kept = self.kept
        placed = self._placed(config)
        if placed is None or placed.grid is None:
            raise CannotLaunchError("what the program would launch with these constants is not known")
        kernel = self.kernel(config)
        options = {**{name: value for name, value in kept.options.items() if name not in OPTIONS}, **config.options()}
        changed = self.arguments(config)
        constexprs = (
            {one.name for one in kernel.params if one.is_constexpr}
            if hasattr(kernel, "params")
            else set(kept.case.constants)
        )
        arguments: dict[str, Any] = {}
        constants: dict[str, Any] = {}
        for name, one in kept.arguments.items():
            if name in OPTIONS and name in constexprs:
                value = options.get(name)
            elif name in changed:
                value = changed[name]
            else:
                value = self._value(name, one, tensors)
            (constants if name in constexprs else arguments)[name] = value
        return (Launch(kernel, placed.grid, arguments, constants, options, by_jit=True),)

    def takes(self, config: Config) -> bool:
        """Whether it is known what the program would launch with a config that stands in a file."""
        return self._names.keys() >= config.constants().keys() and self._is_launchable(config)

    def kernel(self, config: Any) -> Any:
        """The kernel that a config is launched with. Raises CaptureError where it cannot be."""
        return load_kept_kernel(self.kept, self.folder)

    def arguments(self, config: Any) -> dict[str, Any]:
        """The constants of a config by the kernel's own names, and the arguments that follow them in the program.

        Of those that follow none where that is not known.
        """
        placed = self._placed(config)
        follow = placed.arguments if placed is not None else {}
        return {**follow, **{self._names[name]: value for name, value in config.constants().items()}}

    def _value(self, name: str, one: ArgumentKept, tensors: Mapping[str, Any]) -> Any:
        if isinstance(one, TensorKept):
            if one.block is None:
                return tensors[name]
            kind = PaddedDescriptor if one.padding == "nan" else TileDescriptor
            return kind(tensors[name], one.block, one.rounds)
        if isinstance(one, TupleKept):
            return tuple(self._value(f"{name}.{number}", item, tensors) for number, item in enumerate(one.items))
        return argument_of(one, self.folder, ())

    # Knobs.

    def _knobs(self) -> dict[str, tuple[int, ...]]:
        """The constants that vary, by their own names, with the values to begin with."""
        own = self.kept.constants()
        return {
            knob.name: tuple(value for value in knob.values if type(value) is int)
            for knob in self.kept.case.knobs
            if knob.varies and knob.name in own and knob.name not in OPTIONS
        }

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """A config's names of constants, with the kernel's own."""
        return {value_name(name): name for name in self._knobs()}

    def _own_constants(self) -> dict[str, int]:
        own = self.kept.constants()
        return {value_name(name): own[name] for name in self._knobs()}

    def _stages_vary(self) -> bool:
        return any(knob.name == "num_stages" and knob.varies for knob in self.kept.case.knobs)

    def _config(self, constants: Mapping[str, int], warps: int, stages: int, like: Any = None) -> NamedConfig:
        """Own constants but for these. Stages that make no difference are BASELINE's."""
        ran = self.kept.case.before
        ctas = like.num_ctas if like is not None else ran.get("num_ctas") or 1
        most = like.maxnreg if like is not None else ran.get("maxnreg")
        options: dict[str, Any] = {
            "num_ctas": ctas,
            "maxnreg": most,
            "num_stages": stages if self._stages_vary() else SAFE_STAGES,
        }
        return NamedConfig(**{**self._own_constants(), **constants, **options, "num_warps": warps})

    def _proposals(self, *, as_written: bool = False) -> Iterator[NamedConfig]:
        """The configs of the program's own list by their knobs; `as_written` with all options, idle stages too."""
        names = {own: name for name, own in self._names.items()}
        ran = self.kept.case.before
        for one in self.kept.proposals:
            constants = {names[name]: value for name, value in one.items() if name in names and type(value) is int}
            options = {name: one.get(name) or ran.get(name) for name in OPTIONS}
            warps, stages = options["num_warps"] or SAFE_WARPS, options["num_stages"] or SAFE_STAGES
            made = self._config(constants, int(warps), int(stages))
            rest = {"num_ctas": one.get("num_ctas") or 1, "maxnreg": one.get("maxnreg")}
            yield with_options(made, num_stages=int(stages), **rest) if as_written else made

    def _also(self) -> Iterator[NamedConfig]:
        own = self._own_constants().keys()
        for one in self.also:
            constants = {name: value for name, value in one.constants().items() if name in own and type(value) is int}
            yield self._config(constants, one.num_warps, one.num_stages)

    def _around(self, now: Config) -> Iterator[Config]:
        """Every pair of warps and stages at own constants, and each constant by itself with fewer and more warps."""
        stages = STAGES if self._stages_vary() else (SAFE_STAGES,)
        for warps in WARPS:
            for stage in stages:
                yield self._config({}, warps, stage)
        for name, values in self._knobs().items():
            for value in values:
                for warps in (now.num_warps, *_beside(now.num_warps, WARPS)):
                    yield self._config({value_name(name): value}, warps, now.num_stages)
        for option, values in (("num_ctas", (1, 2, 4)), ("maxnreg", (64, 96, 128, 168, 255))):
            if option in self.more:
                for value in values:
                    yield with_options(now, **{option: value})

    def _products(self) -> list[NamedConfig]:
        """Every combination of knobs, those of the fewest changes first, and no more than MOST_OF_A_PRODUCT."""
        own = self._own_constants()
        made: list[dict[str, int]] = [{}]
        for name, values in self._knobs().items():
            made = [{**one, value_name(name): value} for one in made for value in values]
        made.sort(key=lambda one: sum(own[name] != value for name, value in one.items()))
        stages = STAGES if self._stages_vary() else (SAFE_STAGES,)
        most = max(1, MOST_OF_A_PRODUCT // (len(WARPS) * len(stages)))
        return [self._config(one, warps, stage) for one in made[:most] for warps in WARPS for stage in stages]

    def _values_beside(self, name: str, value: int) -> Iterable[int]:
        """Half and twice a constant; for one that is no power of two, its neighbours in the program's list.

        A kernel that multiplies matrices stays at 16, which products take at least; any other one may go down to 1.
        """
        values = self._knobs()[self._names[name]]
        if value & (value - 1):
            return _beside(value, tuple(sorted(values)))
        work = self.kept.case.work
        least = 1 if work is not None and not work.multiplies else min(LEAST_FOR_DOT, *values)
        return [one for one in (value // 2, value * 2) if max(1, least) <= one <= max(65536, *values)]

    def _placed(self, config: Config) -> Any:
        names = self._names
        constants = {names[name]: value for name, value in config.constants().items() if name in names}
        return self.kept.at(constants)

    def _is_launchable(self, config: Config) -> bool:
        return self._placed(config) is not None

    def _elements_a_thread(self, config: Config) -> int:
        """Of the largest tile that two of the constants may span."""
        placed = self._placed(config)
        follow = self.kept.following(frozenset(self._knobs()))
        moved = {**self.kept.constants(), **(placed.arguments if placed is not None else {})}
        found = [*config.constants().values(), *(moved.get(name) for name in follow)]
        largest = sorted((value for value in found if type(value) is int), reverse=True)[:2]
        product = 1
        for value in largest:
            product *= value
        return product // (32 * config.num_warps)


def _beside(value: int, values: Sequence[int]) -> list[int]:
    """What comes right before and right after a value."""
    return [*[one for one in values if one < value][-1:], *[one for one in values if one > value][:1]]
