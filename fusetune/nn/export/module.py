"""A standalone module: imports, kernels, wrappers, `class ModelNew`, in this order and nothing else."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from fusetune.code.source import LINE_LENGTH, KernelSource, written
from fusetune.core.extras import need
from fusetune.core.target import Target
from fusetune.errors import UsageError
from fusetune.nn.export.choice import Choice, choose_config, header
from fusetune.nn.export.shared import shared_functions
from fusetune.nn.export.wrapper import Part, tuned_decorators, wrapper_text
from fusetune.ops.gemm_scale.batch_norm import EPS, MOMENTUM
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.problem import MODES, Problem
from fusetune.ops.spec import AbstractTensor, KernelSpec, Launch, abstract_tensors

EXPORTED_OPS: Final = ("gemm_scale", "gemm_scale_bn")

_KERNEL_NAMES: Final[dict[str, str]] = {
    "scale": "fused_gemm_scale_kernel",
    "eval": "fused_gemm_scale_bn_eval_kernel",
    "eval_folded": "fused_gemm_scale_bn_eval_kernel",
    "columns": "fused_gemm_scale_bn_train_kernel",
    "products": "gemm_kernel",
    "statistics": "gemm_with_moments_kernel",
}
_DOCSTRINGS: Final[dict[str, str]] = {
    "scale": "A tile of products, then (acc + bias) * scale.",
    "eval": "A tile of products, then bias, scale and BatchNorm with the running statistics.",
    "eval_folded": "A tile of products, then bias, scale and BatchNorm as one factor and one summand a column.",
    "columns": "Whole columns of products, then BatchNorm with their own statistics; updates the running ones.",
    "statistics": "A tile of products, with each column's mean and sum of squared deviations over the tile's rows.",
    "products": "A tile of products.",
    "partial": "A tile of products over one share of K; a second kernel adds the shares.",
}
_PERSISTENT: Final = (
    "\n\nAs many programs as run at once walk through all tiles. The copy engine (TMA) loads tiles, and stores y\n"
    "while the next tile's loads begin; past an edge it reads zeros and writes nothing."
)

_MASKED: Final = (
    "\n\nAs many programs as run at once walk through all tiles. The copy engine (TMA) loads tiles, and reads zeros\n"
    "past an edge; threads store y, whose rows need not begin on 16 bytes, behind masks."
)
_PADDED: Final = (
    "\n\nAs many programs as run at once walk through all tiles. The copy engine (TMA) loads tiles, from copies of x\n"
    "and weight whose rows begin on 128 bytes, and reads zeros past an edge; threads store y behind masks."
)
_DEFERRED: Final = (
    "\n\nAs many programs as run at once walk through all tiles. The copy engine (TMA) loads tiles, and stores a tile\n"
    "of y beside the next one's first steps, until when it stays in registers; past an edge it reads zeros and\n"
    "writes nothing."
)
_JOINS: Final = (
    "\n\nSPLIT_K programs share a tile, and each leaves a summand of it; the last one there adds them up, in order,\n"
    "and does the rest."
)
_COPIED: Final = " The copy engine (TMA) loads tiles; past an edge it reads zeros."
_WALKS: Final = {"deferred": _DEFERRED, "masked": _MASKED, "padded": _PADDED}
"""How a variant walks through tiles, unless as `persistent` does."""


def export_module(
    spec: KernelSpec, problem: Problem, target: Target, roots: Sequence[Path], *, autotune: bool = False
) -> str:
    """The text of a module for one problem on one GPU, with the configs that the files under `roots` hold.

    `problem.mode` does not count: for an op with modes the module has both. Raises UsageError for any other op,
    where a library won, where `autotune` has nothing to choose between, or where black is not installed.
    """
    if spec.name not in EXPORTED_OPS:
        raise UsageError(
            f"export writes {' and '.join(EXPORTED_OPS)}; the op {spec.name} has no ModelNew to be part of"
        )
    modes = MODES if spec.name == "gemm_scale_bn" else (None,)
    choices = [choose_config(spec, structs.replace(problem, mode=mode), target, roots) for mode in modes]
    return module_text(spec, choices, target, autotune=autotune)


def module_text(spec: KernelSpec, choices: Sequence[Choice], target: Target, *, autotune: bool = False) -> str:
    """The module that launches these choices; raises as `export_module` does."""
    made = [_Mode(spec, choice, target, autotune=autotune) for choice in choices]
    if autotune and not any(mode.autotuned for mode in made):
        raise UsageError(
            f"--autotune has nothing to choose between: {', '.join(mode.why_fixed for mode in made)}; leave it out"
        )
    helpers: dict[str, KernelSource] = {}
    kernels: dict[str, str] = {}
    for mode in made:
        for part in mode.parts:
            helpers |= {helper.name: helper for helper in part.kernel.helpers}
            kernels.setdefault(part.name, mode.kernel_text(part))
    sections = [
        "\n".join(f"# {line}" for text in header(spec, choices, target, autotune=autotune) for line in _wrapped(text)),
        _imports(any(mode.uses_descriptors for mode in made)),
        *(written(h.name, h.parameters, h.body, h, docstring=_docstring(h.docstring)) for h in helpers.values()),
        *kernels.values(),
        *shared_functions(
            choices[0].problem,
            copies=any(mode.config.is_walking and not mode.config.pads for mode in made),
            points=any(not mode.config.is_walking for mode in made),
            units=any(mode.config.variant == "vectored" or mode.config.masks for mode in made),
            joins=any(part.joins for mode in made for part in mode.parts),
        ),
        *(wrapper_text(mode.parts, mode.problem, mode.config, autotuned=mode.autotuned) for mode in made),
        _MODELS[spec.name],
    ]
    return "\n\n\n".join(map(_formatted, sections)) + "\n"


def parts_of_module(spec: KernelSpec, choice: Choice, target: Target) -> list[Part]:
    """The kernels that a module has for one choice, in the order of their launches."""
    return _Mode(spec, choice, target, autotune=False).parts


class _Mode:
    """The kernels of one choice."""

    def __init__(self, spec: KernelSpec, choice: Choice, target: Target, *, autotune: bool) -> None:
        self.problem, self.config = choice.problem, choice.config
        launches = _launches(spec, self.problem, self.config, target)
        names: Mapping[str, str] = {
            "padded_rows": "padded_rows_kernel",
            "moments_of_rows": "moments_of_rows_kernel",
            "normalize_columns": "normalize_columns_kernel",
            "normalize_owned_columns": "normalize_owned_columns_kernel",
            "finish_split": f"finish_split_{self.problem.mode or 'scale'}_kernel",
        }
        self.parts = []
        for launch in launches:
            of = launch.kernel.fn.__name__
            epilogue = str(launch.constants.get("EPILOGUE"))
            name = names.get(of) or _KERNEL_NAMES.get(epilogue) or f"gemm_share_{self.problem.mode or 'scale'}_kernel"
            self.parts.append(Part(launch, name, self.problem, self.config, target.sm))
        self.tried = tuple(config for config in choice.tried if config.variant == "tiled")
        self.why_fixed = self._why_fixed()
        self.autotuned = autotune and not self.why_fixed

    @property
    def uses_descriptors(self) -> bool:
        """Whether a kernel goes through the copy engine."""
        return any(name.endswith("_desc") for part in self.parts for name in part.kernel.parameters)

    def kernel_text(self, part: Part) -> str:
        """A kernel as text."""
        decorators = tuned_decorators(self.tried) if self.autotuned else ("@triton.jit",)
        docstring = part.kernel.source.docstring
        if part.multiplies:
            docstring = _DOCSTRINGS.get(str(part.launch.constants.get("EPILOGUE")), docstring)
            copied = self.config.is_walking
            if part.joins:
                docstring += _JOINS + (_COPIED if copied else "")
            elif copied:
                docstring += _WALKS.get(self.config.variant, _PERSISTENT)
        kernel = part.kernel
        return written(
            part.name,
            kernel.parameters,
            kernel.body,
            kernel.source,
            docstring=_docstring(docstring),
            decorators=decorators,
        )

    def _why_fixed(self) -> str:
        mode = f"{self.problem.mode}: " if self.problem.mode else ""
        if self.problem.mode == "train":
            return f"{mode}trying a config would change the running statistics"
        if len(self.parts) > 1 or self.config.variant != "tiled":
            return f"{mode}BASELINE is another kernel than {self.config.label()}"
        return "" if len(self.tried) > 1 else f"{mode}BASELINE is all there is"


def _launches(spec: KernelSpec, problem: Problem, config: Config, target: Target) -> list[Launch]:
    tensors: dict[str, Any] = dict(abstract_tensors(spec, problem, config, target))
    if problem.mode == "train":
        tensors["num_batches_tracked"] = AbstractTensor((), "float32")  # Nothing looks at its type here.
        made = gemm_launches(problem, config, tensors, "train", eps=EPS, momentum=MOMENTUM, counter="count")
    else:
        made = spec.launches(problem, config, tensors)
    return [launch for launch in made if isinstance(launch, Launch)]


def _imports(uses_descriptors: bool) -> str:
    lines = ["import torch", "import torch.nn as nn", "import triton", "import triton.language as tl"]
    if uses_descriptors:
        lines.append("from triton.tools.tensor_descriptor import TensorDescriptor")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_LENGTH - 8, break_long_words=False, break_on_hyphens=False)


def _docstring(text: str) -> str:
    """A docstring in lines that fit, paragraph by paragraph."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return "\n\n".join("\n".join(_wrapped(paragraph)) for paragraph in paragraphs)


@functools.cache
def _formatted(section: str) -> str:
    """A section of a module as black would leave it there; most of them are in many modules."""
    need("tune", "writing a module")
    import black

    formatted: str = black.format_str(section, mode=black.Mode(line_length=LINE_LENGTH))
    return formatted.strip("\n")


_INIT: Final = """
    def __init__(self, in_features, out_features, scale_shape, eps=1e-5, momentum=0.1):
        super().__init__()
        self.gemm = nn.Linear(in_features, out_features)
        self.scale = nn.Parameter(torch.randn(scale_shape))
        if self.scale.shape not in ((out_features,), (1, out_features)):
            raise ValueError(f"scale_shape must be ({out_features},), got {tuple(self.scale.shape)}")
        self.bn = nn.BatchNorm1d(out_features, eps=eps, momentum=momentum)
"""
_MODELS: Final[dict[str, str]] = {
    "gemm_scale": f'''class ModelNew(nn.Module):
    """Linear, scale and BatchNorm1d; all but BatchNorm in one kernel."""
{_INIT}
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = fused_gemm_scale(x, self.gemm.weight, self.gemm.bias, self.scale.reshape(-1))
        return self.bn(y)
''',
    "gemm_scale_bn": f'''class ModelNew(nn.Module):
    """Linear, scale and BatchNorm1d, fused; training updates the running statistics in place."""
{_INIT}
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bn = self.bn
        operands = (x, self.gemm.weight, self.gemm.bias, self.scale.reshape(-1))
        affine = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        if not bn.training:
            return fused_gemm_scale_bn_eval(*operands, *affine, bn.eps)
        momentum = bn.momentum
        if momentum is None:  # The average over all batches so far.
            momentum = 1.0 / (int(bn.num_batches_tracked) + 1)
        return fused_gemm_scale_bn_train(
            *operands, *affine, bn.num_batches_tracked, momentum, bn.eps
        )
''',
}
