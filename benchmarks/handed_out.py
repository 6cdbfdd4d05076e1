"""Whether every module exported from the shipped configs compiles to machine code: `python benchmarks/handed_out.py`.

The tests take all of them through Triton's front end and one of each kind further; this takes each distinct launch of
each module as far as ptxas goes, for the GPU that its config is for. Needs no GPU, and some minutes. Exit code 1 where
one does not compile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from msgspec import structs

from fusetune.compiler.build import compile_launch
from fusetune.core.target import find_target
from fusetune.errors import CompileError, UsageError
from fusetune.ops.spec import load_spec
from fusetune.report.export.module import export_module
from fusetune.store.yaml_files import read_config_file

ROOT = Path(__file__).resolve().parents[1]
GPUS = {"nvidia-geforce-rtx-4090": "rtx4090", "nvidia-h200": "h200", "nvidia-h100-80gb-hbm3": "h100"}


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.support.exporting import modes_of
    from tests.support.handed_out import identity, launches_of, loaded

    seen: set[str] = set()
    modules = failed = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((ROOT / "configs").glob("*/*.yaml")):
            file, target = read_config_file(path), find_target(GPUS[path.parent.name])
            for problem in dict.fromkeys(structs.replace(entry.problem, mode=None) for entry in file.entries):
                for autotune in (False, True):
                    try:
                        text = export_module(load_spec(file.op), problem, target, [ROOT / "configs"], autotune=autotune)
                    except UsageError as error:
                        if "nothing to choose between" not in str(error):
                            raise
                        continue
                    module = loaded(Path(folder) / f"module_{modules}.py", text)
                    modules += 1
                    for mode in modes_of(file.op):
                        for launch in launches_of(module, structs.replace(problem, mode=mode), target):
                            told = identity(launch, target)
                            if told in seen:
                                continue
                            seen.add(told)
                            try:
                                compile_launch(launch, target)
                            except CompileError as error:
                                failed += 1
                                kernel = launch.kernel.fn.__name__
                                print(f"{path.parent.name} {file.op} {problem.describe()} {kernel}: {error}")
    took = time.monotonic() - begun
    print(f"{modules} modules, {len(seen)} distinct launches, {failed} do not compile ({took:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
