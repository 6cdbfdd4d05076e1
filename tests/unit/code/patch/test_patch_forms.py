"""Each form in which a launch's values are written, before and after: golden files, `forms/FORM/`.

`before.txt` is the source, `after.txt` what it becomes; a JSON file beside it goes with it. FUSETUNE_GOLDEN=1 writes
`after.txt` anew.
"""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fusetune.code.patch.change import Accepted, Change, Launched
from fusetune.code.patch.edits import NotWritableError
from fusetune.code.patch.plan import planned
from fusetune.code.patch.source_file import Sources
from fusetune.code.patch.written import apply, diff_of, sha256_of
from fusetune.errors import MachineError, UsageError

FORMS = Path(__file__).with_name("forms")
BEFORE = {"BLOCK": 1024, "num_warps": 4, "num_stages": 3}
WANTED = {"BLOCK": 2048, "num_warps": 8, "num_stages": 2}
BASELINE = {"BLOCK": 1024, "num_warps": 4, "num_stages": 2}
COMMENT = ("BLOCK 1024 -> 2048, num_warps 4 -> 8, num_stages 3 -> 2", "31 % faster")
LISTED = {"listed": ("BLOCK", "num_warps", "num_stages")}
MORE: dict[str, dict[str, Any]] = {
    "keywords": {"given": ("num_warps",)},
    "a_cap": {"names": {"n": 5000}, "follows": ("BLOCK",)},
    "computed_from_a_size": {"names": {"n": 1000}, "follows": ("BLOCK",)},
    "in_a_branch": {"follows": ("BLOCK",)},
    "by_hand_from_a_config": {"given": ("num_warps",)},
    "table": {"names": {"size": "large"}},
    "heuristics": {"computed": ("num_warps",)},
    "number_in_the_grid": {"follows": ("BLOCK",)},
    "local_variable": {"follows": ("BLOCK",)},
    **dict.fromkeys((path.name for pattern in ("configs_*", "looked_up*") for path in FORMS.glob(pattern)), LISTED),
}
TRIED = {
    "configs_to_three": (WANTED, BEFORE, BASELINE),
    "autotuner_added": (WANTED, BEFORE, BASELINE),
}
WANTED_OF = {"configs_to_one_of_the_list": {"BLOCK": 4096, "num_warps": 8, "num_stages": 3}}


def launched(file: Path, **more: Any) -> Launched:
    """The one launch of a program, as a capture tells it."""
    tree = ast.parse(file.read_bytes())
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and isinstance(one.func, ast.Subscript)]
    (kernel,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "scale"]
    line = min([kernel.lineno, *(one.lineno for one in kernel.decorator_list)])
    parameters = tuple(one.arg for one in kernel.args.args)
    (call,) = [one for one in calls if ast.unparse(one.func).startswith("scale[")]
    return Launched(str(file), call.lineno, "scale", str(file), line, parameters, call.col_offset, **more)


def copied(form: str, folder: Path) -> Path:
    for path in (FORMS / form).iterdir():
        if path.suffix == ".json":
            shutil.copy(path, folder / path.name)
    shutil.copy(FORMS / form / "before.txt", folder / "program.py")
    return folder / "program.py"


def change_of(form: str, file: Path) -> Change:
    launch = launched(file, **MORE.get(form, {}))
    return Change(
        launch,
        BEFORE,
        WANTED_OF.get(form, WANTED),
        tried=TRIED.get(form, ()),
        key=("n",),
        us=10.0,
        comment=COMMENT,
        looks_up=form.startswith("looked_up"),
    )


@pytest.mark.parametrize("form", sorted(path.name for path in FORMS.iterdir()))
def test_a_form_is_written_back_and_every_other_byte_stays(form: str, tmp_path: Path) -> None:
    file = copied(form, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    change = change_of(form, file)
    plan = planned([change])
    assert plan.findings == ()
    assert plan.made == (change,)
    apply(plan, {str(path): sha256_of(data) for path, data in before.items()})
    golden = FORMS / form / "after.txt"
    if os.environ.get("FUSETUNE_GOLDEN"):
        golden.write_bytes(file.read_bytes())
        for path in tmp_path.glob("*.json"):
            (FORMS / form / f"{path.stem}.after").write_bytes(path.read_bytes())
    assert file.read_bytes() == golden.read_bytes()
    for path in tmp_path.glob("*.json"):
        assert path.read_bytes() == (FORMS / form / f"{path.stem}.after").read_bytes()
    for path, data in before.items():
        assert path.with_name(f"{path.name}.orig").read_bytes() == data


@pytest.mark.parametrize("form", sorted(path.name for path in FORMS.iterdir()))
def test_a_second_time_nothing_changes(form: str, tmp_path: Path) -> None:
    file = copied(form, tmp_path)
    first = planned([change_of(form, file)])
    assert apply(first) != []
    assert apply(first) == [], "the files are what they would become"
    again = change_of(form, file)
    if form == "autotuner_added":  # It has one by now.
        again = structs.replace(again, launch=structs.replace(again.launch, **LISTED))
    assert planned([again]) == planned([]), "the source says what is wanted"


def test_a_file_that_has_changed_since_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = copied("json_file", tmp_path)
    change = change_of("json_file", file)
    plan = planned([change])
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    file.write_bytes(old[file] + b"# mine\n")
    with pytest.raises(UsageError, match=r"program\.py has changed since"):
        apply(plan)
    assert (tmp_path / "scale.json").read_bytes() == old[tmp_path / "scale.json"]
    assert not list(tmp_path.glob("*.orig"))
    measured = {str(file): sha256_of(old[file])}
    (finding,) = planned([change], Sources(measured=measured)).findings
    assert "has changed since its launches were captured" in finding.text


def test_a_diff_is_one_that_git_applies(tmp_path: Path) -> None:
    import subprocess

    file = copied("json_file", tmp_path)
    plan = planned([change_of("json_file", file)])
    text = diff_of(plan, tmp_path)
    assert "--- a/program.py\n+++ b/program.py\n" in text
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=text.encode(), check=True)
    assert file.read_bytes() == (FORMS / "json_file" / "after.txt").read_bytes()
    before = (FORMS / "json_file" / "before.txt").read_bytes()
    file.write_bytes(before)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    assert apply(plan) == [str(file)], "the other one is there already"
    assert not list(tmp_path.glob("*.orig")), "git has what was there"
    file.write_bytes(b"other = 1\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    file.write_bytes(before)
    apply(plan)
    assert file.with_name("program.py.orig").read_bytes() == before, "git knows the file, and not what was in it"
    file.write_bytes(before)
    apply(plan)
    assert len(list(tmp_path.glob("*.orig*"))) == 1


def test_what_was_kept_of_a_file_before_is_not_lost(tmp_path: Path) -> None:
    file = copied("keywords", tmp_path)
    file.with_name("program.py.orig").write_bytes(b"of an earlier run")
    plan = planned([change_of("keywords", file)])
    apply(plan)
    assert file.with_name("program.py.orig").read_bytes() == b"of an earlier run"
    assert file.with_name("program.py.orig.2").read_bytes() == plan.files[0].before


def test_of_two_files_neither_is_written_where_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned([change_of("json_file", copied("json_file", tmp_path))])
    last = plan.files[-1]
    first = structs.replace(last, file=str(tmp_path / "first.py"))
    Path(first.file).write_bytes(first.before)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}
    replace = Path.replace

    def refusing(self: Path, target: Path) -> Path:
        if Path(target).name == Path(last.file).name:
            raise OSError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)
    with pytest.raises(MachineError, match=rf"{Path(last.file).name} could not be written .*; all is as it was"):
        apply(structs.replace(plan, files=(first, *plan.files)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_every_file_keeps_its_permissions(tmp_path: Path) -> None:
    file = copied("keywords", tmp_path)
    file.chmod(0o750)
    apply(planned([change_of("keywords", file)]))
    assert file.stat().st_mode & 0o777 == 0o750


KERNEL = (FORMS / "keywords" / "before.txt").read_text(encoding="utf-8").partition("def launch")[0]
OTHER = KERNEL.partition("@triton.jit")[2].replace("def scale", "def other")
REFUSED = {
    "a_buffer": (
        "def launch(x, y, n):\n    B = 1024\n    part = torch.empty(triton.cdiv(n, B))\n"
        "    scale[(triton.cdiv(n, B),)](x, part, n, BLOCK=B)\n",
        3,
        "feeds `part = torch.empty(triton.cdiv(n, B))`, too",
    ),
    "another_launch": (
        f"@triton.jit{OTHER}B = 1024\n\n\ndef launch(x, y, n):\n    scale[(triton.cdiv(n, B),)](x, y, n, BLOCK=B)\n"
        "    other[(triton.cdiv(n, B),)](x, y, n, BLOCK=B)\n",
        12,
        "feeds `other[(triton.cdiv(n, B),)](x, y, n, BLOCK=B)`, too",
    ),
    "a_count_that_sizes_a_buffer": (
        "def launch(x, y, n):\n    B = 1024\n    count = triton.cdiv(n, B)\n    part = x.new_empty((count,))\n"
        "    scale[(count,)](x, part, n, BLOCK=B)\n",
        4,
        "feeds `part = x.new_empty((count,))`, too",
    ),
    "computed": (
        "def launch(x, y, n):\n    B = triton.next_power_of_2(n)\n    scale[(1,)](x, y, n, BLOCK=B)\n",
        2,
        "is computed",
    ),
    "computed_anew_after_it": (
        "def launch(x, y, n):\n    B = triton.next_power_of_2(n)\n    n = 1000\n    scale[(1,)](x, y, n, BLOCK=B)\n",
        2,
        "is computed",
    ),
    "a_cap_that_would_not_count": (
        "def launch(x, y, n):\n    B = min(1024, triton.next_power_of_2(n))\n    scale[(1,)](x, y, n, BLOCK=B)\n",
        2,
        "is computed",
    ),
    "chosen_by_an_if": (
        "def launch(x, y, n):\n    B = 1024\n    if n < 99:\n        B = 64\n    scale[(1,)](x, y, n, BLOCK=B)\n",
        5,
        "is assigned at several lines",
    ),
    "given_by_callers": (
        "def launch(x, y, n, b):\n    scale[(1,)](x, y, n, BLOCK=b)\n\n\nlaunch(1, 1, 1, 1024)\nlaunch(1, 1, 1, 64)\n",
        1,
        "callers give b: line 16, 17",
    ),
    "imported": (
        "from elsewhere import B\n\n\ndef launch(x, y, n):\n    scale[(1,)](x, y, n, BLOCK=B)\n",
        1,
        "imported from elsewhere",
    ),
    "assigned_with_another": (
        "B = ROWS = 1024\n\n\ndef launch(x, y, n):\n    part = torch.empty(ROWS)\n"
        "    scale[(1,)](x, part, n, BLOCK=B)\n",
        1,
        "feeds `B = ROWS = 1024`, too",
    ),
    "an_attribute_assigned_with_another": (
        "class Scale:\n    def __init__(self):\n        self.b = self.rows = 1024\n\n    def launch(self, x, y, n):\n"
        "        scale[(1,)](x, y, n, BLOCK=self.b)\n",
        3,
        "feeds `self.b = self.rows = 1024`, too",
    ),
    "assigned_where_it_sizes_a_buffer": (
        "def launch(x, y, n):\n    part = torch.empty(B := 1024)\n    scale[(1,)](x, part, n, BLOCK=B)\n",
        2,
        "feeds `part = torch.empty(B := 1024)`, too",
    ),
    "another_number": ("def launch(x, y, n):\n    scale[(1,)](x, y, n, BLOCK=512)\n", 2, "BLOCK is 512 there"),
    "a_grid_of_numbers": (
        "def launch(x, y, n):\n    scale[grid_of(n)](x, y, n, BLOCK=1024)\n",
        2,
        "the grid follows BLOCK, whose number is computed elsewhere",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_written_back_is_said_with_its_line(name: str, tmp_path: Path) -> None:
    body, line, why = REFUSED[name]
    names = {"n": 1000} if name == "computed_anew_after_it" else {}
    file = tmp_path / "program.py"
    file.write_text(KERNEL + body, encoding="utf-8")
    launch = launched(file, follows=("BLOCK",) if name == "a_grid_of_numbers" else (), names=names)
    plan = planned([Change(launch, BEFORE, WANTED)])
    (finding,) = plan.findings
    assert (finding.file, finding.line) == (str(file), KERNEL.count("\n") + line)
    assert why in finding.text
    assert finding.text.endswith(
        "; a config is written whole or not at all, here BLOCK 1024 -> 2048, num_warps 4 -> 8, num_stages 3 -> 2"
    )
    assert plan.files == ()
    (finding,) = planned([Change(launch, BEFORE, {**BEFORE, "BLOCK": 2048})]).findings
    assert "written whole" not in finding.text, "it is all of it"


def test_a_table_of_heuristics_that_two_kernels_have_is_left(tmp_path: Path) -> None:
    kernel = KERNEL.replace("@triton.jit", 'H = {"num_warps": lambda args: 4}\n\n\n@triton.heuristics(H)\n@triton.jit')
    launch = "def launch(x, y, n):\n    scale[(1,)](x, y, n, BLOCK=1024)\n"
    other = f"@triton.heuristics(H)\n@triton.jit{OTHER}"
    file, wanted = tmp_path / "program.py", {**BEFORE, "num_warps": 8}
    file.write_text(kernel + launch, encoding="utf-8")
    (patch,) = planned([Change(launched(file, computed=("num_warps",)), BEFORE, wanted)]).files
    assert b"lambda args: 8" in patch.after
    file.write_text(kernel + other + launch, encoding="utf-8")
    plan = planned([Change(launched(file, computed=("num_warps",)), BEFORE, wanted)])
    assert plan.files == ()
    assert plan.findings[0].text == "H gives num_warps elsewhere, too"


IN_A_BRANCH = """def launch(x, y, n, rows):
    B = min(n, 4096) if rows == 8 else 512
    scale[(1,)](x, y, n, BLOCK=B)
"""


def test_a_value_for_the_sizes_that_ran_leaves_the_other_side_of_an_if_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(KERNEL + IN_A_BRANCH, encoding="utf-8")
    names = {"n": 1024, "rows": 8}
    (patch,) = planned([Change(launched(file, names=names), BEFORE, {**BEFORE, "BLOCK": 2048})]).files
    written = patch.after.decode().removeprefix(KERNEL)
    assert written == IN_A_BRANCH.replace("min(n, 4096)", "(2048 if n == 1024 else min(n, 4096))")
    blocks = {}
    for rows in (8, 9):  # By Python itself: what the launch is then given.
        given: dict[str, Any] = {}
        made: dict[str, Any] = {"scale": {(1,): lambda *_, given=given, **more: given.update(more)}}
        exec(written, made)
        made["launch"](0, 0, 1024, rows)
        blocks[rows] = given["BLOCK"]
    assert blocks == {8: 2048, 9: 512}
    file.write_bytes(patch.after)
    again = launched(file, names=names)
    assert planned([Change(again, BEFORE, {**BEFORE, "BLOCK": 2048})]).files == ()


def test_a_size_in_a_grid_that_is_the_tile_s_number_by_chance_stays(tmp_path: Path) -> None:
    body = "def launch(x, y, n):\n    scale[((n * 1024 + 1024 - 1) // 1024,)](x, y, n, BLOCK=1024)\n"
    file = tmp_path / "program.py"
    file.write_text(KERNEL + body, encoding="utf-8")
    change = Change(launched(file, follows=("BLOCK",)), BEFORE, {**BEFORE, "BLOCK": 2048})
    (patch,) = planned([change]).files
    assert b"(n * 1024 + 2048 - 1) // 2048" in patch.after


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("from settings import TILES as T\n\nrows = bytes(T['rows'])\n", None),
        ("from settings import TILES as T\n\nrows = bytes(T['block'])\n", "feeds `rows = bytes(T['block'])`, too"),
        ("import settings\n\nrows = bytes(settings.TILES['block'])\n", "feeds `rows = bytes(settings.TILES['block'])`"),
        ("from settings import *\n\nrows = bytes(TILES['block'])\n", "feeds `rows = bytes(TILES['block'])`, too"),
    ],
)
def test_a_value_of_another_module_is_left_that_a_third_one_has_too(
    other: str, told: str | None, tmp_path: Path
) -> None:
    file, settings, third = (tmp_path / name for name in ("program.py", "settings.py", "third.py"))
    body = "from settings import TILES\n\n\ndef launch(x, y, n):\n    scale[(1,)](x, y, n, BLOCK=TILES['block'])\n"
    file.write_text(KERNEL + body, encoding="utf-8")
    settings.write_text("TILES = {'block': 1024, 'rows': 8}\n", encoding="utf-8")
    third.write_text(other, encoding="utf-8")
    modules = {"settings": str(settings), "third": str(third)}
    change = Change(launched(file, modules=modules), BEFORE, {**BEFORE, "BLOCK": 2048})
    plan = planned([change])
    assert [one.file for one in plan.files] == ([str(settings)] if told is None else [])
    assert [(one.file, one.line, told in one.text) for one in plan.findings if told] == (
        [(str(third), 3, True)] if told else []
    )
    assert len(planned([change], everywhere=True).files) == 1, "a trial asks the program"


def test_a_trial_of_the_whole_program_changes_a_place_whatever_it_feeds(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(KERNEL + REFUSED["a_buffer"][0], encoding="utf-8")
    (patch,) = planned([Change(launched(file), BEFORE, WANTED)], everywhere=True).files
    assert b"B = 2048\n    part = torch.empty(triton.cdiv(n, B))" in patch.after
    file.write_text(KERNEL + REFUSED["assigned_with_another"][0], encoding="utf-8")
    (patch,) = planned([Change(launched(file), BEFORE, WANTED)], everywhere=True).files
    assert b"B = ROWS = 2048" in patch.after


def test_installed_and_generated_code_is_not_edited() -> None:
    for file, why in (("/v/site-packages/a.py", "an installed package"), ("<string>", "a program made this code")):
        with pytest.raises(NotWritableError, match=why):
            Sources().file(file)


def test_cases_of_one_launch_that_want_different_things_leave_it_as_it_is(tmp_path: Path) -> None:
    file = copied("keywords", tmp_path)
    change = change_of("keywords", file)
    stays = structs.replace(change, wanted=BEFORE, us=1.0)
    (finding,) = planned([stays, change]).findings
    assert "one case wants BLOCK 1024 -> 2048" in finding.text
    assert "another one what runs" in finding.text
    assert planned([stays, change]).files == ()
    agrees = structs.replace(stays, accepts=(Accepted(WANTED),))
    assert planned([agrees, change]).made == (change,)
    assert planned([change, change]).files == planned([change]).files


def test_cases_with_another_best_each_get_what_is_the_best_for_all_of_them(tmp_path: Path) -> None:
    file = copied("keywords", tmp_path)
    change = structs.replace(change_of("keywords", file), us=300.0, comment=("measured", "H200, run 1."))
    middle, slow = ({**BEFORE, "BLOCK": block, "num_warps": 8} for block in (512, 256))
    first = structs.replace(change, accepts=(Accepted(WANTED, 0.5), Accepted(middle, 0.7), Accepted(slow, 0.9)))
    own = {**BEFORE, "BLOCK": 128}
    second = structs.replace(
        change, wanted=own, us=100.0, accepts=(Accepted(own, 0.4), Accepted(slow, 0.5), Accepted(middle, 0.6))
    )
    for cases in ([first, second], [second, first]):
        plan = planned(cases)
        assert plan.findings == ()
        (made,) = plan.made
        assert made.wanted == middle
        assert made.comment == (
            f"{made.describe()}: for the 2 cases of this launch, whose best ones differ.",
            "By short samples 270 us together, was 400 us; none is slower.",
            "H200, run 1.",
        )
        (patch,) = plan.files
        assert b"BLOCK = 512, num_warps=8)" in patch.after
    # What one of them has not shown to be right is no choice, nor what gains less than 2 % in all.
    third = structs.replace(second, accepts=(Accepted(own, 0.4),))
    assert planned([first, second, third]).made == ()
    hardly = structs.replace(first, accepts=(Accepted(WANTED, 0.5), Accepted(middle, 0.999)), us=10_000.0)
    chooses = [structs.replace(one, tried=(one.wanted, BEFORE), key=("n",)) for one in (first, second)]
    for plan in (planned([hardly, second]), planned(chooses), planned([first, second], asked=False)):
        (finding,) = plan.findings
        assert "one case wants BLOCK 1024 -> 2048" in finding.text
        assert plan.files == ()


def test_an_option_that_others_are_given_too_is_written_at_the_launch_alone(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    body = "W = 4\n\n\ndef launch(x, y, n):\n    scale[(1,)](x, y, n, BLOCK=1024, num_warps=W)\n    print(W)\n"
    file.write_text(KERNEL + body, encoding="utf-8")
    (patch,) = planned([Change(launched(file), BEFORE, {**BEFORE, "num_warps": 8})]).files
    assert patch.after.decode() == KERNEL + body.replace("num_warps=W", "num_warps=8")


def test_cases_of_an_autotuned_kernel_share_one_list(tmp_path: Path) -> None:
    file = copied("configs_to_one", tmp_path)
    change = change_of("configs_to_one", file)
    other = {"BLOCK": 256, "num_warps": 2, "num_stages": 3}
    second = structs.replace(change, before=other, wanted=other, us=1.0, comment=())
    (finding,) = planned([change, second]).findings
    assert "another one what runs" in finding.text
    listed = [structs.replace(change, tried=(WANTED, BEFORE, BASELINE)), second]
    (patch,) = planned(listed).files
    kept = [line.strip() for line in patch.after.decode().splitlines() if "triton.Config(" in line]
    assert kept == [
        'triton.Config({"BLOCK": 2048}, num_warps=8, pre_hook=None, num_stages=2),',
        'triton.Config({"BLOCK": 256}, num_warps=2),',
        'triton.Config({"BLOCK": 1024}, num_warps=4, pre_hook=None, num_stages=2),',
    ]


def test_an_autotuner_is_left_with_what_each_case_is_to_have_where_none_is_right_for_all(tmp_path: Path) -> None:
    file = copied("configs_to_one", tmp_path)
    change = change_of("configs_to_one", file)
    first = structs.replace(change, choice=(WANTED, BASELINE), comment=("measured.",))
    other = {"BLOCK": 256, "num_warps": 2, "num_stages": 3}
    second = structs.replace(change, before=other, wanted=other, us=1.0, comment=(), choice=(other, BASELINE))
    plan = planned([first, second])
    (patch,) = plan.files
    kept = [line.strip() for line in patch.after.decode().splitlines() if "triton.Config(" in line]
    assert kept == [
        'triton.Config({"BLOCK": 2048}, num_warps=8, pre_hook=None, num_stages=2),',
        'triton.Config({"BLOCK": 256}, num_warps=2),',
        'triton.Config({"BLOCK": 1024}, num_warps=4, pre_hook=None, num_stages=2),',
    ]
    assert plan.findings == ()
    assert b"for the 2 cases of this kernel, whose best ones differ; the first of them:" in patch.after
    third = {**other, "BLOCK": 512}
    more = structs.replace(second, before=third, wanted=third, choice=(third, BASELINE))
    unknown = structs.replace(second, untuned=True, choice=())
    for cases, asked in (([first, second, more], True), ([first, unknown], True), ([first, second], False)):
        assert planned(cases, asked=asked).files == (), "too many, not known, or nobody is asked"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("@triton.autotune(", "@mine.autotune(", "its autotuner is `mine.autotune`, and none of Triton's own"),
        ("import torch\n", "import torch\nimport mine.autotune as triton\n", "none of Triton's own"),
        ("import torch\n", "import torch\nfusetune = None\n", "fusetune is the name of something else"),
    ],
)
def test_another_decorator_or_name_is_not_taken_for_triton_s(tmp_path: Path, old: str, new: str, told: str) -> None:
    file = copied("looked_up", tmp_path)
    text = file.read_text().replace(old, new)
    file.write_text(text.replace("import triton\n", "", 1) if "as triton" in new else text)
    (finding,) = planned([change_of("looked_up", file)]).findings
    assert told in finding.text


def test_the_import_that_is_there_serves_and_two_kernels_share_one(tmp_path: Path) -> None:
    file = copied("looked_up", tmp_path)
    text = file.read_text()
    file.write_text(text.replace("import torch\n", "import torch\nimport fusetune\n"))
    (patch,) = planned([change_of("looked_up", file)]).files
    assert patch.after.count(b"import fusetune") == 1
    other = text[text.index("@triton.autotune") :].replace("scale", "other").replace("def launch", "def launch_other")
    file.write_text(f"{text}\n\n{other}")
    first = change_of("looked_up", file)
    second = structs.replace(first, launch=_launch_of("other", file))
    (patch,) = planned([first, second]).files
    assert patch.after.count(b"import fusetune\n") == 1
    assert patch.after.count(b"@fusetune.autotune(") == 2


def test_a_list_that_is_looked_up_already_stays_whatever_was_decided(tmp_path: Path) -> None:
    file = copied("looked_up", tmp_path)
    apply(planned([change_of("looked_up", file)]))
    again = structs.replace(change_of("looked_up", file), looks_up=False)
    assert planned([again, structs.replace(again, tried=(WANTED, BASELINE))]).files == ()


def _launch_of(kernel: str, file: Path) -> Launched:
    tree = ast.parse(file.read_bytes())
    (call,) = [one for one in ast.walk(tree) if isinstance(one, ast.Call) and ast.unparse(one.func).startswith(kernel)]
    (made,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == kernel]
    line = made.decorator_list[0].lineno
    names = tuple(one.arg for one in made.args.args)
    return Launched(str(file), call.lineno, kernel, str(file), line, names, call.col_offset, **LISTED)
