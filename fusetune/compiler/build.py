"""Compile one launch for a Target as Triton's JIT would on that GPU, and read what the compiler made of it."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fusetune.core.config import Config
from fusetune.core.problem import Problem
from fusetune.core.resources import Resources
from fusetune.core.target import Target
from fusetune.errors import CompileError
from fusetune.kernels.spec import AbstractTensor, KernelSpec, Launch, TileDescriptor, abstract_tensors

_ELEMENT_TYPES: dict[str, str] = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int32": "i32",
    "int64": "i64",
}
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
    the compiler's own message, or the op's where it makes no launches of this config.
    """
    try:
        launches = spec.launches(problem, config, abstract_tensors(spec, problem, config, target))
    except Exception as error:
        raise CompileError(f"{spec.name} does not launch {config.label()}: {_message(error)}") from error
    made = [
        compile_launch(launch, target, with_launcher=with_launchers)
        for launch in launches
        if isinstance(launch, Launch)
    ]
    if not made:
        return Resources(registers=0, stack_bytes=0, shared_bytes=0)  # A library's own kernels, compiled by others.
    return Resources(
        registers=max(resources.registers for resources in made),
        stack_bytes=max(resources.stack_bytes for resources in made),
        shared_bytes=max(resources.shared_bytes for resources in made),
    )


def compile_launch(launch: Launch, target: Target, *, with_launcher: bool = False) -> Resources:
    """Compile one launch for `target` and read its Resources from the machine code.

    Raises CompileError with the compiler's own message.
    """
    compiled = compiled_kernel(launch, target)
    if with_launcher:
        _build_launcher(compiled.src, compiled.metadata)
    return resources_of_cubin(compiled.asm["cubin"], compiled.metadata.shared)


def compiled_kernel(launch: Launch, target: Target) -> Any:
    """Triton's CompiledKernel of one launch for `target`: its `asm` holds ptx and cubin.

    Raises CompileError with the compiler's own message.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    signature, constants, attributes = specialize(launch)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    try:
        return compile(source, target=GPUTarget("cuda", target.sm, 32), options=dict(launch.options))
    except Exception as error:
        raise CompileError(_message(error)) from error


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

    Integers equal to 1 become constants, those divisible by 16 and all pointers are marked so (torch aligns its
    allocations to 512 bytes). The result has the JIT's own form, so that both share one entry of Triton's cache.
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    everything = {**launch.arguments, **launch.constants}
    for index, name in enumerate(launch.kernel.arg_names):
        value = everything[name]
        if isinstance(value, AbstractTensor):
            signature[name] = f"*{_ELEMENT_TYPES[value.dtype]}"
            attributes[(index,)] = _DIVISIBLE
        elif isinstance(value, TileDescriptor):
            signature[name] = f"tensordesc<{_ELEMENT_TYPES[value.tensor.dtype]}{list(value.block_shape)}>"
        elif isinstance(value, float) and name not in launch.constants:
            signature[name] = "fp32"
        elif name in launch.constants or value == 1:
            signature[name], constants[(index,)] = "constexpr", value
            if _lists_constants() or isinstance(value, str):
                attributes[(index,)] = []
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            attributes[(index,)] = _DIVISIBLE if value % _ALIGNMENT == 0 else []
    return signature, constants, attributes


@functools.cache
def _lists_constants() -> bool:
    """Whether the JIT gives constants an empty list of attributes: before Triton 3.7 it did so for strings only."""
    major, minor = version("triton").split(".")[:2]
    return (int(major), int(minor)) >= (3, 7)


def resources_of_cubin(cubin: bytes, shared_bytes: int) -> Resources:
    """Registers and stack of the one kernel in a cubin, by cuobjdump; `shared_bytes` is Triton's own figure.

    Raises CompileError where cuobjdump cannot be run or finds no kernel.
    """
    found = usage_of_cubin(cubin)
    return Resources(registers=int(found["registers"]), stack_bytes=int(found["stack"]), shared_bytes=shared_bytes)


def usage_of_cubin(cubin: bytes) -> re.Match[str]:
    """What cuobjdump tells of the one kernel in a cubin: groups registers, stack and shared (static, in bytes).

    Raises CompileError as `resources_of_cubin` does.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(nvidia_tool("cuobjdump")), "--dump-resource-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _RESOURCE_LINE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise CompileError(
            f"cuobjdump could not read the compiled kernel: {done.stderr.strip() or done.stdout.strip()}"
        )
    return found


@functools.cache
def nvidia_tool(name: str) -> Path:
    """The path of a CUDA tool (ptxas, cuobjdump, nvdisasm) that Triton's wheel brings.

    Raises CompileError where it is missing.
    """
    from triton.backends import nvidia

    path = Path(nvidia.__file__).parent / "bin" / name
    if not path.exists():
        raise CompileError(f"triton's wheel brings no {name} at {path}; install triton>=3.6 from its wheel")
    return path


def ptxas_version(target: Target) -> str:
    """The release of the ptxas that compiles for `target`, such as `12.9.86`; Blackwell has its own."""
    tool = nvidia_tool("ptxas-blackwell" if target.sm >= 100 else "ptxas")
    text = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return found[1] if found else text.strip()


def _message(error: BaseException, limit: int = 400) -> str:
    """What went wrong, without the excerpt of the source that Triton puts before it and that would fill the limit."""
    # Around an error in a called kernel Triton wraps one without a message for each call.
    while getattr(error, "error_message", "") is None and error.__cause__ is not None:
        error = error.__cause__
    what, line = getattr(error, "error_message", None), getattr(getattr(error, "node", None), "lineno", None)
    where = f" in line {line} of the kernel" if line else ""
    text = f"{type(error).__name__}{where}: {what or error}".strip()
    return text if len(text) <= limit else text[:limit] + " ..."
