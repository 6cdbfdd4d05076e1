"""From verdicts to changes of source: what is wanted of each case, on what grounds, and what is handed out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.capture.cases import Case, KernelSeen, Looked, Site, TensorSeen
from fusetune.capture.programs import Program
from fusetune.cli.tuned_code import Outputs, check_program, code_of, hand_out, module_of, outputs_of, plan_of
from fusetune.cli.wanted import changes_of, values_of
from fusetune.code.patch.written import sha256_of
from fusetune.core.bound import Bound
from fusetune.core.config import Config, NamedConfig
from fusetune.core.decision import Gain
from fusetune.core.diagnosis import Diagnosis
from fusetune.core.environment import Environment
from fusetune.core.problem import NamedProblem
from fusetune.core.rules import LOW_PRESSURE
from fusetune.errors import ConfigFileError, UsageError
from fusetune.store.schema import Entry, GainOver, Times
from fusetune.tune.explained import Compiled, Explanation
from fusetune.tune.program import End, Tuned
from fusetune.tune.request import Ranked, SweepResult

SOURCE = """import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def double(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


class ModelNew(nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        n = x.numel()
        double[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, n, BLOCK=1024)
        return y
"""
BEFORE = NamedConfig(num_warps=4, num_stages=3, BLOCK=1024)
BASELINE = NamedConfig(num_warps=4, num_stages=2, BLOCK=1024)
BEST = NamedConfig(num_warps=8, num_stages=3, BLOCK=2048)
GAIN = Gain(median=0.31, low=0.30, high=0.32, confidence=0.95, min_gain=0.02, blocks=25)
TENSOR = TensorSeen("float32", (5000,), (1,), 0, 0, 20000, aligned=True)


def case_of(file: Path, **more: Any) -> Case:
    line = next(number for number, text in enumerate(SOURCE.splitlines(), start=1) if "double[" in text)
    site = Site(
        str(file),
        line,
        8,
        ("x_ptr", "y_ptr", "n", "BLOCK"),
        follows=("BLOCK",),
        files={str(file): sha256_of(SOURCE.encode())},
    )
    described: dict[str, Any] = {
        "kernel": KernelSeen("double", "m", str(file), 7),
        "grid": (5,),
        "grid_kind": "callable",
        "tensors": {"x_ptr": TENSOR, "y_ptr": TENSOR},
        "values": {"n": 5000},
        "constants": {"BLOCK": 1024},
        "options": {},
        "before": {"num_warps": 4, "num_stages": 3, "num_ctas": 1},
        "us": 10.0,
        "roles": {"x_ptr": "read", "y_ptr": "written"},
        "site": site,
    }
    return Case(**{**described, **more})


def tuned_of(case: Case, end: End = "keep", config: Config = BEST, best: tuple[Ranked, ...] = ()) -> Tuned:
    is_measured = end != "unverified"
    entry = Entry(
        problem=NamedProblem(n=5000),
        before=BEFORE,
        config=config,
        evidence="measured" if is_measured else "predicted",
        verdict=end,  # type: ignore[arg-type]
        reason="gain_confirmed" if end == "keep" else "gain_below_minimum" if is_measured else "predicted_not_timed",
        environment=Environment(triton="3.7.1", kernel_hash="0" * 12),
        run="20261129T101010-aaaaaa",
        date="2026-11-29",
        gain=GAIN if is_measured else None,
        gain_over_baseline=GainOver(0.25, 0.24, 0.26, 25, BASELINE) if is_measured else None,
        time_us=Times(before=10.0, baseline=9.0, config=6.9) if is_measured else None,
        predicted_us=None if is_measured else Times(before=1.0, baseline=1.0, config=1.0),
    )
    result = SweepResult(entry.run, entry, best, None, Path("j"), "NVIDIA H200")
    return Tuned(
        case=case, op="double", problem=entry.problem, before=BEFORE, baseline=BASELINE, end=end, result=result
    )


def handed_out(outputs: Outputs, program: Program, tuned: list[Tuned], looked: Looked) -> str:
    """Without a word of the program's, as where there is no GPU."""
    return hand_out(outputs, program, tuned, looked, code_of(outputs, program, tuned, looked, None))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "current.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_a_kept_config_is_written_with_what_was_measured(file: Path) -> None:
    tuned = [tuned_of(case_of(file))]
    (patch,) = plan_of(tuned, Looked((tuned[0].case,), gpu="NVIDIA H200"), autotune=False).files
    indent = " " * 8
    comment = (
        f"{indent}# fusetune: BLOCK=2048 w8 s3: 6.90 us, was 10.0 us with BLOCK=1024 w4 s3.\n"
        f"{indent}# fusetune: Gain +31.0 % in [+30.0, +32.0] % at 95 %.\n"
        f"{indent}# fusetune: Over 4 warps / 2 stages +25.0 % in [+24.0, +26.0] %.\n"
        f"{indent}# fusetune: NVIDIA H200, run 20261129T101010-aaaaaa, 2026-11-29.\n"
    )
    launch = f"{indent}double["
    wanted = SOURCE.replace(launch, f"{comment}{launch}").replace("n, BLOCK=1024", "n, BLOCK=2048, num_warps=8")
    assert patch.after.decode() == wanted


def test_constants_have_the_kernel_s_own_names_and_what_follows_them_is_as_it_then_is(file: Path) -> None:
    constants = {"_BLOCK": 1024, "label": 64, "EVEN": True, "NUM": 5}
    config = NamedConfig(num_warps=8, num_stages=3, BLOCK_=2048, label_=32)
    case = case_of(file, constants=constants)
    assert case.site is not None
    case = structs.replace(case, site=structs.replace(case.site, computed=("EVEN",)))
    options = {"num_warps": 8, "num_stages": 3, "num_ctas": 1, "maxnreg": None}
    one = tuned_of(case, config=config)
    assert values_of(one, config) == {**constants, "_BLOCK": 2048, "label": 32, **options}
    followed = {"_BLOCK": 2048, "label": 32, "NUM": 3, "EVEN": False, "count": 3}
    one = structs.replace(one, arguments={config: followed})
    wanted = {"_BLOCK": 2048, "label": 32, "NUM": 3, "EVEN": True, **options}
    assert values_of(one, config) == wanted, "heuristics compute EVEN again, and count is no constant"


def test_a_case_takes_what_was_right_and_no_slower_as_far_as_the_screening_went(file: Path) -> None:
    slower, quick = (NamedConfig(**{**dict(BEFORE), "BLOCK": block}) for block in (128, 512))
    one = tuned_of(case_of(file), best=(Ranked(BEST, 6.9), Ranked(BEFORE, 10.0)))
    screened = (*(one.result.best if one.result else ()), Ranked(quick, 8.0), Ranked(slower, 10.1))
    (change,), _ = changes_of([structs.replace(one, result=structs.replace(one.result, screened=screened))], "GPU")
    assert {taken.values["BLOCK"]: taken.share for taken in change.accepts} == pytest.approx(
        {2048: 0.69, 1024: 1.0, 512: 0.8}
    )
    assert changes_of([structs.replace(one, end="unverified")], "GPU")[0][0].accepts == ()


def test_autotune_leaves_the_chosen_one_with_before_and_baseline(file: Path) -> None:
    (change,), _ = changes_of([tuned_of(case_of(file))], "GPU", autotune=True)
    assert [(one["BLOCK"], one["num_warps"], one["num_stages"]) for one in change.tried] == [
        (2048, 8, 3),
        (1024, 4, 3),
        (1024, 4, 2),
    ]
    assert change.key == ("n",)
    assert change.restored == ()
    steps = case_of(file, values={"n": 5000, "step": 3}, differing=("step",))
    (counting,), _ = changes_of([tuned_of(steps)], "GPU", autotune=True)
    assert counting.key == ("n",), "a number that counts steps says nothing of which launches are alike"
    in_place, _ = changes_of(
        [tuned_of(case_of(file, roles={"x_ptr": "both", "y_ptr": "atomic"}))], "GPU", autotune=True
    )
    assert in_place[0].restored == ("x_ptr", "y_ptr"), "each trial gets its inputs back"
    tensors = {"x_ptr": structs.replace(TENSOR, block=(64,)), "y_ptr": TENSOR, "more.0": TENSOR}
    roles = dict.fromkeys(tensors, "both")
    in_place, _ = changes_of([tuned_of(case_of(file, tensors=tensors, roles=roles))], "GPU", autotune=True)
    told = in_place[0].restored, in_place[0].unrestored
    assert told == (("y_ptr",), ("x_ptr", "more.0")), "a descriptor and a part of a tuple are no tensors of a name"


def test_lookup_is_for_lists_with_a_config_that_was_kept_and_all_else_is_written(file: Path) -> None:
    listed = case_of(file)
    assert listed.site is not None
    listed = structs.replace(listed, site=structs.replace(listed.site, listed=("BLOCK", "num_warps", "num_stages")))
    stays = tuned_of(listed, end="revert", config=BEFORE)
    changes, _ = changes_of([tuned_of(listed), stays, tuned_of(case_of(file))], "GPU", lookup=True)
    assert [one.looks_up for one in changes] == [True, False, False]
    assert not any(one.looks_up for one in changes_of([tuned_of(listed)], "GPU")[0])
    decorated = SOURCE.replace(
        "@triton.jit", '@triton.autotune([triton.Config({"BLOCK": 1024})], key=["n"])\n@triton.jit'
    )
    file.write_text(decorated)
    moved = structs.replace(listed, site=structs.replace(listed.site, line=listed.site.line + 1, files={}))
    plan = plan_of([tuned_of(moved)], Looked((moved,), gpu="NVIDIA H200"), autotune=False, lookup=True)
    assert plan.findings == ()
    (patch,) = plan.files
    assert b'@fusetune.autotune([triton.Config({"BLOCK": 1024})], key=["n"])' in patch.after
    assert b"import fusetune\nimport triton\n" in patch.after


def test_lookup_leaves_the_list_of_a_prediction_and_says_so(file: Path) -> None:
    one = structs.replace(
        tuned_of(case_of(file), "unverified", BEFORE), explanation=explanation_of(BASELINE, BEFORE, BEST)
    )
    assert one.case.site is not None
    site = structs.replace(one.case.site, listed=("BLOCK", "num_warps", "num_stages"))
    listed = structs.replace(one, case=structs.replace(one.case, site=site))
    (change,), (finding,) = changes_of([listed], None, lookup=True)
    assert (change.changed(), change.tried, change.looks_up) == ({}, (), False)
    assert finding.text == "the list of double stays, since nothing was timed and nothing would be looked up"
    (without,), _ = changes_of([one], None, lookup=True)
    assert len(without.tried) == 3, "a launch without a list is written as ever"


def explanation_of(*proposed: Config, listed: int = 0, profile: Diagnosis | None = None, **more: str) -> Explanation:
    """What proposes some configs; `more` has why one, by its label, cannot be used."""
    configs = tuple(
        Compiled(
            one, ("BASELINE",) if one == BASELINE else (), None, None, more.get(f"w{one.num_warps}"), "for a reason"
        )
        for one in proposed
    )
    return Explanation(
        target="NVIDIA GeForce RTX 4090",
        bound=Bound(compute=False, why="it multiplies no matrices"),
        profile=profile,
        profile_file=None,
        rules_from="BASELINE",
        fired=(LOW_PRESSURE,),
        staged_loads=0,
        left_out=("8 warps are left out: it is memory-bound.",),
        configs=configs,
        walls=None,
        listed=listed,
    )


def test_a_prediction_is_left_to_an_autotuner_and_says_that_nothing_was_timed(file: Path) -> None:
    one = tuned_of(case_of(file), "unverified", BEFORE, (Ranked(BEFORE, 1.0),))
    limit = Diagnosis("double", "dram", "Device memory limits double.", (), Bound(compute=False, why="by the profile"))
    tuned = [structs.replace(one, explanation=explanation_of(BASELINE, BEFORE, BEST, profile=limit))]
    looked = Looked((tuned[0].case,), compiled_for="NVIDIA GeForce RTX 4090")
    plan = plan_of(tuned, looked, autotune=False)
    text = module_of(Program("model", str(file)), plan, tuned, looked)[0]
    assert "# fusetune: predicted, nothing was timed: NVIDIA GeForce RTX 4090" in text
    assert "# fusetune: By the conditional rules: the first launch keeps the fastest." in text
    configs = [line.strip() for line in text.splitlines() if "triton.Config(" in line]
    assert configs == [
        'triton.Config({"BLOCK": 1024}, num_warps=4, num_stages=3),',
        'triton.Config({"BLOCK": 2048}, num_warps=8, num_stages=3),',
        'triton.Config({"BLOCK": 1024}, num_warps=4, num_stages=2),',
    ]
    assert "n, BLOCK=1024)" not in text, "the autotuner gives it"
    header = " ".join(line.removeprefix("#").strip() for line in text.partition("import")[0].splitlines())
    for told in (
        "Predicted: compiled for this GPU, and nothing was timed.",
        "double: unverified: predicted",
        "By the profile: Device memory limits double.",
        "Rule: register pressure low (under 96 registers",
        "8 warps are left out: it is memory-bound.",
        "To try: BLOCK=2048 w8 s3: for a reason",
    ):
        assert told in header


def test_of_a_prediction_what_cannot_be_used_is_not_tried_and_the_author_s_own_are_told(file: Path) -> None:
    one = tuned_of(case_of(file), "unverified", BEFORE)
    refused = structs.replace(one, explanation=explanation_of(BASELINE, BEFORE, BEST, listed=7, w8="it spills"))
    (change,), _ = changes_of([refused], "GPU")
    assert [(tried["num_warps"], tried["num_stages"]) for tried in change.tried] == [(4, 3), (4, 2)]
    assert change.comment[1] == (
        "Of the program's own 7 configs 1 that compile, with 4 warps / 2 stages: the first launch keeps the fastest."
    )
    alone = structs.replace(one, explanation=explanation_of(BASELINE))
    assert changes_of([alone], "GPU")[0][0].tried == ()


def test_a_launch_that_another_case_wants_otherwise_is_left_unless_that_takes_it(file: Path) -> None:
    kept, other = case_of(file), case_of(file, us=1.0, values={"n": 7})
    looked = Looked((kept, other))
    stays = tuned_of(other, "revert", BEFORE, (Ranked(BEFORE, 2.0), Ranked(BEST, 2.1)))
    plan = plan_of([tuned_of(kept), stays], looked, autotune=False)
    assert plan.files == ()
    assert "is left as it is: one case wants BLOCK 1024 -> 2048" in plan.findings[0].text
    takes = tuned_of(other, "revert", BEFORE, (Ranked(BEFORE, 2.0), Ranked(BEST, 1.9)))
    assert len(plan_of([tuned_of(kept), takes], looked, autotune=False).files) == 1


def test_where_the_program_gives_no_result_a_launch_of_cases_that_were_not_tuned_is_left(file: Path) -> None:
    kept, other = case_of(file), case_of(file, us=0.1, values={"n": 7})
    looked = Looked((kept, other))
    assert len(plan_of([tuned_of(kept)], looked, autotune=False).files) == 1, "the program's own result says it"
    plan = plan_of([tuned_of(kept)], looked, autotune=False, compared=False)
    assert plan.files == ()
    (finding,) = plan.findings
    assert "another one was not tuned, so that nothing says what is right there; --share 1 tunes more" in finding.text
    elsewhere = case_of(file, site=structs.replace(other.site, line=99))
    assert len(plan_of([tuned_of(kept)], Looked((kept, elsewhere)), autotune=False, compared=False).files) == 1


def test_a_launch_whose_place_is_not_clear_is_told(file: Path) -> None:
    _, (finding,) = changes_of([tuned_of(case_of(file, site=None))], "GPU")
    assert (
        finding.told() == f"{file}:7: where double is launched is not clear, so BLOCK=2048 w8 s3 is to be given by hand"
    )


def test_what_is_applied_is_applied_once_and_only_to_what_ran(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = [tuned_of(case_of(file))]
    looked, program = Looked((tuned[0].case,), gpu="GPU"), Program("model", str(file))
    outputs = Outputs(None, Path("configs"), diff=True, apply=True, autotune=False)
    file.write_text(SOURCE + "# mine\n", encoding="utf-8")
    assert handed_out(outputs, program, tuned, looked) == ""
    assert "has changed since its launches were captured" in capsys.readouterr().err
    file.write_text(SOURCE, encoding="utf-8")
    assert "+++ b/" in handed_out(outputs, program, tuned, looked)
    assert "num_warps=8" in file.read_text(encoding="utf-8")
    assert file.with_name("current.py.orig").read_text(encoding="utf-8") == SOURCE


def test_a_module_goes_to_a_file_of_its_own(file: Path) -> None:
    tuned = [tuned_of(case_of(file))]
    looked, program = Looked((tuned[0].case,), gpu="NVIDIA H200"), Program("model", str(file))
    made = file.with_name("optimized.py")
    handed_out(Outputs(made, Path("configs"), diff=False, apply=False, autotune=False), program, tuned, looked)
    text = made.read_text(encoding="utf-8")
    assert text.startswith("# current.py after fusetune ")
    assert "# double: BLOCK=2048 w8 s3: 6.90 us, was 10.0 us" in text
    assert file.read_text(encoding="utf-8") == SOURCE
    for outputs in (Outputs(file, Path("c"), False, False, False), Outputs(made, Path("c"), False, False, False)):
        other = Program("model" if outputs.module == file else "script", str(file))
        with pytest.raises(UsageError):
            check_program(outputs, other)


def test_the_output_is_a_module_by_its_name_and_else_the_folder_of_configs() -> None:
    def made(output: str | None, configs: str | None = None, **flags: bool) -> Outputs:
        given = {"diff": False, "apply": False, "autotune": False, **flags}
        return outputs_of(Path(output) if output else None, Path(configs) if configs else None, **given)

    assert made("x.py", "c")[:2] == (Path("x.py"), Path("c"))
    assert made("out")[:2] == (None, Path("out"))
    assert made(None)[:2] == (None, Path("configs"))
    assert not made("out").any
    with pytest.raises(UsageError, match="both name the folder"):
        made("out", "c")
    with pytest.raises(UsageError, match="leave --autotune out"):
        made("out", diff=True, autotune=True, lookup=True)
    with pytest.raises(UsageError, match=r"leave -o x\.py out"):
        made("x.py", lookup=True)
    for flag in ("autotune", "lookup", "per_kernel"):
        with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')} says what is written"):
            made("out", **{flag: True})


def test_a_module_that_cannot_be_written_is_a_mistake_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "current.py").write_text(SOURCE)
    program = Program("model", str(tmp_path / "current.py"))
    with pytest.raises(ConfigFileError, match="file is not a folder that you may write to"):
        check_program(Outputs(tmp_path / "file" / "made.py", Path("c"), False, False, False), program)
    check_program(Outputs(tmp_path / "new" / "made.py", Path("c"), False, False, False), program)
