"""Whether exported modules are as fast as the library: `python benchmarks/exported.py`. Needs a GPU.

Each case is exported to a file, the file's kernels are launched beside the library's own for the same config, in one
process and in paired blocks, and both directions of the keep rule are asked: neither may be 2 % faster. What the
exported kernels compute is checked first, as any candidate's is. Writes OUTPUT/exported-<gpu>.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from fusetune.core.decision import KeepRule
from fusetune.core.target import Target
from fusetune.core.text import slugify
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.paired import compare
from fusetune.measure.protocol import Failure
from fusetune.nn.export.choice import Choice
from fusetune.nn.export.module import module_text, parts_of_module
from fusetune.ops.gemm_scale.batch_norm import EPS, MOMENTUM, GemmScaleBatchNorm
from fusetune.ops.gemm_scale.config import OTHER, Config
from fusetune.ops.gemm_scale.launches import gemm_launches
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.loading import load_spec
from fusetune.ops.spec import Launch, Operand
from fusetune.store.lookup import Lookup

RESULTS = Path(__file__).resolve().parent / "results"
SMALL_CONFIG = Config(BLOCK_M=32, BLOCK_N=16, BLOCK_K=256, num_stages=3)
LARGE_CONFIG = Config(BLOCK_M=128, BLOCK_N=256, GROUP_M=8, num_warps=8, num_stages=4)
PERSISTENT = Config(variant="persistent", BLOCK_M=128, BLOCK_N=256, BLOCK_K=32, GROUP_M=8, num_warps=8, num_stages=3)
JOINED = Config(variant="persistent", BLOCK_M=64, BLOCK_N=16, BLOCK_K=128, SPLIT_K=2, num_stages=3)
CASES: Sequence[tuple[str, tuple[int, int, int], str | None, Config]] = (
    ("gemm_scale", (128, 512, 1024), None, SMALL_CONFIG),
    ("gemm_scale", (1024, 8192, 8192), None, LARGE_CONFIG),
    ("gemm_scale", (1024, 8192, 8192), None, PERSISTENT),
    ("gemm_scale_bn", (128, 512, 1024), "eval", SMALL_CONFIG),
    ("gemm_scale_bn", (128, 512, 1024), "train", SMALL_CONFIG),
    ("gemm_scale", (128, 512, 1024), None, JOINED),
)


class ExportedSpec(GemmScaleBatchNorm):
    """The op, and for a config whose variant begins with OTHER the same launches of an exported module's kernels.

    `names` are those kernels, in the order of the launches. The counter of batches, which a module keeps in training,
    is a workspace here.
    """

    def __init__(self, op: str, module: str, names: Sequence[str]) -> None:
        self._spec = load_spec(op)
        self.name, self.modes = op, self._spec.modes
        self._module, self._names = module, tuple(names)

    def operands(self, problem: Problem) -> tuple[Operand, ...]:
        return self._spec.operands(problem)

    def workspace(self, problem: Problem, config: Config) -> tuple[Operand, ...]:
        counter = (Operand("num_batches_tracked", (1,), "float32", role="output"),) if problem.mode == "train" else ()
        return (*self._spec.workspace(problem, _plain(config)), *counter)

    def launches(self, problem: Problem, config: Config, tensors: Mapping[str, Any]) -> Sequence[Any]:
        counter = "count" if problem.mode == "train" else "none"
        ending: Any = problem.mode or "scale"
        made = gemm_launches(
            problem,
            _plain(config),
            tensors,
            ending,
            eps=EPS,
            momentum=MOMENTUM,
            counter=counter,  # type: ignore[arg-type]
        )
        if not config.variant.startswith(OTHER):
            return made
        module = importlib.import_module(self._module)
        return [_launch_of(getattr(module, name), launch) for name, launch in zip(self._names, made, strict=True)]

    def reference(self, problem: Problem, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._spec.reference(problem, inputs)

    def tolerance(self, problem: Problem) -> Any:
        return self._spec.tolerance(problem)


def _plain(config: Config) -> Config:
    return structs.replace(config, variant=config.variant.removeprefix(OTHER))


def _launch_of(kernel: Any, launch: Any) -> Launch:
    names = set(kernel.arg_names)
    arguments = {name: value for name, value in launch.arguments.items() if name in names}
    constants = {name: value for name, value in launch.constants.items() if name in names}
    return Launch(kernel, launch.grid, arguments, constants, launch.options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"date": f"{date.today():%Y-%m-%d}", "cases": []}
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        for number, (op, (M, N, K), mode, config) in enumerate(CASES):
            problem = make_problem(M, N, K, "float32", mode=mode)  # type: ignore[arg-type]
            row = measured(op, problem, config, Path(folder), f"exported_{number}", result)
            result["cases"].append(row)
            print(f"{op} {problem.describe()}, {config.label()}: {row['told']}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"exported-{slugify(result['gpu'])}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


def measured(
    op: str, problem: Problem, config: Config, folder: Path, module: str, result: dict[str, Any]
) -> dict[str, Any]:
    spec = load_spec(op)
    with closing(CudaMeasurer(spec, problem)) as first:
        facts = first.facts()
    result.update(gpu=facts.identity.name, environment=to_builtins(facts.environment))
    names = write_module(op, problem, config, facts.target, folder / f"{module}.py")
    with closing(CudaMeasurer(ExportedSpec(op, module, names), problem)) as measurer:
        measurer.prepare(0)
        other = structs.replace(config, variant=OTHER + config.variant)
        for one in (config, other):
            checked = measurer.check(one)
            if isinstance(checked, Failure):
                return {"op": op, "problem": problem.describe(), "told": f"{checked.reason}: {checked.detail}"}
        measurer.warm_up()
        # As many blocks as there are, so that the interval is as narrow as it can be.
        rule = KeepRule(looks=(400,))
        found = compare(measurer, config, other, rule, comparisons=1, rng=random.Random(0), on_block=lambda _: None)
    if isinstance(found, Failure):
        return {"op": op, "problem": problem.describe(), "told": f"{found.reason}: {found.detail}"}
    gain = found.gain
    within = gain.low > -0.02 and gain.high < 0.02
    return {
        "op": op,
        "problem": problem.describe(),
        "config": config.label(),
        "library_us": round(found.baseline_us, 3),
        "exported_us": round(found.config_us, 3),
        "gain_of_exported": to_builtins(gain),
        "within_2_percent": within,
        "told": f"{found.baseline_us:.2f} us, exported {found.config_us:.2f} us, "
        f"{'within' if within else 'NOT within'} 2 %",
    }


def write_module(op: str, problem: Problem, config: Config, target: Target, path: Path) -> list[str]:
    """Export one case; the names of its kernels for the problem's mode, in the order of their launches."""
    spec = load_spec(op)
    modes = ("train", "eval") if op == "gemm_scale_bn" else (None,)
    choices = [Choice(structs.replace(problem, mode=mode), Lookup(config, "baseline"), (config,)) for mode in modes]
    path.write_text(module_text(spec, choices, target))
    chosen = next(choice for choice in choices if choice.problem.mode == problem.mode)
    return [part.name for part in parts_of_module(spec, chosen, target)]


if __name__ == "__main__":
    main()
