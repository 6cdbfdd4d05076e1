from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from program_modules import disorder, imported
from program_sources import FOCUS, METRICS, Pair, code_of, extract, pair_of, spread, write_drivers
from programs import after_us, figures, main, of_program, on, read, share_us, summary, with_earlier

PROMPT = f"# Target\n{FOCUS}\n\n[CURRENT CODE]\n```python\nimport torch\n```\n\n{METRICS}\n```python\n# yours\n```\n"


def case(verdict: str, before_us: float | None, best_us: float | None = None, **more: Any) -> dict[str, Any]:
    return {"verdict": verdict, "before_us": before_us, "best_us": best_us, "seconds": 2.0, "failures": {}, **more}


def row(name: str, *kernels: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    told = [{"kernel": kernel, "cases": cases} for kernel, cases in kernels]
    return {"name": name, "ended": "done", "said": "", "seconds": 10.0, "kernels": told, "on": "predicted-rtx4090"}


def test_a_prompt_of_the_seed_s_kind_holds_its_code_and_another_kind_none():
    assert code_of(PROMPT) == "import torch\n"
    assert code_of(PROMPT.replace(FOCUS, "Focus: something else.")) is None
    assert code_of(PROMPT.replace(METRICS, "")) is None


def test_a_prompt_s_path_says_its_problem_and_stage():
    found = pair_of("results/level2/12_A_B/evaluation/llm_io/stage4_memory_prompt.txt")
    assert found is not None
    assert (found.level, found.number, found.stage, found.name) == ("level2", 12, 4, "level2_12_A_B")
    assert pair_of("results/level2/12_A_B/evaluation/llm_io/0_raw_reply.txt") is None


def test_pairs_are_taken_evenly():
    pairs = [Pair("level2", f"{number}_x", number, 4, "") for number in range(10)]
    assert [one.number for one in spread(pairs, 4)] == [0, 2, 5, 7]
    assert spread(pairs, 20) == pairs


def test_only_even_problems_and_their_last_stage_are_taken_out(tmp_path: Path):
    checkout = tmp_path / "checkout"
    for number in (3, 4):
        io = checkout / f"results/level2/{number}_A/evaluation/llm_io"
        io.mkdir(parents=True)
        (io / "stage2_b_prompt.txt").write_text(PROMPT.replace("import torch", "early = 1"))
        (io / "stage4_c_prompt.txt").write_text(PROMPT)
        reference = checkout / f"KernelBench/level2/{number}_A.py"
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(f"problem = {number}\n")
    (checkout / "LICENSE").write_text("as it is\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(checkout), *words], check=True)
    assert [pair.name for pair in extract(checkout, tmp_path / "folder", 40)] == ["level2_4_A"]
    place = tmp_path / "folder" / "pairs" / "level2_4_A"
    assert (place / "current.py").read_text() == "import torch\n"
    assert (place / "reference.py").read_text() == "problem = 4\n"


def test_the_drivers_are_the_twelve_of_the_development_set(tmp_path: Path):
    names = [path.name[:3] for path in write_drivers(tmp_path)]
    assert names == [f"d{number:02}" for number in range(1, 13)]


def test_launches_count_in_the_share_and_only_what_is_kept_is_faster():
    kernel = {"cases": [case("keep", 10.0, 5.0, launches=3), case("revert", 4.0, 3.9)]}
    assert share_us(kernel) == 34.0
    assert after_us(kernel) == 19.0


def test_the_summary_counts_programs_by_how_far_they_came():
    rows = [
        row("a", ("small", [case("revert", 1.0)]), ("large", [case("keep", 8.0, 2.0)])),
        row("b", ("one", [case("revert", 5.0, 4.9)])),
        row("c", ("odd", [case("skipped", None)])),
        row("d"),
    ]
    found = summary(list(map(figures, rows)))
    assert (found["programs"], found["with_a_launch"], found["with_a_verdict"]) == (4, 3, 2)
    assert (found["main_kernels"], found["main_kernels_kept"], found["ratio_geometric_mean"]) == (2, 1, 0.5)
    assert found["verdicts"] == {"revert": 2, "keep": 1, "skipped": 1}
    assert (found["seconds_a_kernel_median"], found["seconds_a_kernel_most"]) == (2.0, 2.0)
    assert figures(rows[0])["main"] == {
        "kernel": "large",
        "before_us": 8.0,
        "after_us": 2.0,
        "ratio": 0.25,
        "verdicts": {"keep": 1},
    }


def test_measured_and_predicted_are_not_mixed_and_a_line_cut_off_is_none(tmp_path: Path):
    assert on("NVIDIA H200") != on(None)
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row("a")) + '\n{"name": "b", "en')
    assert [one["name"] for one in read(path)] == ["a"]


def test_what_is_done_is_shown_without_running_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr("programs.gpu_name", lambda: None)
    monkeypatch.setattr("programs.environment", lambda _folder: {})
    (tmp_path / "results.jsonl").write_text(json.dumps(row("D1", ("k", [case("keep", 4.0, 2.0)]))) + "\n")
    monkeypatch.setattr("sys.argv", ["programs.py", str(tmp_path), "--show", "--output", str(tmp_path / "out")])
    assert main() == 0
    written = json.loads((tmp_path / "out" / "programs-predicted-rtx4090.json").read_text())
    assert written["predicted_for"] == "rtx4090"
    assert written["summary"]["ratio_geometric_mean"] == 0.5
    assert "D1" in capsys.readouterr().out


MODULE = """import torch
import torch.nn as nn
import triton
import triton.language as tl

BLOCK = 64


@triton.jit
def kernel(x):
    pass


def wrapper(x):
    return x


class ModelNew(nn.Module):
    pass
"""


def test_a_module_s_order_is_that_of_the_seed():
    assert list(disorder(MODULE)) == []
    for text, wrong in (
        (MODULE.replace("import triton\n", "import triton as t\n"), "it begins with"),
        (MODULE + "\n\ndef late(x):\n    return x\n", "stands too late"),
        (MODULE + "\n\nclass Model:\n    pass\n", "it holds Model"),
        (MODULE + "\n\nif __name__ == '__main__':\n    wrapper(1)\n", "runs it"),
        (MODULE.replace("ModelNew", "Other"), "it has no ModelNew"),
    ):
        assert any(wrong in one for one in disorder(text)), wrong


def test_a_module_is_imported_with_nothing_of_ours(tmp_path: Path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import json\n")
    bad.write_text("import nowhere_to_be_found\n")
    assert imported(good) is True
    assert "nowhere_to_be_found" in str(imported(bad))


def test_a_module_that_changes_nothing_is_the_program_as_it_is():
    word = {"changes": [["k"]], "given_out": 0, "ratio": 0.99, "right": True, "before_ms": 1.0, "after_ms": 0.99}
    assert of_program(word)["ratio"] == 1.0
    assert of_program({**word, "given_out": 1})["ratio"] == 0.99
    rows = [
        {**row(name, ("k", [case("keep", 4.0, 2.0)])), "module": {**word, "given_out": 1, "ratio": ratio}}
        for name, ratio in (("a", 0.5), ("b", 0.98))
    ]
    found = summary([figures({**one, "module_facts": {"in_order": True, "imports": "no"}}) for one in rows])
    assert (found["forwards"], found["forward_geometric_mean"], found["forward_most"]) == (2, 0.7, 0.98)
    assert (found["modules"], found["modules_in_order"], found["modules_imported"]) == (2, 2, 0)


def test_figures_of_other_programs_stay_in_the_file(tmp_path: Path):
    output = tmp_path / "programs.json"
    output.write_text(json.dumps({"date": "2026-01-02", "programs": [{"name": "a", "cases": 1}, {"name": "b"}]}))
    found = with_earlier([{"name": "a", "cases": 2}], output)
    assert [(one["name"], one.get("cases")) for one in found] == [("a", 2), ("b", None)]
    assert found[1]["date"] == "2026-01-02" != found[0]["date"]
