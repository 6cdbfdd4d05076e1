"""A file of tuned configs as large as one wants, for the look-ups of `benchmarks/dispatch.py`."""

from __future__ import annotations

from importlib.metadata import version

from fusetune.core.decision import Gain
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.target import find_target
from fusetune.ops.gemm_scale.config import BASELINE, Config
from fusetune.ops.gemm_scale.problem import Problem, make_problem
from fusetune.ops.loading import load_spec
from fusetune.store.schema import ConfigFile, ConservativeGain, Entry, Times
from fusetune.store.yaml_files import dump_config_file

ROWS = tuple(2**power for power in range(4, 14))


def problems(entries: int) -> list[Problem]:
    """So many problems, ten rows each for growing N and K."""
    return [
        make_problem(ROWS[index % 10], 64 * (1 + index // 10 % 40), 64 * (1 + index // 400), "float32")
        for index in range(entries)
    ]


def large_file(entries: int) -> str:
    """YAML as `fusetune sweep` writes it; the figures in it are made up."""
    known = find_target("h200")
    environment = Environment(
        triton=version("triton"),
        kernel_hash=load_spec("gemm_scale").source_hash(BASELINE),
        torch=version("torch"),
        cuda="13.0",
        driver="580.159.04",
    )
    config = Config(BLOCK_N=16, BLOCK_K=128, num_stages=3)
    over = ConservativeGain(median=0.195, low=0.19, high=0.201, blocks=25, config=Config(BLOCK_N=16, BLOCK_K=128))
    made = tuple(
        Entry(
            problem=problem,
            config=config,
            evidence="measured",
            verdict="keep",
            reason="gain_confirmed",
            environment=environment,
            run="20261123T101500-3f9a",
            date="2026-11-23",
            gain=Gain(median=0.598, low=0.596, high=0.601, confidence=0.95, min_gain=0.02, blocks=50),
            gain_over_conservative=over,
            time_us=Times(baseline=13.2, conservative=6.6, config=5.3),
        )
        for problem in problems(entries)
    )
    target = TargetIdentity(name=known.name, capability=known.capability, sms=known.sms)
    return dump_config_file(ConfigFile(schema=2, op="gemm_scale", target=target, entries=made))
