"""What Triton's compiler makes of a launch on the way to machine code, which takes it as long again."""

from __future__ import annotations

from typing import Any

from fusetune.compiler.build import specialize
from fusetune.core.target import Target
from fusetune.ops.spec import Launch

Specialization = tuple[dict[str, str], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]


def made_to(
    stage: str, launch: Launch, target: Target, specialization: Specialization | None = None
) -> tuple[str, dict[str, Any]]:
    """The text of a stage, such as `ttir`, `llir` or `ptx`, and what is known of the kernel by then; none is cached."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    gpu_target = GPUTarget("cuda", target.sm, 32)
    backend = make_backend(gpu_target)
    source = ASTSource(launch.kernel, *(specialization or specialize(launch)))
    options = backend.parse_options(dict(launch.options))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    codegen = backend.get_codegen_implementation(options)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    made = source.make_ir(gpu_target, options, codegen, backend.get_module_map(), context)
    known: dict[str, Any] = {"target": gpu_target, **vars(options)}
    for name, make in stages.items():
        made = make(made, known)
        if name == stage:
            return str(made), known
    raise LookupError(stage)
