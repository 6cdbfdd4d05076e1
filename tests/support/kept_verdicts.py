"""A case with a config that was kept, its entry on disk and its run's journal, as a sweep leaves them."""

from __future__ import annotations

from pathlib import Path

import fusetune
from fusetune.capture.cases import Case
from fusetune.core.config import NamedConfig
from fusetune.core.decision import Gain, KeepRule
from fusetune.core.environment import Environment, TargetIdentity
from fusetune.core.problem import NamedProblem
from fusetune.ops.naming import kernel_place, op_name
from fusetune.store.journal import JOURNAL_VERSION, JournalWriter, RunEnd, RunStart
from fusetune.store.paths import config_path
from fusetune.store.schema import Entry, GainOver, Times
from fusetune.store.yaml_files import write_entry
from fusetune.tune.program import Tuned
from fusetune.tune.request import SweepResult

H200 = TargetIdentity(name="NVIDIA H200", capability="9.0", sms=132)
GAIN = Gain(median=0.2, low=0.19, high=0.21, confidence=0.95, min_gain=0.02, blocks=50)
RUN = "20261123T101500-3f9a21"


def kept(case: Case, before: NamedConfig, chosen: NamedConfig, folder: Path) -> Tuned:
    """The case as `tune_case` gives it, where `chosen` was kept in place of `before`."""
    kernel = case.kernel
    op = op_name(kernel.module, kernel.name, kernel.file)
    problem = NamedProblem(size=100)
    baseline = NamedConfig(**before.constants())
    environment = Environment(triton="3.7.1", kernel_hash="5ca1ab1e")
    entry = Entry(
        problem=problem,
        before=before,
        config=chosen,
        evidence="measured",
        verdict="keep",
        reason="gain_confirmed",
        environment=environment,
        run=RUN,
        date="2026-11-23",
        gain=GAIN,
        gain_over_baseline=GainOver(0.3, 0.29, 0.31, 50, baseline),
        time_us=Times(before=10.0, baseline=11.4, conservative=11.4, config=8.0),
    )
    path = config_path(folder / "configs", H200.name, op)
    write_entry(path, op, H200, entry, None, (kernel_place(kernel.module, kernel.name, kernel.file), kernel.file))
    journal = folder / "runs" / f"{kernel.name}.jsonl"
    start = RunStart(
        journal=JOURNAL_VERSION,
        run=RUN,
        started="2026-11-23T10:15:00Z",
        fusetune=fusetune.__version__,
        op=op,
        problem=problem,
        target=H200,
        evidence="measured",
        environment=environment,
        space="standard",
        seed=0,
        rule=KeepRule(),
        cache="cold",
        prior=True,
        allow_library=False,
        baseline=baseline,
        before=before,
    )
    with JournalWriter(journal) as writer:
        writer.write(start)
        writer.write(RunEnd(entry=entry, file=str(path), message="keep"))
    result = SweepResult(run=RUN, entry=entry, best=(), file=path, journal=journal, target_name=H200.name, tried=5)
    return Tuned(
        case=case, op=op, problem=problem, before=before, baseline=baseline, end="keep", result=result, seconds=1.0
    )
