"""Launches of a compiled kernel past Triton's JIT: device pointers in, nothing looked up again.

`kernel[grid](...)` binds, specializes and hashes some forty arguments at every call. A DirectLaunch did that once and
calls the C function underneath, which is Triton's own and private: its arguments are known for the versions in
`_LAYOUTS`. For any other version `direct_launch` has no answer, and `kernel[grid]` is the way.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fusetune.ops.spec import Launch, TileDescriptor

MOST_TENSOR_MAPS: Final = 64
"""Addresses for which a descriptor is kept; an allocator hands the same few out again and again."""
_TFLOAT32: Final = 11
"""CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 of the CUDA driver."""


class Firing(NamedTuple):
    """The C function that launches a compiled kernel, and what it takes between the stream and the kernel's arguments.

    It is called with the grid, the stream, `after`, and the arguments: `in_a_row`, or else as one sequence. A constant
    has a place among the arguments, and what stands there is not read.
    """

    launch: Callable[..., None]
    after: tuple[Any, ...]
    in_a_row: bool


class DirectLaunch(ABC):
    """One kernel with a grid and all arguments but those in `sources`, which each call brings along.

    `sources` names the arguments that change, each with its place in the `values` of a call: a device pointer for a
    tensor or a descriptor, a number for a scalar. Pointers must be aligned as those of the launch it was made from.
    A pointer argument that is not in `sources` is one that the kernel does not follow.
    """

    def __init__(self, launch: Launch, compiled: Any, sources: Mapping[str, int]) -> None:
        from triton import knobs

        compiled._init_handles()
        self.compiled, self._knobs = compiled, knobs.runtime
        self._grid = (*launch.grid, 1, 1)[:3]
        everything = {**launch.arguments, **launch.constants}
        metas = iter(getattr(compiled.metadata, "tensordesc_meta", None) or ())
        self._arguments: list[Any] = []
        slots: list[tuple[int, int]] = []
        maps: list[tuple[int, int, _TensorMaps]] = []
        for name in launch.kernel.arg_names:
            value = everything[name]
            if isinstance(value, TileDescriptor):
                maps.append((len(self._arguments), sources[name], _TensorMaps(value, next(metas))))
                self._arguments += [None, *value.tensor.shape, *value.tensor.stride()]
                continue
            if name in sources:
                slots.append((len(self._arguments), sources[name]))
            self._arguments.append(None if hasattr(value, "data_ptr") else value)
        self._slots, self._maps = tuple(slots), tuple(maps)
        self._finish()

    @classmethod
    @abstractmethod
    def firing(cls, compiled: Any) -> Firing:
        """The C function for a compiled kernel that is loaded, without hooks and scratch memory."""

    @abstractmethod
    def _finish(self) -> None:
        """Get hold of the C function and of what it takes beside the kernel's arguments."""

    def __call__(self, stream: int, values: Sequence[Any]) -> None:
        """Launch on a stream, given as the driver's handle; the device of the launch has to be the current one."""
        arguments = self._arguments.copy()
        for place, source in self._slots:
            arguments[place] = values[source]
        for place, source, maps in self._maps:
            arguments[place] = maps[values[source]]
        self._fire(stream, arguments)

    @abstractmethod
    def _fire(self, stream: int, arguments: list[Any]) -> None:
        """Call the C function."""


class _FlatLaunch(DirectLaunch):
    """Triton 3.6: a C function of each signature's own, which takes everything in one row."""

    _BEFORE: Final = 13
    """Arguments ahead of the kernel's own."""

    @classmethod
    def firing(cls, compiled: Any) -> Firing:
        """See DirectLaunch."""
        launcher = compiled.run
        flags = (launcher.launch_cooperative_grid, launcher.launch_pdl)
        after = (compiled.function, *flags, None, None, compiled.packed_metadata, *_NO_HOOKS)
        return Firing(launcher.launch, after, in_a_row=True)

    def _finish(self) -> None:
        self._launch, after, _ = self.firing(self.compiled)
        if self._maps:  # within what would make the descriptors anew
            self._launch = inspect.getclosurevars(self._launch).nonlocals["launcher"]
        self._arguments = [*self._grid, None, *after, *self._arguments]
        self._slots = tuple((place + self._BEFORE, source) for place, source in self._slots)
        self._maps = tuple((place + self._BEFORE, source, maps) for place, source, maps in self._maps)

    def _fire(self, stream: int, arguments: list[Any]) -> None:
        arguments[3] = stream
        if _is_heard(self._knobs.launch_enter_hook) or _is_heard(self._knobs.launch_exit_hook):
            arguments[10:13] = _hooks(self.compiled, self._grid, stream)
        self._launch(*arguments)


class _SplitLaunch(DirectLaunch):
    """Triton 3.7 to 3.9: one C function for all, with the kernel's arguments in a list of their own."""

    @classmethod
    def firing(cls, compiled: Any) -> Firing:
        """See DirectLaunch."""
        import triton

        launcher = compiled.run
        if getattr(launcher, "gsan_enabled", False):
            raise AttributeError("the sanitizer adds arguments of its own")
        flags = (launcher.launch_cooperative_grid, launcher.launch_pdl)
        types = (None, None, launcher.arg_annotations, launcher.kernel_signature)
        after = (compiled.function, *flags, compiled.packed_metadata, *_NO_HOOKS, *types)
        return Firing(triton.runtime.driver.active.utils.launch, after, in_a_row=False)

    def _finish(self) -> None:
        self._launch, after, _ = self.firing(self.compiled)
        self._after, self._types = after[:4], after[7:]

    def _fire(self, stream: int, arguments: list[Any]) -> None:
        hooks = _NO_HOOKS
        if _is_heard(self._knobs.launch_enter_hook) or _is_heard(self._knobs.launch_exit_hook):
            hooks = _hooks(self.compiled, self._grid, stream)
        self._launch(*self._grid, stream, *self._after, *hooks, *self._types, arguments)


_NO_HOOKS: Final = (None, None, None)
_LAYOUTS: Final[dict[tuple[int, int], type[DirectLaunch]]] = {
    (3, 6): _FlatLaunch,
    (3, 7): _SplitLaunch,
    (3, 8): _SplitLaunch,
    (3, 9): _SplitLaunch,
}
"""By Triton's version, as read in its backends/nvidia/driver.py and driver.c."""


def load(compiled: Any) -> None:
    """Load a CompiledKernel on the current device, where Triton would at its first launch.

    Raises Triton's OutOfResources where it takes more of the GPU than there is, at every time that it is asked.
    """
    initialize = getattr(compiled, "_init_handles", None)  # private, and of any version so far
    if initialize is not None:
        initialize()


def direct_launch(launch: Launch, sources: Mapping[str, int]) -> DirectLaunch | None:
    """A DirectLaunch of what `launch` describes, compiled and loaded on the current device.

    None where this Triton, its backend or the kernel is not one that can be launched directly.
    """
    layout = _layout()
    if layout is None:
        return None
    compiled = launch.compiled()
    if not _is_plain(compiled):
        return None
    try:
        return layout(launch, compiled, sources)
    except (AttributeError, KeyError, StopIteration):  # a patch release, or an architecture, that differs inside
        return None


def firing_of(compiled: Any) -> Firing | None:
    """What launches a CompiledKernel, which is loaded on the current device, past Triton's JIT.

    None where this Triton, its backend or the kernel is not one that can be launched directly.
    """
    layout = _layout()
    if layout is None or not _is_plain(compiled) or getattr(compiled.metadata, "tensordesc_meta", None):
        return None
    try:
        load(compiled)
        return layout.firing(compiled)
    except (AttributeError, KeyError):  # as in `direct_launch`
        return None


def _is_plain(compiled: Any) -> bool:
    """Whether a launch takes no memory of its own."""
    metadata = compiled.metadata
    return bool(
        metadata.target.backend == "cuda" and not metadata.global_scratch_size and not metadata.profile_scratch_size
    )


@functools.cache
def _layout() -> type[DirectLaunch] | None:
    import triton

    major, minor = triton.__version__.split(".")[:2]
    return _LAYOUTS.get((int(major), int(minor)))


def _is_heard(hook: Any) -> bool:
    """Whether somebody, as Proton, listens to this hook of each launch: a chain of them, which may be empty, or one."""
    return hook is not None and bool(getattr(hook, "calls", True))


def _hooks(compiled: Any, grid: tuple[int, ...], stream: int) -> tuple[Any, Any, Any]:
    """What a launch tells its hooks, and these."""
    from triton import knobs

    runtime = knobs.runtime
    return compiled.launch_metadata(grid, stream), runtime.launch_enter_hook, runtime.launch_exit_hook


class _TensorMaps(dict[int, Any]):
    """The copy engine's descriptor (CUtensorMap) of a tensor by its address: shape, strides and tile are the launch's.

    A descriptor holds an address and owns nothing, so that one serves whatever tensor lies there.
    """

    def __init__(self, descriptor: TileDescriptor, meta: Mapping[str, Any]) -> None:
        super().__init__()
        self._encode = _encoder(descriptor, meta)

    def __missing__(self, pointer: int) -> Any:
        if len(self) >= MOST_TENSOR_MAPS:
            self.clear()
        try:
            made = self._encode(pointer)
        except RuntimeError as error:
            if "invalid device context" not in str(error):
                raise
            _make_context_current()
            made = self._encode(pointer)
        self[pointer] = made
        return made


def _make_context_current() -> None:
    """For a thread that has asked nothing of CUDA yet: encoding needs a context, and does not see to it itself."""
    import torch

    torch.cuda.mem_get_info()  # of what the runtime answers, that which neither waits nor disturbs a capture


def _encoder(descriptor: TileDescriptor, meta: Mapping[str, Any]) -> Callable[[int], Any]:
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime import driver

    utils = driver.active.utils
    fill = getattr(utils, "fill_tma_descriptor_tiled", None) or utils.fill_tma_descriptor
    element = meta["elem_type"]
    rounds = descriptor.rounds or element == _TFLOAT32
    element = _TFLOAT32 if rounds else nvidia.TMA_DTYPE_DEVICE_TO_HOST[element]
    swizzle, size, block = meta["swizzle"], meta["elem_size"], meta["block_size"]
    shape, strides = list(descriptor.tensor.shape), list(descriptor.tensor.stride())
    if meta["fp4_padded"]:
        raise AttributeError("padded descriptors are none of ours")
    return lambda pointer: fill(pointer, swizzle, size, element, block, shape, strides, 0)
