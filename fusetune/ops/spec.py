"""KernelSpec: what an op gives to be tuned. `sweep`, `report` and `gate` know an op through this alone."""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import math
import re
import textwrap
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from fusetune.core.config import Config
from fusetune.core.near import did_you_mean
from fusetune.core.problem import Dtype, Problem
from fusetune.core.space import Space
from fusetune.core.target import Target
from fusetune.core.text import OP_NAME
from fusetune.errors import FusetuneError, UsageError
from fusetune.ops.device import NO_GPU, Gpu

if TYPE_CHECKING:
    import torch

Role = Literal["input", "output", "state", "counter"]

BUILT_IN_OPS: dict[str, str] = {
    "gemm_scale": "fusetune.ops.gemm_scale.linear_scale:SPEC",
    "gemm_scale_bn": "fusetune.ops.gemm_scale.batch_norm:SPEC",
}
ENTRY_POINT_GROUP = "fusetune.ops"
_NO_ROOM = "failed to map segment"
"""The dynamic linker's words where there is too little memory for a library."""
_TFLOAT32 = 11
"""CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 of the CUDA driver."""


@dataclass(frozen=True)
class Operand:
    """One tensor of an op: its shape, its dtype, and for an input the spread of its random values.

    Inputs are drawn from a normal distribution with this mean and standard deviation. A state is an input that the op
    changes in place, such as running statistics. A counter is scratch that is all zeros before a launch, and again
    after it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype | Literal["int32"]
    role: Role = "input"
    mean: float = 0.0
    std: float = 1.0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def allocate(self, device: Any) -> torch.Tensor:
        """A tensor for launches to write to: whatever was there before, or zeros for a counter."""
        import torch

        make = torch.zeros if self.role == "counter" else torch.empty
        return make(self.shape, dtype=getattr(torch, self.dtype), device=device)


@dataclass(frozen=True)
class AbstractTensor:
    """A contiguous, 16-byte aligned tensor that is not there: enough of one to compile for."""

    shape: tuple[int, ...]
    dtype: Dtype | Literal["int32", "int64"]
    gpu: Gpu = NO_GPU

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
    """One kernel launch: the @triton.jit function, its grid, run-time arguments, constexprs and compiler options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

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


@runtime_checkable
class KernelSpec(Protocol):
    """An op that can be tuned. The built-in ops and a user's own implement the same."""

    name: str
    space: Space
    """Tunable parameters and their values."""
    dtypes: tuple[str, ...]
    modes: tuple[str | None, ...]
    staged_loads: int
    """Loads inside the pipelined loop, which num_stages multiplies; those before and after it do not count."""

    def operands(self, problem: Problem) -> tuple[Operand, ...]:
        """Inputs and outputs, in the op's own order."""

    def workspace(self, problem: Problem, config: Config) -> tuple[Operand, ...]:
        """Scratch tensors that the launches of this config need beside the operands; often none."""

    def constants(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tensors by name that this config wants made of the op's inputs once, and anew when those change; often none.

        Computed by PyTorch, of real tensors, and kept outside the time of a launch: weights with a scale folded in.
        The compiler has none of them.
        """

    def references(self, problem: Problem) -> tuple[Config, ...]:
        """What a library offers for this problem, to be timed beside the candidates; often none.

        Their variants begin with `library`. One is chosen on request only.
        """

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Launch | Call]:
        """The launches that compute the op; `tensors` holds real or abstract ones by name of operand or workspace.

        Real ones include the `constants`.

        Must not look at values and must not import torch: it also serves the compiler, where there are no tensors.
        """

    def reference(self, problem: Problem, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs by name, computed by PyTorch in float64 on the inputs' device."""

    def tolerance(self, problem: Problem) -> Tolerance:
        """How far a right result may lie from the reference."""

    def flops(self, problem: Problem) -> float:
        """Floating-point operations that the op needs."""

    def bytes(self, problem: Problem) -> float:
        """Fewest bytes through device memory: each input read once, each output written once."""

    def deterministic(self, config: Config) -> bool:
        """Whether two runs give bit-identical results."""

    def source_hash(self, variant: str | None = None) -> str:
        """Changes when the code of a variant's kernels does, or of any; an entry tuned for another hash is not used."""


_given: dict[str, KernelSpec] = {}
"""By their own names: what `load_spec` has loaded of what a user gave as `module:attribute` in this process."""


@runtime_checkable
class TellsUnlaunchable(Protocol):
    """What a KernelSpec may have besides: it is then asked before a config from a file is used."""

    def unlaunchable(self, problem: Problem, config: Config) -> str | None:
        """Why the op cannot launch a config for a problem on any GPU, in half a sentence; None where it can."""


def why_unlaunchable(spec: KernelSpec, problem: Problem, config: Config) -> str | None:
    """What the op has against a config from a file; None where it has nothing, or does not tell."""
    return spec.unlaunchable(problem, config) if isinstance(spec, TellsUnlaunchable) else None


def load_spec(op: str) -> KernelSpec:
    """The KernelSpec of an op that a user asks for: one with a name, as `spec_named` finds it, or `module:attribute`.

    It imports what it is told to, so that it is for a command line or a caller, never for what stands in a file: those
    name ops, and `spec_named` knows them. Raises UsageError where there is no such op, or what is there is no
    KernelSpec.
    """
    if ":" not in op:
        return spec_named(op)
    spec = _imported(op, op)
    if not re.match(OP_NAME, str(spec.name)):
        raise UsageError(
            f"op {op!r}: its name is {str(spec.name)[:100]!r}, and has to be lower-case letters, digits and "
            "underscores, a letter first: files are called by it"
        )
    _given[spec.name] = spec
    return spec


def spec_named(op: str) -> KernelSpec:
    """The KernelSpec of an op by its name alone: built in, loaded by `load_spec` before, or of an installed plug-in.

    Whatever the name is, it chooses among these: data that names a module imports none. Raises UsageError where there
    is no such op, or what the plug-in's entry point in the group `fusetune.ops` leads to is no KernelSpec.
    """
    if op in BUILT_IN_OPS:
        return _imported(op, BUILT_IN_OPS[op])
    if op in _given:
        return _given[op]
    plugins = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    if op not in plugins:
        known = ", ".join(sorted({**plugins, **BUILT_IN_OPS}))
        near = did_you_mean(op, {**plugins, **BUILT_IN_OPS})
        raise UsageError(
            f"op {op[:100]!r} is not known; use one of: {known}, or module:attribute of your own KernelSpec{near}"
        )
    return _imported(op, plugins[op])


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
        raise UsageError(f"op {op!r}: {reference} is not a KernelSpec; see fusetune/ops/spec.py for what it must have")
    return spec


def abstract_tensors(
    spec: KernelSpec, problem: Problem, config: Config, target: Target | None = None
) -> dict[str, AbstractTensor]:
    """The op's operands and the config's workspace as tensors that are not there, on a GPU that is not either."""
    gpu = NO_GPU if target is None else Gpu(target.sm, target.sms)
    wanted = (*spec.operands(problem), *spec.workspace(problem, config))
    return {operand.name: AbstractTensor(operand.shape, operand.dtype, gpu) for operand in wanted}


def hash_kernels(*kernels: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the kernels' code, blind to comments, blank lines and indentation width."""
    digest = hashlib.sha256()
    for kernel in kernels:
        source = textwrap.dedent(inspect.getsource(getattr(kernel, "fn", kernel)))
        digest.update("\x1f".join(_code_tokens(source)).encode())
    return digest.hexdigest()[:16]


def _code_tokens(source: str) -> list[str]:
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
    structure = {tokenize.INDENT: "<indent>", tokenize.DEDENT: "<dedent>", tokenize.NEWLINE: "<newline>"}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [structure.get(token.type, token.string) for token in tokens if token.type not in skipped]
