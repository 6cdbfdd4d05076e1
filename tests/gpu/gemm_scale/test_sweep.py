"""The whole sweep on a GPU: the main job, and candidates that break."""

from __future__ import annotations

import json

import pytest
import torch

import fusetune
from fusetune.core.progress import SilentProgress
from fusetune.gate.findings import exit_code
from fusetune.gate.live import live_gate
from fusetune.measure.cuda import CudaMeasurer
from fusetune.measure.protocol import Checked, Failure
from fusetune.ops.gemm_scale.config import BASELINE
from fusetune.ops.gemm_scale.linear_scale import SPEC
from fusetune.ops.gemm_scale.problem import make_problem
from fusetune.store.journal import Candidate, read_journal
from fusetune.store.yaml_files import read_config_file
from fusetune.tune.request import SweepRequest
from fusetune.tune.sweep import sweep
from tests.support.gemm_scale import faulty


@pytest.fixture
def measurer_for():
    opened = []

    def make(spec, problem, **options):
        opened.append(CudaMeasurer(spec, problem, **options))
        return opened[-1]

    yield make
    for measurer in opened:
        measurer.close()


def test_a_sweep_writes_what_the_runtime_loads_and_the_gate_confirms(tmp_path, measurer_for):
    problem = make_problem(128, 512, 1024, "float32")
    request = SweepRequest(spec=SPEC, problem=problem, output=tmp_path, runs=tmp_path / "runs", space="seed")
    result = sweep(request, measurer_for(SPEC, problem), SilentProgress())
    assert result.file is not None
    file = read_config_file(result.file)
    assert file.entries == (result.entry,)
    kinds = [json.loads(line)["kind"] for line in result.journal.read_text().splitlines()]
    assert kinds[0] == "run"
    assert kinds[-1] == "end"
    assert kinds.count("block") >= 25

    fusetune.load(tmp_path, strict=True)
    try:
        found = fusetune.explain(M=128, N=512, K=1024)
        assert found.config == result.entry.config
        x, w = torch.randn(128, 1024, device="cuda"), torch.randn(512, 1024, device="cuda")
        b, s = torch.randn(2, 512, device="cuda")
        expected = torch.nn.functional.linear(x, w, b) * s
        torch.testing.assert_close(fusetune.fused_gemm_scale(x, w, b, s), expected, rtol=1e-2, atol=0.3)
    finally:
        fusetune.load()

    findings = live_gate([(result.file, file)], measurer_for, SilentProgress())
    assert exit_code(findings) == 0


def test_candidates_that_break_are_outcomes_and_what_follows_is_untouched(measurer_for):
    problem = make_problem(128, 512, 1024, "float32")
    measurer = measurer_for(faulty.SPEC, problem, time_limit_s=8.0)
    measurer.prepare(0)
    for config, reason in faulty.BAD.items():
        outcome = measurer.check(config)
        assert isinstance(outcome, Failure), config.label()
        # Nothing compiles here: a kernel that does not compile fails when it is launched.
        assert outcome.reason == ("launch_error" if reason == "compile_error" else reason), outcome
        assert isinstance(measurer.check(BASELINE), Checked)


def test_a_sweep_with_six_bad_candidates_ends_with_the_winner_of_the_good_ones(tmp_path, measurer_for):
    problem = make_problem(128, 512, 1024, "float32")
    entries = {}
    for spec in (faulty.SPEC, faulty.SOUND_SPEC):
        request = SweepRequest(spec=spec, problem=problem, output=tmp_path, runs=tmp_path / "runs", space="full")
        result = sweep(request, measurer_for(spec, problem, time_limit_s=8.0), SilentProgress())
        entries[spec.name] = result.entry
        if spec is faulty.SPEC:
            records = [r for r in read_journal(result.journal) if isinstance(r, Candidate)]
            reasons = {record.config: record.reason for record in records if record.status in {"failed", "rejected"}}
            assert reasons == faulty.BAD
    assert entries["faulty_gemm_scale"].config == entries["sound_gemm_scale"].config
    assert entries["faulty_gemm_scale"].verdict == "keep"
