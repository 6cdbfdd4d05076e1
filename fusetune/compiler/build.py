"""Compile one launch for a Target as Triton's JIT would on that GPU, and read what the compiler made of it."""

from __future__ import annotations

import contextlib
import errno
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fusetune.compiler.jit_signature import jit_signature
from fusetune.compiler.tools import nvidia_tool, triton_release
from fusetune.core.config import Config
from fusetune.core.dtypes import element_type
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.target import Target
from fusetune.core.trouble import (
    is_recorded_trouble,
    machine_told,
    refuse_interpreter,
    trouble_of,
    trouble_of_exit,
)
from fusetune.errors import CompileError, FusetuneError, MachineError
from fusetune.ops.parameters import completed
from fusetune.ops.spec import AbstractTensor, KernelSpec, Launch, TileDescriptor, abstract_tensors

_ALIGNMENT = 16
_DIVISIBLE = [["tt.divisibility", _ALIGNMENT]]
_RESOURCE_LINE = re.compile(
    r"Function (?P<name>\S+):\s*\n\s*REG:(?P<registers>\d+) STACK:(?P<stack>\d+)(?: SHARED:(?P<shared>\d+))?"
)


def compile_config(
    spec: KernelSpec, problem: Problem, config: Config, target: Target, *, with_launchers: bool = False
) -> Resources:
    """The Resources of a config's most demanding launch, compiled for `target`; Triton's cache keeps the machine code.

    `with_launchers` also prepares what a first launch on this machine would have to wait for. Raises CompileError with
    the compiler's own message, or the op's where it makes no launches of this config; MachineError as `read_kernel`.
    """
    made = [
        compile_launch(launch, target, with_launcher=with_launchers)
        for launch in abstract_launches(spec, problem, config, target)
    ]
    if not made:
        return Resources(registers=0, stack_bytes=0, shared_bytes=0)  # A library's own kernels, compiled by others.
    return Resources(
        registers=max(resources.registers for resources in made),
        stack_bytes=max(resources.stack_bytes for resources in made),
        shared_bytes=max(resources.shared_bytes for resources in made),
    )


def abstract_launches(spec: KernelSpec, problem: Problem, config: Config, target: Target) -> list[Launch]:
    """What a config launches of our own kernels, in order, on tensors that are not there.

    Raises CompileError with the op's own message where it makes no launches of this config, MachineError where it was
    the machine that did not let it.
    """
    try:
        launches = spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is not None:
            raise trouble.error() from error
        raise CompileError(f"{spec.name} does not launch {config.label()}: {_message(error)}") from error
    return [launch for launch in launches if isinstance(launch, Launch)]


def compile_launch(launch: Launch, target: Target, *, with_launcher: bool = False) -> Resources:
    """Compile one launch for `target` and read its Resources from the machine code.

    Raises as `read_kernel` does.
    """
    kernel = read_kernel(launch, target)
    if with_launcher:
        _build_launcher(kernel.compiled.src, kernel.compiled.metadata)
    return kernel.resources


class ReadKernel(NamedTuple):
    """One launch compiled: Triton's CompiledKernel, whose `asm` holds ptx and cubin, and what the cubin tells of it.

    `static_shared_bytes` is what the toolchain reports beside Triton's own figure, which is in `resources`.
    """

    compiled: Any
    resources: Resources
    static_shared_bytes: int


def read_kernel(launch: Launch, target: Target) -> ReadKernel:
    """Compile one launch for `target`, or take it from Triton's cache, and read the machine code.

    An entry of the cache that cannot be read, since somebody damaged it, is compiled anew and replaced. Raises
    CompileError with the compiler's own message; MachineError, and UsageError for what the user has set, where it was
    the machine that let nothing be compiled.
    """
    refuse_interpreter()
    try:
        return _read_once(launch, target)
    except Exception as error:
        if not _may_be_damage(error):
            raise _told(error) from error
    try:
        with _past_cache():
            return _read_once(launch, target)
    except _UnreadableCubinError as error:
        # So ptxas ends, with exit code 0, where the disk of the temporary files is full.
        told = f"{error}, though ptxas said that all went well; check the disk of the temporary files"
        raise MachineError(told) from error
    except Exception as error:
        raise _told(error) from error


def _read_once(launch: Launch, target: Target) -> ReadKernel:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    made = jit_signature(launch, target.sm) if launch.by_jit else specialize(launch)
    signature, constants, attributes = made
    source = ASTSource(launch.kernel, signature, constants, attributes)
    compiled = compile(source, target=GPUTarget("cuda", target.sm, 32), options=dict(launch.options))
    try:
        usage = usage_of_cubin(compiled.asm["cubin"])
    except _UnreadableCubinError:
        _drop_from_cache(compiled)  # Whoever launches it would meet the same.
        raise
    resources = Resources(int(usage["registers"]), int(usage["stack"]), compiled.metadata.shared)
    return ReadKernel(compiled, resources, int(usage["shared"] or 0))


def _may_be_damage(error: Exception) -> bool:
    """Whether an error may come of a file in Triton's cache: what Triton and ptxas object to in a kernel does not."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EIO}
    return isinstance(error, _UnreadableCubinError | ValueError | LookupError | TypeError | AttributeError | EOFError)


_PAST_CACHE = threading.Lock()


@contextlib.contextmanager
def _past_cache() -> Iterator[None]:
    """Compile whatever Triton's cache holds; what comes out replaces it there."""
    from triton import knobs

    with _PAST_CACHE, knobs.compilation.scope():
        knobs.compilation.always_compile = True
        yield


def _drop_from_cache(compiled: Any) -> None:
    """Let Triton's cache forget a kernel, where it lets us: the file that names an entry's others is what counts."""
    for name, path in compiled.metadata_group.items():
        if name.endswith(".json"):
            with contextlib.suppress(OSError):
                Path(path).with_name(f"__grp__{name}").unlink(missing_ok=True)


def _told(error: Exception) -> FusetuneError:
    """What a failed compilation is reported as: the machine's fault, or the kernel's with the compiler's message."""
    if isinstance(error, FusetuneError) and not isinstance(error, CompileError):
        return error
    trouble = trouble_of(error)
    if trouble is not None:
        return trouble.error()
    return CompileError(str(error) if isinstance(error, CompileError) else _message(error))


def _build_launcher(source: Any, metadata: Any) -> None:
    """Let Triton's cache have the launcher of a signature.

    Up to 3.6 that is C code, compiled by gcc for most of a second at the signature's first launch. It does not matter
    where that fails, as it does without a driver: the first launch then builds it or tells why not.
    """
    from triton.backends.nvidia import driver

    if hasattr(driver, "make_launcher"):
        with contextlib.suppress(Exception):
            driver.CudaLauncher(source, metadata)


def specialize(launch: Launch) -> tuple[dict[str, str], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]:
    """The signature, constants and attributes that Triton's JIT would derive from the arguments of a launch.

    Integers equal to 1 and None become constants, those divisible by 16 and all pointers are marked so (torch aligns
    its allocations to 512 bytes). The result has the JIT's own form, so that both share one entry of Triton's cache.
    """
    launch = completed(launch)
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    everything = {**launch.arguments, **launch.constants}
    for index, name in enumerate(launch.kernel.arg_names):
        value = everything[name]
        if isinstance(value, AbstractTensor):
            signature[name] = f"*{element_type(value.dtype).triton}"
            attributes[(index,)] = _DIVISIBLE
        elif isinstance(value, TileDescriptor):
            signature[name] = f"tensordesc<{element_type(value.tensor.dtype).triton}{list(value.block_shape)}>"
        elif isinstance(value, float) and name not in launch.constants:
            signature[name] = "fp32"
        elif name in launch.constants or value is None or value == 1:
            signature[name], constants[(index,)] = "constexpr", value
            if _lists_constants() or isinstance(value, str):
                attributes[(index,)] = []
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            attributes[(index,)] = _DIVISIBLE if value % _ALIGNMENT == 0 else []
    return signature, constants, attributes


def _lists_constants() -> bool:
    """Whether the JIT gives constants an empty list of attributes: before Triton 3.7 it did so for strings only."""
    return triton_release() >= (3, 7)


class _UnreadableCubinError(CompileError):
    """cuobjdump was run and found no kernel in what it was given."""


def resources_of_cubin(cubin: bytes, shared_bytes: int) -> Resources:
    """Registers and stack of the one kernel in a cubin, by cuobjdump; `shared_bytes` is Triton's own figure.

    Raises as `usage_of_cubin` does.
    """
    found = usage_of_cubin(cubin)
    return Resources(registers=int(found["registers"]), stack_bytes=int(found["stack"]), shared_bytes=shared_bytes)


def usage_of_cubin(cubin: bytes) -> re.Match[str]:
    """What cuobjdump tells of the one kernel in a cubin: groups registers, stack and shared (static, in bytes).

    Raises CompileError where it finds no kernel, and as `run_on_cubin` does.
    """
    done = run_on_cubin("--dump-resource-usage", cubin)
    found = _RESOURCE_LINE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise _UnreadableCubinError(
            f"cuobjdump could not read the compiled kernel: {done.stderr.strip() or done.stdout.strip()}"
        )
    return found


def run_on_cubin(option: str, cubin: bytes) -> subprocess.CompletedProcess[str]:
    """What cuobjdump makes of a cubin.

    Raises MissingPackageError where there is none, MachineError where it could not be run, was killed, or could not
    write its own files.
    """
    tool = nvidia_tool("cuobjdump")
    with machine_told(), tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(tool), option, file.name], capture_output=True, text=True, check=False)
    ended = trouble_of_exit(done.returncode)
    if ended is not None:
        raise MachineError(f"cuobjdump {ended.detail}")
    # It ends with 0 where nvdisasm, which it calls, could not read what it had left for it on a full disk.
    said = done.stderr.strip()
    if said and (done.returncode != 0 or "nvdisasm" in said) and is_recorded_trouble(said):
        told = said.splitlines()[0][:200]
        raise MachineError(f"cuobjdump could not do its work ({told}); check the disks and memory")
    return done


def _message(error: BaseException, limit: int = 400) -> str:
    """What went wrong, without the excerpt of the source that Triton puts before it and that would fill the limit."""
    # Around an error in a called kernel Triton wraps one without a message for each call.
    while getattr(error, "error_message", "") is None and error.__cause__ is not None:
        error = error.__cause__
    what, line = getattr(error, "error_message", None), getattr(getattr(error, "node", None), "lineno", None)
    where = f" in line {line} of the kernel" if line else ""
    text = f"{type(error).__name__}{where}: {what or error}".strip()
    return text if len(text) <= limit else text[:limit] + " ..."
