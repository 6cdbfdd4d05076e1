"""Triton without a GPU: a launch is compiled for a Target and not made. Only a process that captures imports this.

Private parts, each as in Triton 3.6 to 3.9: `driver._active` and `_default`; `JITFunction.run`, whose `warmup=True`
ends behind the compiler, and `device_caches`; what a launcher is given before the hook; `Autotuner._bench`, `nargs`,
`cache`, `perf_model` and `check_disk_cache`; `CompiledKernel._init_handles`, which asks the driver's
`utils`; the cache of `max_shared_mem`.
"""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import triton
import triton.testing
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler import compiler as triton_compiler
from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.errors import OutOfResources, PTXASError
from triton.runtime.jit import JITFunction

from fusetune.capture.cuda_stand_in import DEVICE, ELAPSED_MS, nothing
from fusetune.capture.patching import Patches
from fusetune.compiler.build import resources_of_cubin
from fusetune.core.target import Target
from fusetune.errors import UsageError

_TENSOR_MEMORY_COLUMNS = 512


class _Utils:
    """What Triton asks of CUDA itself."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def get_device_properties(self, _device: int) -> dict[str, int]:
        """The Target's figures under Triton's names; clocks in kHz, the memory's width in bits."""
        target = self._target
        clock_khz, width = 10_000_000, 256
        return {
            "max_shared_mem": target.shared_bytes_per_cta,
            "max_num_regs": target.registers_per_sm,
            "multiprocessor_count": target.sms,
            "warpSize": 32,
            "sm_clock_rate": int((target.boost_mhz or 0) * 1000),
            # Triton makes bandwidth of these two: 2 * clock * width / 8.
            "mem_clock_rate": int((target.dram_gb_s or 640) * 1e6 * 8 / 2 / width) or clock_khz,
            "mem_bus_width": width,
        }

    def load_binary(self, _name: str, cubin: bytes, shared: int, _device: int) -> tuple[int, int, int, int, int]:
        """No module and no function; registers, spilled words, and the most threads that the registers allow."""
        resources = resources_of_cubin(cubin, shared)
        a_warp = -(-max(resources.registers, 1) * 32 // 256) * 256
        return 0, 0, resources.registers, resources.stack_bytes // 4, min(1024, 32 * (65536 // a_warp))

    unload_module = set_printf_fifo_size = nothing

    def fill_tma_descriptor_tiled(self, *_arguments: Any) -> None:
        """No descriptor: nothing reads it."""

    fill_1d_tma_descriptor = fill_2d_tma_descriptor = nothing


class Driver(DriverBase):
    """Triton's driver of a GPU that is not there."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target, self.utils = target, _Utils(target)
        self.set_current_device = nothing

    def launcher_cls(self, *_source_and_metadata: Any) -> Callable[..., None]:
        """What launches a CompiledKernel that a program holds: nothing, but whoever hears of launches hears of it."""
        return _heard

    @classmethod
    def is_active(cls) -> bool:
        """Whether Triton may take it by itself."""
        return False

    def map_python_to_cpp_type(self, ty: str) -> str:
        """The C type of an argument, as NVIDIA's driver says."""
        from triton.backends.nvidia.driver import ty_to_cpp

        return str(ty_to_cpp(ty))

    def get_current_target(self) -> GPUTarget:
        """What kernels are compiled for."""
        return GPUTarget("cuda", self._target.sm, 32)

    def get_current_device(self) -> int:
        """The one device."""
        return 0

    def get_current_stream(self, _device: Any = None) -> int:
        """CUDA's own stream."""
        return 0

    def get_device_capability(self, _device: Any = None) -> tuple[int, int]:
        """As in torch.cuda."""
        return divmod(self._target.sm, 10)

    def get_active_torch_device(self) -> Any:
        """The device that tensors say they are on."""
        return DEVICE

    def get_device_interface(self) -> Any:
        """torch.cuda."""
        import torch

        return torch.cuda

    def get_benchmarker(self) -> Callable[..., Any]:
        """What an Autotuner times with."""
        return benched

    def get_empty_cache_for_benchmark(self) -> Any:
        """Something to clear."""
        import torch

        return torch.empty(1, dtype=torch.int32)

    def clear_cache(self, cache: Any) -> None:
        """There is no L2."""


def _heard(*given: Any) -> None:
    """A launch by Triton's launcher, which is given what tells of it right before who is to hear of it."""
    entered = triton.knobs.runtime.launch_enter_hook
    at = next((number for number, one in enumerate(given) if one is entered), 0)
    if entered is not None and at:
        entered(given[at - 1])


def benched(fn: Callable[[], Any], *_arguments: Any, quantiles: Any = None, return_mode: str = "mean", **_: Any) -> Any:
    """triton.testing.do_bench and do_bench_cudagraph: call once, and tell ELAPSED_MS in the form that was asked for."""
    fn()
    if quantiles is not None:
        return [ELAPSED_MS] * len(quantiles) if len(quantiles) > 1 else ELAPSED_MS
    return [ELAPSED_MS] if return_mode == "all" else ELAPSED_MS


def install(patches: Patches, target: Target) -> None:
    """Let Triton compile for `target` and launch nothing, until `patches` are closed.

    Raises UsageError where Triton is told to interpret kernels, since it then compiles none.
    """
    if triton.knobs.runtime.interpret:
        raise UsageError("TRITON_INTERPRET=1 lets Triton compile nothing; unset it")
    patches.callback(vars(driver).update, dict(vars(driver)))
    active = Driver(target)
    driver.set_active(active)
    patches.put(driver, "_default" if "_default" in vars(driver) else "default", active)
    triton_compiler.max_shared_mem.cache_clear()
    patches.callback(triton_compiler.max_shared_mem.cache_clear)
    patches.put(triton.testing, "do_bench", benched)
    patches.put(triton.testing, "do_bench_cudagraph", benched)
    patches.put(triton.testing, "assert_close", nothing)
    patches.put(JITFunction, "run", _compiling(patches, target))
    pruned: dict[int, list[Any]] = {}
    patches.put(Autotuner, "_bench", _choosing(patches, pruned))
    patches.wrap(Autotuner, "prune_configs", functools.partial(_pruning, pruned=pruned))
    patches.put(Autotuner, "__init_subclass__", classmethod(functools.partial(_deriving, patches)))
    if hasattr(Autotuner, "check_disk_cache"):
        patches.put(Autotuner, "check_disk_cache", _untold)


def _compiling(patches: Patches, target: Target) -> Callable[..., Any]:
    """JITFunction.run that ends behind the compiler. Raises as Triton does, OutOfResources for shared memory too."""
    own_run = JITFunction.run
    seen: dict[int, JITFunction[Any]] = {}

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if id(self) not in seen:
            seen[id(self)] = self  # Held, so that no other kernel gets its id.
            patches.put(self, "device_caches", defaultdict(self.create_binder))
        compiled = own_run(self, *args, grid=grid, warmup=True, **kwargs)
        if not warmup:
            _raise_unless_it_fits(compiled, target)
            if callable(grid):
                grid = grid(_bound(self, args, kwargs))
            len(grid)  # As Triton does, which takes no number for a grid.
        return compiled

    return run


def _bound(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a launch by name, defaults too, as a callable grid gets them."""
    names = kernel.signature.parameters
    bound = kernel.signature.bind(*args, **{name: value for name, value in kwargs.items() if name in names})
    bound.apply_defaults()
    return dict(bound.arguments)


def _raise_unless_it_fits(compiled: Any, target: Target) -> None:
    metadata = getattr(compiled, "metadata", None)
    shared, columns = getattr(metadata, "shared", 0), getattr(metadata, "tmem_size", None) or 0
    if shared > target.shared_bytes_per_cta:
        raise OutOfResources(shared, target.shared_bytes_per_cta, "shared memory")
    if columns > _TENSOR_MEMORY_COLUMNS:
        raise OutOfResources(columns, _TENSOR_MEMORY_COLUMNS, "tensor memory")


class _ChosenError(BaseException):
    """What an autotuner with a `run` of its own is to launch. Nothing that it would do with times is done."""

    def __init__(self, tuner: Any, config: Any, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
        super().__init__("chosen")
        self.tuner, self.config, self.args_, self.meta = tuner, config, args, meta


def _deriving(patches: Patches, cls: Any, **named: Any) -> None:
    """Autotuner.__init_subclass__: what derives from it and runs in its own way may keep times, on disk even.

    Those that are told here would decide on a GPU later. So it is left as soon as it times, and what it then would have
    launched is launched.
    """
    super(Autotuner, cls).__init_subclass__(**named)
    own = vars(cls).get("run")
    if not inspect.isfunction(own):
        return

    @functools.wraps(own)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return own(self, *args, **kwargs)
        except _ChosenError as chosen:
            if chosen.tuner is not self:
                raise
            config, meta = chosen.config, {**chosen.meta, **chosen.config.all_kwargs()}
            self.best_config = config
            if config.pre_hook is not None:
                config.pre_hook({**(self.nargs or {}), **meta})
            return self.fn.run(*chosen.args_, **meta)

    patches.put(cls, "run", run)


def _runs_by_itself(tuner: Any) -> bool:
    """Whether a class that derives from Triton's autotuner has a `run` of its own."""
    return any("run" in vars(cls) for cls in type(tuner).__mro__[: type(tuner).__mro__.index(Autotuner)])


def _choosing(patches: Patches, pruned: Mapping[int, list[Any]]) -> Callable[..., Any]:
    """Autotuner._bench that tells the best time of the first config that compiles and fits, and compiles no other."""
    seen: dict[int, tuple[Any, Any]] = {}

    def fits(tuner: Any, args: tuple[Any, ...], config: Any, meta: dict[str, Any]) -> bool:
        try:
            if config.pre_hook:  # It may give a tensor descriptor the shape of a block.
                config.pre_hook({**tuner.nargs, **meta, **config.all_kwargs()})
            # As a warm-up, since a trial is none of the program's launches.
            compiled = tuner.fn.run(*args, **{**meta, **config.all_kwargs(), "warmup": True})
            _raise_unless_it_fits(compiled, driver.active._target)
        except (OutOfResources, CompileTimeAssertionFailure, PTXASError):
            return False
        return True

    def bench(self: Any, *args: Any, config: Any, **meta: Any) -> list[float]:
        if _runs_by_itself(self):
            for one in pruned.get(id(self), [config]):
                if fits(self, args, one, meta):
                    raise _ChosenError(self, one, args, meta)
            return [float("inf")] * 3
        _, decided_for = seen.get(id(self), (None, None))
        if id(self) not in seen:
            patches.callback(_forget, self.cache, dict(self.cache))
        if decided_for is not None and decided_for is self.nargs:  # Made anew by each run of the Autotuner.
            return [2 * ELAPSED_MS] * 3
        seen[id(self)] = (self, None)
        if conflicts := meta.keys() & config.kwargs.keys():
            raise ValueError(
                f"Conflicting meta-parameters: {', '.join(conflicts)}. "
                "Make sure that you don't re-define auto-tuned symbols."
            )
        if not fits(self, args, config, meta):
            return [float("inf")] * 3
        seen[id(self)] = (self, self.nargs)
        return [ELAPSED_MS] * 3

    return bench


def _pruning(own: Callable[..., Any], pruned: dict[int, list[Any]]) -> Callable[..., Any]:
    """Autotuner.prune_configs that does without a performance model which asks the GPU's driver for its clocks."""

    @functools.wraps(own)
    def told(self: Any, kwargs: dict[str, Any]) -> Any:
        found = pruned[id(self)] = list(left(self, kwargs))
        return found

    def left(self: Any, kwargs: dict[str, Any]) -> Any:
        try:
            return own(self, kwargs)
        except Exception as error:
            asked_driver = isinstance(error, OSError) or type(error).__module__ == "pynvml"
            if self.perf_model is None or not asked_driver:
                raise
        model, self.perf_model = self.perf_model, None
        try:
            return own(self, kwargs)
        finally:
            self.perf_model = model

    return told


def _forget(cache: dict[Any, Any], before: dict[Any, Any]) -> None:
    cache.clear()
    cache.update(before)


def _untold(_self: Any, _key: Any, _configs: Any, bench_fn: Callable[[], Any]) -> bool:
    """Autotuner.check_disk_cache that reads and writes nothing: what is told here would decide on a GPU later."""
    bench_fn()
    return False
