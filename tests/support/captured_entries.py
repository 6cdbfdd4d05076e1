"""Entries of what a program launches, as `fusetune tune` leaves them, without the time that tuning takes."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from fusetune.capture.look import look
from fusetune.capture.programs import parse_program
from fusetune.capture.spec import CapturedSpec
from fusetune.core.config import NamedConfig, with_options
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, GainOver, Times
from fusetune.store.yaml_files import write_entry
from tests.support.launch_entries import GAIN


def write_captured(
    program: Path, configs: Path, identity: TargetIdentity, *, warps: int, target: str | None = None
) -> dict[str, NamedConfig]:
    """Run a program once, and add an entry for each of its cases: what runs there, with so many warps.

    The configs by the kernels' names.
    """
    looked = look(parse_program([str(program)]), target=target, keep=program.parent / "captures")
    assert looked.failed is None
    written = {}
    for case in looked.cases:
        assert case.kept is not None
        spec = CapturedSpec(Path(case.kept))
        problem = spec.captured_problem()
        baseline = spec.baseline(problem)
        before = spec.before(problem) or baseline
        config = with_options(before, num_warps=warps)
        entry = Entry(
            problem=problem,
            before=before,
            config=config,
            evidence="measured",
            verdict="keep",
            reason="gain_confirmed",
            environment=Environment(
                triton=version("triton"),
                kernel_hash=spec.source_hash(),
                torch=str(torch.__version__),
                cuda=torch.version.cuda,
            ),
            run="20261123T101500-3f9a21",
            date="2026-11-23",
            gain=GAIN,
            gain_over_baseline=GainOver(0.3, 0.29, 0.31, 50, baseline),
            time_us=Times(before=10.0, baseline=11.4, conservative=11.4, config=8.0),
        )
        write_entry(config_path(configs, identity.name, spec.name), spec.name, identity, entry, None, spec.kernel_place)
        written[case.kernel.name] = config
    return written
