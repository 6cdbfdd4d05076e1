"""The wrapper of a config's kernels: tensors, grids and launches, for any M, from what the library launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fusetune.code.specialize import Specialized, specialize
from fusetune.errors import UsageError
from fusetune.ops.gemm_scale.config import Config
from fusetune.ops.gemm_scale.early import PDL_CAPABILITY, PDL_MOST_BYTES, waits_for_products
from fusetune.ops.gemm_scale.passes import FINISHED_ELEMENTS, MOST_ROWS, PADDED_COLUMNS, PADDED_ELEMENTS
from fusetune.ops.gemm_scale.persistent import ctas_per_sm, parts_of
from fusetune.ops.gemm_scale.problem import Problem
from fusetune.ops.gemm_scale.space import DEFERRED_STEPS, OWNED_AT_ONCE, holds_columns
from fusetune.ops.spec import Launch, rounds_in_descriptor

DECIDED: Final = ("EPILOGUE", "COUNTER", "PRECISION", "JOINS", "PARTS", "UPWARDS", "STAGES")
"""Constants that op, mode, precision and config decide, whatever the sizes of a call: they are resolved.

All others stay parameters, and a wrapper computes them anew for each call; one that it does not know is an error.
"""
FROM_CONFIG: Final = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", "SPLIT_K")

_VALUES: Final[dict[str, str]] = {
    "x_ptr": "x",
    "w_ptr": "weight",
    "x_padded_ptr": "x_padded",
    "w_padded_ptr": "weight_padded",
    "bias_ptr": "bias",
    "scale_ptr": "scale",
    "gamma_ptr": "gamma",
    "beta_ptr": "beta",
    "mean_ptr": "running_mean",
    "var_ptr": "running_var",
    "tracked_ptr": "num_batches_tracked",
    "moments_ptr": "moments",
    "partial_ptr": "partial",
    "arrivals_ptr": "arrivals",
    "y_ptr": "y",
    "stride_xm": "x.stride(0)",
    "stride_xk": "x.stride(1)",
    "stride_wn": "weight.stride(0)",
    "stride_wk": "weight.stride(1)",
    **{name: name for name in ("M", "N", "K", "eps", "momentum", "rows_per_cta")},
}
_CONSTANTS: Final[dict[str, str]] = {
    "EVEN_K": "K % BLOCK_K == 0",
    "EVEN_MN": "M % BLOCK_M == 0 and N % BLOCK_N == 0",
    "EVEN_M": "M % BLOCK_M == 0",
    "EVEN_ROWS": "M % ROWS == 0",
    "TILES": "min(64, triton.next_power_of_2(triton.cdiv(M, TILE_M)))",
    "TILE_M": "TILE_M",
    "ROUNDS": "x.is_cuda",
    "OVERLAPS": "overlaps",
    "PREFETCHES": "x.is_cuda",
    "CONVERTS": "x.is_cuda",
    "STAGES": "1 + 64 // COLUMNS",
    "UNIT_K": "unit_of(K | x.stride(0) | weight.stride(0)) if x.stride(1) == weight.stride(1) == 1 else 1",
    "UNIT_N": "unit_of(N)",
    "MASKED": "min(unit_of(N), 16 // y.element_size())",
    "UNIT": "UNIT",
}
MOST_FINISHED_ROWS: Final = 2**20 // 16
"""Rows of whole columns that a program of split_k's second kernel can hold: Triton takes no larger tensors."""
_ROWS_OF_GRID: Final = {"moments_of_rows": "TILE_M", "normalize_columns": "rows_per_cta", "finish_split": "ROWS"}
_TILES: Final = "triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)"


class Part:
    """One kernel of a config: as specialized, under its own name, with the grid of its launch."""

    def __init__(self, launch: Launch, name: str, problem: Problem, config: Config, sm: int) -> None:
        self.launch, self.name, self.problem, self.config, self.sm = launch, name, problem, config, sm
        decided = {*DECIDED}
        if config.SPLIT_K == 1:
            decided.add("SPLIT_K")
        decided.update(name for name in ("ROUNDS", "MASKED") if not launch.constants.get(name))
        if sm < PDL_CAPABILITY:
            decided.add("OVERLAPS")
        if self.owns:
            decided.remove("STAGES")
        resolved = {name: value for name, value in launch.constants.items() if name in decided}
        self.kernel: Specialized = specialize(launch.kernel, resolved)

    @property
    def joins(self) -> bool:
        """Whether the last program at a tile adds up its summands."""
        return "arrivals_ptr" in self.kernel.parameters

    @property
    def multiplies(self) -> bool:
        """Whether it makes the products: others copy for it, or finish what it has begun."""
        return not (self.pads or self.owns or self._of in _ROWS_OF_GRID)

    @property
    def pads(self) -> bool:
        """Whether it copies x and weight to rows that the copy engine can load."""
        return self._of == "padded_rows"

    @property
    def owns(self) -> bool:
        """Whether its programs own whole columns of y."""
        return self._of == "normalize_owned_columns"

    @property
    def counts_sms(self) -> bool:
        """Whether its launch depends on how many SMs the GPU has."""
        return self.owns or self._of in {"persistent_products", "deferred_products"}

    @property
    def _of(self) -> str:
        name: str = self.launch.kernel.fn.__name__
        return name

    def text(self, *, autotuned: bool) -> list[str]:
        """The lines that launch it."""
        return [*self._sizes(), f"{self.name}[grid](", *self._arguments(autotuned=autotuned), ")"]

    def grid(self, *, autotuned: bool) -> list[str]:
        """The lines that define `grid`."""
        of = self._of
        if autotuned:
            tiles = _TILES.replace("BLOCK_M", 'meta["BLOCK_M"]').replace("BLOCK_N", 'meta["BLOCK_N"]')
            return ["def grid(meta):", f"    return ({tiles},)", ""]
        if self.joins or of in {"tiled_products", "vectored_products"}:
            tiles = "tiles" if self.joins else _TILES
            return [f"grid = ({tiles}, SPLIT_K)" if self.config.SPLIT_K > 1 else f"grid = ({tiles},)"]
        if of in {"persistent_products", "deferred_products"}:
            split = " * SPLIT_K" if self.config.SPLIT_K > 1 else ""
            programs = ctas_per_sm(self.config, self.problem)
            times = f"{programs} * " if programs > 1 else ""
            return ["# As many programs as the GPU runs at once.", f"grid = (min({_TILES}{split}, {times}num_sms),)"]
        if self.owns:
            return ["grid = (triton.cdiv(N, COLUMNS),)"]
        if self.pads:
            blocks = "(triton.cdiv(M, ROWS) + triton.cdiv(N, ROWS)) * triton.cdiv(length, COLUMNS)"
            return ["# A program for each block of x, and of weight.", f"grid = ({blocks},)"]
        if of in _ROWS_OF_GRID:
            rows = _ROWS_OF_GRID[of]
            return [f"grid = (triton.cdiv(N, COLUMNS), triton.cdiv(M, {rows}))"]
        raise UsageError(f"export does not know the grid of {of}; it exports gemm_scale and gemm_scale_bn")

    def _sizes(self) -> list[str]:
        of = self._of
        if self.pads:
            return [
                f"COLUMNS = min({PADDED_COLUMNS}, triton.next_power_of_2(length))",
                f"ROWS = {PADDED_ELEMENTS} // COLUMNS",
            ]
        if self.owns:
            return [f"ROWS, COLUMNS = {OWNED_AT_ONCE}, 16 if triton.cdiv(N, 16) <= num_sms else 32"]
        if of == "moments_of_rows":
            return [f"ROWS, COLUMNS = {self.launch.constants['ROWS']}, {self.launch.constants['COLUMNS']}"]
        if of == "normalize_columns":
            rows, columns = self.launch.constants["ROWS"], 256 // self.problem.element_bytes
            fewer = "" if columns == 64 else "64 if triton.cdiv(M, TILE_M) > 16 else "
            return [
                f"ROWS, COLUMNS = {rows}, {fewer}{columns}",
                "# At most 16 programs a column, since each of them joins all moments of its columns.",
                f"rows_per_cta = max({rows}, triton.cdiv(triton.cdiv(M, 16), {rows}) * {rows})",
            ]
        if of == "finish_split":
            rows = "triton.next_power_of_2(M)"
            rows = rows if self.problem.mode == "train" else f"min(32, {rows})"
            return [f"ROWS = {rows}", f"COLUMNS = max(16, {FINISHED_ELEMENTS} // ROWS)"]
        return []

    def _arguments(self, *, autotuned: bool) -> list[str]:
        kernel = self.kernel
        lines = [f"    {self._value(name)}," for name in kernel.parameters if name not in kernel.constexprs]
        for name in kernel.constexprs:
            if autotuned and name in {*FROM_CONFIG, "EVEN_K", "EVEN_MN"}:
                continue
            value = name if name in FROM_CONFIG or name in {"ROWS", "COLUMNS"} else _CONSTANTS.get(name)
            if name == "DTYPE":
                value = f"tl.{self.problem.dtype}"
            if value is None:
                raise UsageError(f"export does not know the constant {name} of {self.name}")
            lines.append(f"    {name}={value},")
        if not autotuned:
            options = self.launch.options
            lines += [f"    num_warps={options['num_warps']},", f"    num_stages={options['num_stages']},"]
        if self.sm < PDL_CAPABILITY or waits_for_products(self.launch.kernel):
            return lines
        return [*lines, "    **launch_options,"]

    def _value(self, name: str) -> str:
        if name == "y_desc" and self.config.masks:
            return "partial" if self.config.SPLIT_K > 1 else "y"
        if name.endswith("_desc"):
            return self._descriptor(name)
        value = _VALUES.get(name)
        if value is None:
            raise UsageError(f"export does not know the argument {name} of {self.name}")
        if value == "y" and self.launch.constants.get("EPILOGUE") == "partial":
            return "partial"
        return value

    def _descriptor(self, name: str) -> str:
        if name == "y_desc":
            width = f"BLOCK_N // {parts_of(self.config, self.problem)}".removesuffix(" // 1")
            if self.config.SPLIT_K > 1:
                return f"TensorDescriptor.from_tensor(partial, [1, BLOCK_M, {width}])"
            return f"TensorDescriptor.from_tensor(y, [BLOCK_M, {width}])"
        tensor, rows = {"x_desc": ("x", "BLOCK_M"), "w_desc": ("weight", "BLOCK_N")}[name]
        if self.config.pads:
            tensor = f"{tensor}_padded"
        rounds = self.launch.arguments[name].rounds and rounds_in_descriptor()
        more = ", round_f32_to_tf32=x.is_cuda" if rounds else ""
        return f"TensorDescriptor.from_tensor({tensor}, [{rows}, BLOCK_K]{more})"


FUNCTIONS: Final[dict[str | None, str]] = {
    None: "fused_gemm_scale",
    "eval": "fused_gemm_scale_bn_eval",
    "train": "fused_gemm_scale_bn_train",
}
_SIGNATURES: Final[dict[str | None, tuple[str, ...]]] = {
    None: ("x", "weight", "bias", "scale"),
    "eval": ("x", "weight", "bias", "scale", "gamma", "beta", "running_mean", "running_var", "eps"),
    "train": (
        *("x", "weight", "bias", "scale", "gamma", "beta", "running_mean", "running_var"),
        *("num_batches_tracked", "momentum", "eps"),
    ),
}
_NO_VECTORS: Final = ("num_batches_tracked", "momentum", "eps")
_SUMMARIES: Final[dict[str | None, str]] = {
    None: "y = (x @ weight.T + bias) * scale.",
    "eval": "BatchNorm1d((x @ weight.T + bias) * scale) with the running statistics.",
    "train": "BatchNorm1d((x @ weight.T + bias) * scale) in training.\n\nUpdates the running statistics in place.",
}


def wrapper_text(parts: Sequence[Part], problem: Problem, config: Config, *, autotuned: bool) -> str:
    """The wrapper function that launches the parts."""
    mode = problem.mode
    kinds: Mapping[str, str] = {"momentum": "float", "eps": "float"}
    arguments = ", ".join(f"{name}: {kinds.get(name, 'torch.Tensor')}" for name in _SIGNATURES[mode])
    vectors = "bias, scale" if mode is None else "all other vectors"
    body = [
        *f'"""{_SUMMARIES[mode]}'.splitlines(),
        "",
        f"x [M, K]; weight [N, K], as nn.Linear keeps it; {vectors} [N]; all {problem.dtype}.",
        '"""',
        *_checks(problem, config),
        "M, K = x.shape",
        "N = weight.shape[0]",
    ]
    tile = FROM_CONFIG[: 5 if config.SPLIT_K > 1 else 4]
    if not autotuned:
        body.append(f"{', '.join(tile)} = {', '.join(str(getattr(config, name)) for name in tile)}")
    body += _limits(problem, config)
    differentiable = ", ".join(
        name for name in ("x", "weight", "bias", "scale", "gamma", "beta") if name in _SIGNATURES[mode]
    )
    returned = f"return forward_only(y, {differentiable})"
    body += ["y = torch.empty((M, N), device=x.device, dtype=x.dtype)", "if y.numel() == 0:", f"    {returned}"]
    names = {name for part in parts for name in part.kernel.parameters}
    if config.pads:
        body += [
            "# The copy engine loads from copies, whose rows begin on 128 bytes.",
            "UNIT = 128 // x.element_size()",
            "length = triton.cdiv(K, UNIT) * UNIT",
            "x_padded = torch.empty((M, length), device=x.device, dtype=x.dtype)",
            "weight_padded = torch.empty((N, length), device=x.device, dtype=x.dtype)",
        ]
    if "arrivals_ptr" in names:
        body += [
            f"tiles = {_TILES}",
            "partial = torch.empty((tiles, SPLIT_K, BLOCK_M, BLOCK_N), device=x.device, dtype=torch.float32)",
            "arrivals = arrivals_of(x, tiles)",
        ]
    elif "partial_ptr" in names:
        body.append("partial = torch.empty((SPLIT_K, M, N), device=x.device, dtype=torch.float32)")
    if "moments_ptr" in names:
        eighth, sixteenth = ("triton.next_power_of_2(triton.cdiv(M, 8))", "triton.next_power_of_2(triton.cdiv(M, 16))")
        reread = f"min(max(128, min({eighth}, 256), {sixteenth}), {MOST_ROWS})"
        body += [
            f"TILE_M = {reread if config.rereads else 'BLOCK_M'}",
            "moments = torch.empty((2, triton.cdiv(M, TILE_M), N), device=x.device, dtype=torch.float32)",
        ]
    if parts[0].sm >= PDL_CAPABILITY:
        early = []
        if mode == "train":
            early = [
                "# Not where y is beyond L2: kernels that wait would hold what the passes over y want.",
                f"overlaps = overlaps and y.numel() * y.element_size() <= {PDL_MOST_BYTES}",
            ]
        body += [
            "# From compute capability 9.0 on, a kernel may begin while the one ahead of it still runs.",
            "overlaps = x.is_cuda and torch.cuda.get_device_capability(x.device)[0] >= 9",
            *early,
            'launch_options = {"launch_pdl": True} if overlaps else {}',
        ]
    if any(part.counts_sms for part in parts):
        body += [
            "# Triton's interpreter has two.",
            "properties = torch.cuda.get_device_properties(x.device) if x.is_cuda else None",
            "num_sms = properties.multi_processor_count if properties else 2",
        ]
    for part in parts:
        launch, grid = part.text(autotuned=autotuned), part.grid(autotuned=autotuned)
        start = next(index for index, line in enumerate(launch) if "[grid](" in line)
        body += ["", *launch[:start], *grid, *launch[start:]]
    if mode == "train":
        for one in ("mean", "var"):
            body += [f"if running_{one} is not kept_{one}:", f"    kept_{one}.copy_(running_{one})"]
    body.append(returned)
    lines = "\n".join(f"    {line}" if line else "" for line in body)
    return f"def {FUNCTIONS[mode]}({arguments}) -> torch.Tensor:\n{lines}"


def _checks(problem: Problem, config: Config) -> list[str]:
    """What makes of any tensors those that the kernels take, or says why not."""
    mode = problem.mode
    vectors = [name for name in _SIGNATURES[mode] if name not in {"x", "weight", *_NO_VECTORS}]
    checks = []
    if mode == "train":
        checks.append("kept_mean, kept_var = running_mean, running_var")
    given = ", ".join(f"{name}={name}" for name in vectors)
    checks.append(f"{', '.join(vectors)} = fitting(x, weight, {given})")
    if mode == "train":
        checks += [
            "counts = isinstance(num_batches_tracked, torch.Tensor) and num_batches_tracked.numel() == 1",
            "if not counts or (num_batches_tracked.dtype, num_batches_tracked.device) != (torch.int64, x.device):",
            '    raise TypeError("num_batches_tracked must be one int64 where x is")',
        ]
    checks += [
        "if x.is_cuda and x.device.index != torch.cuda.current_device():",
        "    # Triton launches on the current device.",
        "    with torch.cuda.device(x.device):",
        f"        return {FUNCTIONS[mode]}({', '.join(_again(name, mode) for name in _SIGNATURES[mode])})",
    ]
    if not config.pads:  # Those copies are made of rows of any strides.
        made = "for_copy_engine" if config.is_walking else "in_reach"
        checks.append(f"x, weight = {made}(x), {made}(weight)")
    return checks


def _again(name: str, mode: str | None) -> str:
    """An argument as the caller gave it."""
    return {"running_mean": "kept_mean", "running_var": "kept_var"}.get(name, name) if mode == "train" else name


def _limits(problem: Problem, config: Config) -> list[str]:
    """Sizes that the kernels of a config are not for."""
    limits = []
    if config.pads:
        limits += ["if K == 0:", '    raise ValueError("rows must not be empty: K=0")']
    elif config.is_walking:
        some = 16 // problem.element_bytes
        lengths = ("K",) if config.masks else ("K", "N")
        divided = " or ".join(f"{length} % {some}" for length in lengths)
        sizes = " and ".join(f"{length}={{{length}}}" for length in lengths)
        limits += [
            f"if K == 0 or {divided}:",
            f'    raise ValueError(f"rows must be of whole 16 bytes: {some} must divide {sizes}")',
        ]
    if config.variant == "deferred":
        limits += [
            f"if triton.cdiv(K, BLOCK_K) < {DEFERRED_STEPS}:",
            f'    raise ValueError(f"K={{K}} has fewer than the {DEFERRED_STEPS} steps that a tile is stored beside")',
        ]
    if problem.mode != "train":
        return limits
    limits += [
        "if M < 2:",
        "    num_batches_tracked += 1  # As nn.BatchNorm1d does before it refuses.",
        '    raise ValueError("training needs more than one row: one has no variance")',
    ]
    most = "BLOCK_M" if holds_columns(config, problem) else MOST_FINISHED_ROWS if config.SPLIT_K > 1 else None
    if most is not None:
        told = f"{{{most}}}" if isinstance(most, str) else most
        limits += [
            f"if M > {most}:",
            f'    raise ValueError(f"a program holds whole columns: at most {told} rows, got {{M}}")',
        ]
    return limits


def tuned_decorators(configs: Sequence[Config]) -> list[str]:
    """What makes Triton choose among configs at a kernel's first launch for new sizes."""
    tile = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M")
    lines = ["@triton.autotune(", "    configs=["]
    for config in configs:
        sizes = ", ".join(f'"{name}": {getattr(config, name)}' for name in tile)
        lines.append(
            f"        triton.Config({{{sizes}}}, num_warps={config.num_warps}, num_stages={config.num_stages}),"
        )
    even_mn = 'args["M"] % args["BLOCK_M"] == 0 and args["N"] % args["BLOCK_N"] == 0'
    return [
        *lines,
        "    ],",
        '    key=["M", "N", "K"],',
        ")",
        "@triton.heuristics(",
        "    {",
        '        "EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0,',
        f'        "EVEN_MN": lambda args: {even_mn},',
        "    }",
        ")",
        "@triton.jit",
    ]
