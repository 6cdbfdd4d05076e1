"""fusetune: launch configurations for fused Triton kernels, kept only with evidence.

Importing this package loads neither torch nor triton; the public names load them on first use.
"""

from __future__ import annotations

from importlib import import_module

from fusetune import nn as _nn

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's own takes longer to load than all of this, and `fusetune` has to be there at once.
if TYPE_CHECKING:
    from typing import Any

    from fusetune.capture.serving.installed import install, served, uninstall
    from fusetune.core.space import Space
    from fusetune.errors import *  # noqa: F403
    from fusetune.nn import *  # noqa: F403
    from fusetune.ops.spec import KernelSpec, Launch, Operand, Tolerance
    from fusetune.runtime.autotune import autotune
    from fusetune.runtime.configs import load, reload
    from fusetune.runtime.tuned import config
    from fusetune.runtime.warmup import warmup

_ERRORS = (
    "FusetuneError",
    "UsageError",
    "UnknownTargetError",
    "UnsupportedProblemError",
    "OpError",
    "ChannelsError",
    "ConfigFileError",
    "NewerSchemaError",
    "JournalError",
    "MissingPackageError",
    "CaptureError",
    "MissingConfigError",
    "NoisyMachineError",
    "NotCheckableError",
    "NoCandidateError",
    "MachineError",
    "NothingTunedError",
    "NoUsableGpuError",
    "MeasurementError",
    "CompileError",
    "WrongResultError",
    "ProgramError",
)
_PUBLIC = {
    **_nn.PUBLIC,
    **dict.fromkeys(_ERRORS, "fusetune.errors"),
    "autotune": "fusetune.runtime.autotune",
    "config": "fusetune.runtime.tuned",
    "install": "fusetune.capture.serving.installed",
    "served": "fusetune.capture.serving.installed",
    "uninstall": "fusetune.capture.serving.installed",
    "load": "fusetune.runtime.configs",
    "reload": "fusetune.runtime.configs",
    "warmup": "fusetune.runtime.warmup",
    "KernelSpec": "fusetune.ops.spec",
    "Launch": "fusetune.ops.spec",
    "Operand": "fusetune.ops.spec",
    "Tolerance": "fusetune.ops.spec",
    "Space": "fusetune.core.space",
}

__all__ = [
    "KernelSpec",
    "Launch",
    "Operand",
    "Space",
    "Tolerance",
    "__version__",
    "autotune",
    "config",
    "install",
    "load",
    "reload",
    "served",
    "uninstall",
    "warmup",
]
__all__ += _nn.__all__
__all__.extend(_ERRORS)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        try:
            return getattr(import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "triton"}:
                raise
            from fusetune.errors import MissingPackageError

            raise MissingPackageError(
                f"fusetune.{name} needs {error.name}, which is not installed here; `pip install {error.name}` (Linux)"
            ) from error
    raise AttributeError(f"module 'fusetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
