"""KernelSpec: what an op gives to be tuned. Everything above knows an op through this alone."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from fusetune.core.bound import Bound, bound_by
from fusetune.core.config import OPTIONS, SAFE_STAGES, SAFE_WARPS, Config, with_options
from fusetune.core.config_text import parse_named_config
from fusetune.core.dtypes import ELEMENT_TYPES, dtype_name, element_type
from fusetune.core.estimate import Estimate
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.roofline import roofline
from fusetune.core.space import SPACE_NAMES, Rejection, Space, SpaceName
from fusetune.core.target import Target
from fusetune.errors import FusetuneError, OpError, UnsupportedProblemError, UsageError
from fusetune.ops.device import NO_GPU, Gpu
from fusetune.ops.hashing import hash_kernels, kernels_named_by
from fusetune.ops.told import TOLD_BY_NAME, naming, told_by_name
from fusetune.ops.types import NAMED, OpTypes

if TYPE_CHECKING:
    import torch

Role = Literal["input", "output", "state", "counter"]

_TFLOAT32 = 11
"""CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 of the CUDA driver."""


@dataclass(frozen=True)
class Operand:
    """One tensor of an op: its shape, its dtype, and for an input the spread of its random values.

    The dtype has PyTorch's name, or another that people have for it, as fp16; it is kept by PyTorch's.
    Inputs are drawn from a normal distribution with this mean and standard deviation. A state is an input that the op
    changes in place, such as running statistics. A counter is scratch that is all zeros before a launch, and again
    after it. `aligned`: it begins on 16 bytes, as all that torch allocates does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = "input"
    mean: float = 0.0
    std: float = 1.0
    aligned: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.dtype, str) and self.dtype not in ELEMENT_TYPES:  # What is none is told by the checks.
            object.__setattr__(self, "dtype", dtype_name(self.dtype))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_drawn(self) -> bool:
        """Whether its values are random numbers: of a dtype that a normal distribution can be drawn in."""
        return self.dtype in {"float64", "float32", "float16", "bfloat16"}

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements."""
        return self.numel * element_type(self.dtype).size_bytes

    def allocate(self, device: Any) -> torch.Tensor:
        """A tensor for launches to write to: whatever was there before, or zeros for a counter."""
        import torch

        make = torch.zeros if self.role == "counter" else torch.empty
        return make(self.shape, dtype=getattr(torch, self.dtype), device=device)

    def draw(self, tensor: torch.Tensor, generator: torch.Generator) -> None:
        """Fill a tensor of this operand with random values, in place.

        Whole numbers are those of the distribution, rounded down; narrow floats come by way of float32.
        """
        import torch

        if self.is_drawn:
            tensor.normal_(self.mean, self.std, generator=generator)
            return
        drawn = tensor.new_empty(self.shape, dtype=torch.float32).normal_(self.mean, self.std, generator=generator)
        tensor.copy_(drawn if tensor.dtype.is_floating_point else drawn.floor())


@dataclass(frozen=True)
class AbstractTensor:
    """A contiguous tensor that is not there: enough of one to compile for. `aligned`: it begins on 16 bytes."""

    shape: tuple[int, ...]
    dtype: str
    gpu: Gpu = NO_GPU
    aligned: bool = True

    def stride(self) -> tuple[int, ...]:
        """Strides in elements, innermost last."""
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))


@dataclass(frozen=True)
class TileDescriptor:
    """An argument that the copy engine (TMA) reads or writes tiles of a tensor through.

    With `rounds` it rounds float32 to the nearest TF32 value on the way, for tensor cores that would cut bits off.
    """

    tensor: Any
    block_shape: tuple[int, ...]
    rounds: bool = False

    def made(self) -> Any:
        """Triton's own host-side descriptor of a real tensor."""
        from triton.tools.tensor_descriptor import TensorDescriptor

        block = list(self.block_shape)
        if self.rounds and rounds_in_descriptor():
            return TensorDescriptor.from_tensor(self.tensor, block, round_f32_to_tf32=True)
        return TensorDescriptor.from_tensor(self.tensor, block)


@functools.cache
def rounds_in_descriptor() -> bool:
    """Whether a host-side descriptor can ask for rounding, as since Triton 3.7; before, `round_in_copies` does it."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return "round_f32_to_tf32" in inspect.signature(TensorDescriptor).parameters


def round_in_copies(compiled: Any, descriptors: Sequence[TileDescriptor]) -> None:
    """Have a compiled kernel's copies round those of its descriptors that want it, in order of its arguments.

    Triton 3.6 encodes each descriptor for the driver with the element type in the kernel's metadata, where the driver's
    CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 is as good as FLOAT32.
    """
    for described, descriptor in zip(compiled.metadata.tensordesc_meta, descriptors, strict=True):
        if descriptor.rounds:
            described["elem_type"] = _TFLOAT32


_rounding: set[tuple[Any, ...]] = set()
"""What `round_in_copies` has been done for in this process."""
_MOST_ROUNDING = 4096
"""So many, sizes being among them; it does no harm to do it twice."""


@dataclass(frozen=True)
class Call:
    """A launch of somebody else's: a library function that runs on the current stream and writes where it is told."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]

    def run(self) -> None:
        """Call it."""
        self.function(**self.arguments)


@dataclass(frozen=True)
class Launch:
    """One kernel launch: the @triton.jit function, its grid, run-time arguments, constexprs and compiler options.

    `by_jit`: the compiler has Triton's own JIT say how arguments are specialized, for kernels of any form.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    by_jit: bool = False

    def run(self) -> Any:
        """Launch on the current stream through Triton's JIT; returns the CompiledKernel."""
        return self.kernel[self.grid](**self._prepared())

    def compiled(self) -> Any:
        """The CompiledKernel that `run` launches on the current device, not launched; compiled where it has to be."""
        return self.kernel.warmup(grid=self.grid, **self._prepared())

    def _prepared(self) -> dict[str, Any]:
        """All that Triton's JIT takes by name."""
        descriptors = [value for value in self.arguments.values() if isinstance(value, TileDescriptor)]
        arguments = {
            name: value.made() if isinstance(value, TileDescriptor) else value for name, value in self.arguments.items()
        }
        everything = {**arguments, **self.constants, **self.options}
        if any(descriptor.rounds for descriptor in descriptors) and not rounds_in_descriptor():
            told = self._told()
            if told not in _rounding:
                if len(_rounding) >= _MOST_ROUNDING:
                    _rounding.clear()
                round_in_copies(self.kernel.warmup(grid=self.grid, **everything), descriptors)
                _rounding.add(told)
        return everything

    def _told(self) -> tuple[Any, ...]:
        """All that Triton's JIT tells compiled kernels apart by, and more."""

        def of(value: Any) -> Any:
            if isinstance(value, TileDescriptor):
                return value.block_shape, value.tensor.dtype, value.tensor.device
            return (value.dtype, value.data_ptr() % 16) if hasattr(value, "data_ptr") else value

        return (self.kernel, *map(of, self.arguments.values()), *self.constants.values(), *self.options.values())


@dataclass(frozen=True)
class Tolerance:
    """How far from the float64 reference a right result may lie.

    `frobenius` bounds ||out - ref|| / ||ref||, `maximum` bounds max |out - ref| / rms(ref): the first sees an error
    spread over everything, the second a single wrong element.
    """

    frobenius: float
    maximum: float


class KernelSpec:
    """An op that can be tuned, as everything above it knows it.

    The smallest one has four members: `name`, `operands`, `launches` and `reference`. All else has a default here. An
    op with tiles gives its `space`; one whose problems and configs have types of their own gives `types`.
    """

    name: str
    space: Any = Space({})
    """Tunable parameters and their values; warps and stages that it does not name take core's own."""
    types: OpTypes = NAMED
    staged_loads: int = 0
    """Loads inside the pipelined loop, which num_stages multiplies; those before and after it do not count."""
    stages_matter: bool = True
    """Whether num_stages makes a difference to what is compiled."""
    rejects_spills: bool = True
    """Whether a config that spills registers to local memory is left out; where it is not, its Resources tell."""
    kernel_place: tuple[str, str] | None = None
    """Of a kernel of somebody's program: `module:qualname` and the file that it stands in, as files of configs say."""
    warmed_by: str | None = None
    """`module:function` that makes a problem ready for those who call the op; None: what it launches is compiled."""
    rejections: Mapping[str, str] = {}
    """What the op's own reasons of rejection mean, in words that go on from `it`; a report tells them."""
    exported_by: str | None = None
    """`module:function` that writes this op as a standalone module (see cli/export.py); None where nothing does."""

    def __init_subclass__(cls, **rest: Any) -> None:
        """Have what an op's own members raise told with the op's and the member's name."""
        super().__init_subclass__(**rest)
        for name in TOLD_BY_NAME & vars(cls).keys():
            setattr(cls, name, told_by_name(vars(cls)[name]))

    # What the op computes.

    def problem(self, values: Mapping[str, Any]) -> Problem:
        """The problem of these named values. Raises UnsupportedProblemError for values that the op does not compute."""
        return self.types.make(values)

    def check(self, problem: Any) -> None:
        """Raise UnsupportedProblemError where the op does not compute this."""
        self.operands(problem)

    def examples(self) -> tuple[Any, ...]:
        """Problems to try the op at where nobody asks for one: the first short, the last long; by default none.

        Between them they are to reach every kernel and every form of the op, as `fusetune doctor --kernels` tries them.
        """
        return ()

    def operands(self, problem: Any) -> tuple[Operand, ...]:
        """Inputs and outputs, in the op's own order."""
        raise NotImplementedError

    def reference(self, problem: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs by name, computed by PyTorch in float64 on the inputs' device."""
        raise NotImplementedError

    def tolerance(self, problem: Any) -> Tolerance:
        """How far a right result may lie from the reference: by default what rounding its outputs explains."""
        written = [operand for operand in self.operands(problem) if operand.role in {"output", "state"}]
        frobenius = max((_ROUNDING.get(operand.dtype, 0.0) for operand in written), default=0.0)
        return Tolerance(frobenius=frobenius, maximum=40 * frobenius)

    def kind(self, problem: Any) -> str | None:
        """Which peak of a Target its operations go by (core/peaks.py); None where none of them is meant."""
        return None

    def flops(self, problem: Any) -> float:
        """Floating-point operations that the op needs; 0 where nobody counted, and the roofline is that of bytes."""
        return 0.0

    def bytes(self, problem: Any) -> float:
        """Fewest bytes through device memory: each input read once, each output written once, a state both."""
        return float(sum(one.size_bytes * (2 if one.role == "state" else 1) for one in self.operands(problem)))

    def bound(self, problem: Any, target: Target) -> Bound:
        """Whether arithmetic or memory limits it on a target: by default the higher wall of its roofline.

        Where the table of targets lacks a peak, arithmetic may: what helps it is then among what is tried.
        """
        try:
            return bound_by(roofline(self.flops(problem), self.bytes(problem), self.kind(problem), target))
        except OpError:
            raise
        except UsageError as error:
            return Bound(compute=True, why=str(error))

    # How it may be launched.

    def launches(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> Sequence[Launch | Call]:
        """The launches that compute the op; `tensors` holds real or abstract ones by name of operand or workspace.

        Real ones include the `constants`.

        Must not look at values and must not import torch: it also serves the compiler, where there are no tensors.
        """
        raise NotImplementedError

    def main_launch(self, problem: Any, config: Any) -> int:
        """Which of a config's launches of kernels its tile, warps and stages are of: by default the first.

        Another one where kernels come ahead that prepare for it.
        """
        return 0

    def baseline(self, problem: Any) -> Config:
        """4 warps and 2 stages at the op's own tile: by default the first value of each constant of the space."""
        first = {name: values[0] for name, values in self.space.values.items() if name not in OPTIONS}
        return self.types.config.from_builtins({**first, "num_warps": SAFE_WARPS, "num_stages": SAFE_STAGES})

    def before(self, problem: Any) -> Config | None:
        """The config that the program runs today, which all are then held against; None where that is BASELINE."""
        return None

    def candidates(self, problem: Any, target: Target, space: SpaceName) -> tuple[Any, ...]:
        """The configs of a space by its name, BASELINE first. Raises UsageError for a name that is none."""
        baseline = self.baseline(problem)
        if space == "seed":
            others = tuple(with_options(baseline, num_warps=w, num_stages=s) for w in (4, 8) for s in (2, 3))
        elif space in SPACE_NAMES:
            others = self.space.configs()
        else:
            raise UsageError(f"space {space!r} is not known; use one of {', '.join(SPACE_NAMES)}")
        return tuple(dict.fromkeys((baseline, *others)))

    def neighbours(self, problem: Any, config: Any, target: Target) -> tuple[Any, ...]:
        """Further candidates around one that does well, the most promising first; often there are none."""
        return ()

    def listed(self, problem: Any) -> tuple[Any, ...]:
        """The configs that an autotuner of the program's own tries, in its order; often there is none."""
        return ()

    def reject(self, config: Any, problem: Any, target: Target) -> Rejection | None:
        """Why this config cannot run or cannot win on this target, from its numbers alone; None lets it through."""
        if config.num_warps * _WARP > _MOST_THREADS:
            return Rejection("threads", f"{config.num_warps * _WARP} threads a CTA, {_MOST_THREADS} are the most")
        return None

    def may_spill(self, problem: Any, config: Any) -> bool:
        """Whether a config is tried although it spills: what all are held against is, or any of this op."""
        return not self.rejects_spills or config in (self.before(problem), self.baseline(problem))

    def estimate(
        self, config: Any, problem: Any, target: Target, resources: Resources | None = None
    ) -> Estimate | None:
        """The cost model's prediction, from real Resources or from a guess at them; None where there is no model.

        Raises UsageError where the table of targets lacks a figure that it needs.
        """
        return None

    def parse_config(self, text: str) -> Config:
        """A config as a person writes it: `BLOCK=1024 w4 s2`. Raises UsageError for anything else."""
        return parse_named_config(text)

    def unlaunchable(self, problem: Any, config: Any) -> str | None:
        """Why a config cannot be launched for a problem on any GPU, in half a sentence; None where nothing is known.

        Asked before a config that stands in a file is used.
        """
        return None

    def check_config(self, problem: Any, config: Any, target: Target | None = None) -> None:
        """Raise UnsupportedProblemError where the op launches nothing of a config that somebody typed."""
        try:
            with naming(self, "launches"):
                self.launches(problem, config, abstract_tensors(self, problem, config, target))
        except FusetuneError as error:
            raise UnsupportedProblemError(f"{self.name} does not launch {config.label()}: {error}") from error

    def own_data(self, problem: Any, seed: int, device: Any) -> Any:
        """Tensors of its own to be checked and timed on (measure/own_data.py), in the place of drawn ones.

        None, as here, has inputs drawn by `operands`, and results compared with `reference`.
        """
        return None

    def references(self, problem: Any) -> tuple[Any, ...]:
        """What a library offers for this problem, to be timed beside the candidates; often none.

        Each `is_library`. One is chosen on request only.
        """
        return ()

    def workspace(self, problem: Any, config: Any) -> tuple[Operand, ...]:
        """Scratch tensors that the launches of this config need beside the operands; often none."""
        return ()

    def constants(self, problem: Any, config: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tensors by name that this config wants made of the op's inputs once, and anew when those change; often none.

        Computed by PyTorch, of real tensors, and kept outside the time of a launch: weights with a scale folded in.
        The compiler has none of them.
        """
        return {}

    def signature(self, problem: Any, config: Any) -> Hashable:
        """What tells apart configs whose launches differ in the types of their arguments; often nothing does."""
        return None

    def twins(self, problem: Any, config: Any) -> Hashable:
        """What configs share that the cost model is wrong about alike, such as those of one tile in another order.

        Where one of them was timed it tells more of the others than the rest of the space does. By default each is
        alone.
        """
        alone: Hashable = config
        return alone

    def deterministic(self, config: Any) -> bool:
        """Whether two runs give bit-identical results."""
        return True

    def source_hash(self, config: Any = None) -> str:
        """Changes when the code of a config's kernels does, or of any; an entry tuned for another hash is not used.

        By default that of every kernel that the code of `launches` names, and of the functions that these call.
        """
        return hash_kernels(*kernels_named_by(type(self).launches))


_ROUNDING: Final[Mapping[str, float]] = {
    "float64": 1e-12,
    "float32": 1e-5,
    "float16": 1.5e-3,
    "bfloat16": 1.2e-2,
    "float8_e4m3fn": 0.1,
    "float8_e5m2": 0.2,
}
"""About three times what rounding to a dtype errs by, and for float32 what summing some thousand values does."""
_WARP: Final = 32
_MOST_THREADS: Final = 1024
"""Of a CTA, on every GPU (CUDA C++ Programming Guide, technical specifications)."""


def abstract_tensors(
    spec: KernelSpec, problem: Problem, config: Config, target: Target | None = None
) -> dict[str, AbstractTensor]:
    """The op's operands and the config's workspace as tensors that are not there, on a GPU that is not either."""
    gpu = NO_GPU if target is None else Gpu(target.sm, target.sms)
    wanted = (*spec.operands(problem), *spec.workspace(problem, config))
    return {one.name: AbstractTensor(one.shape, one.dtype, gpu, one.aligned) for one in wanted}
