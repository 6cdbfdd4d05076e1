"""What became of launches is counted in each process, joined over all, and told in words."""

from __future__ import annotations

import os
import threading

import msgspec
import pytest

from fusetune.capture.cases import KernelSeen
from fusetune.capture.serving import served as serving
from fusetune.capture.serving.process import read_served
from fusetune.capture.serving.served import Applied, KernelServed, Left, Missed, Notes, Served, joined
from fusetune.report.served import MOST_KERNELS, MOST_LINES, lines_of

ADD = KernelSeen("add", "bench", "/a/bench.py", 12)
NORM = KernelSeen("norm", "lib", "/a/lib.py", 3)
TUNED = Applied({"BLOCK": 512}, {"num_warps": 2}, "exact", "the entry for exactly this launch", "configs/add.yaml")
MISSED = Missed("no entry of lib:norm on this GPU", "the first config of its list, BLOCK=64")
REFUSED = Left({"BLOCK": 512}, {"num_warps": 2}, "OutOfResources: shared memory", refused=True)


def notes(*counted: tuple[KernelSeen, serving.Row, int]) -> Notes:
    made = Notes("fusetune tune --kernel {} bench.py".format)
    for kernel, row, count in counted:
        for _ in range(count):
            made.count(made.tally(kernel, row))
    return made


def test_launches_are_counted_by_kernel_and_outcome_and_what_is_missing_has_its_command():
    found = notes((ADD, TUNED, 3), (NORM, MISSED, 2)).served()
    add, norm = found.kernels
    assert (add.launches, add.applied[0].launches, add.command) == (3, 3, "")
    assert (norm.launches, norm.missed[0].launches) == (2, 2)
    assert norm.command == "fusetune tune --kernel norm bench.py"


def test_a_refused_config_is_told_with_the_command_and_its_launch_counts_once():
    (add,) = notes((ADD, REFUSED, 1), (ADD, MISSED, 1)).served().kernels
    assert (add.launches, add.command) == (1, "fusetune tune --kernel add bench.py")


def test_what_several_processes_launched_is_joined_and_read_from_what_they_left(tmp_path):
    several = [notes((ADD, TUNED, 3)).served(), notes((ADD, TUNED, 1), (NORM, MISSED, 2)).served("ValueError: mine")]
    for number, one in enumerate(several):
        (tmp_path / f"{number}.json").write_bytes(msgspec.json.encode(one))
    (tmp_path / "2.json").write_text("{")
    found = read_served(tmp_path)
    assert found == joined(several)
    assert (found.processes, found.failed) == (2, "ValueError: mine")
    assert [(one.name, one.launches) for one in found.kernels] == [("add", 4), ("norm", 2)]
    assert found.kernels[1].command == "fusetune tune --kernel norm bench.py"
    assert msgspec.json.decode(msgspec.json.encode(found), type=Served) == found


def test_a_forked_process_counts_its_own_alone():
    made = notes((ADD, TUNED, 3))
    tally = made.tally(ADD, TUNED)
    made.begin_anew()
    assert made.served().kernels == ()
    made.count(tally)
    assert made.served().kernels[0].launches == 1


def test_threads_lose_no_launch_and_only_what_is_new_is_announced():
    new: list[None] = []
    made = Notes(str, lambda: new.append(None))
    tally = made.tally(ADD, TUNED)
    threads = [threading.Thread(target=lambda: [made.count(tally) for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tally.launches, len(new)) == (4000, 1)


def test_so_many_outcomes_are_told_apart_and_no_more(monkeypatch):
    monkeypatch.setattr(serving, "MOST_ROWS", 5)
    (norm,) = notes(*((NORM, Missed(f"reason {number}", "as it is"), 1) for number in range(20))).served().kernels
    assert (len(norm.missed), norm.launches) == (6, 20)
    made = notes()
    for number in range(20):
        made.note(f"note {number}")
    assert len(made.served().notes) == 5


def test_the_first_line_counts_and_the_others_say_which_config_and_why(monkeypatch):
    monkeypatch.chdir(os.path.dirname(__file__))  # noqa: PTH120
    found = joined([notes((ADD, TUNED, 3), (ADD, REFUSED, 1)).served(), notes((NORM, MISSED, 2)).served()])
    assert lines_of(found) == [
        "fusetune: 3 launches of 1 kernel with tuned configs, 2 without, in 2 processes; nothing was timed",
        "  add (/a/bench.py:12)",
        "    3 launches with BLOCK=512 num_warps=2: the entry for exactly this launch",
        "    refused: BLOCK=512 num_warps=2: OutOfResources: shared memory",
        "    to tune it: `fusetune tune --kernel add bench.py`",
        "  norm (/a/lib.py:3)",
        f"    2 launches without an entry, with {MISSED.did}: {MISSED.reason}",
        "    to tune it: `fusetune tune --kernel norm bench.py`",
    ]


@pytest.mark.parametrize(
    ("served", "told"),
    [
        (Served(), "the program launched no Triton kernel that could be seen"),
        (
            Served(processes=1, kernels=(KernelServed("k", "f", 1, (), (MISSED,)),), trials=12),
            "12 launches of autotuners",
        ),
        (Served(by_inductor={"triton_poi_0": 4}), "4 launches of triton_poi_0: of what torch.compile made"),
        (Served(notes=("a note\x1b[2J",)), "note: a note\\x1b[2J"),
    ],
)
def test_what_was_timed_or_compiled_elsewhere_is_told(served, told):
    assert told in "\n".join(lines_of(served))


def test_kernels_that_run_as_without_us_are_told_together_with_the_command_for_all():
    others = [KernelSeen(f"k{number}", "lib", "/a/lib.py", number) for number in range(7)]
    plain = Missed("no entry on this GPU", serving.AS_IT_IS)
    assert lines_of(notes(*((one, plain, 2) for one in others)).served())[1:] == [
        "  14 launches of 7 kernels as the program launches them: k0, k1, k2, k3, k4, ...",
        "    to tune them: `fusetune tune bench.py`",
    ]
    assert (
        lines_of(notes((others[0], plain, 1)).served())[2] == "    to tune them: `fusetune tune --kernel k0 bench.py`"
    )


def test_why_an_entry_was_not_used_is_told_of_kernels_that_run_as_without_us():
    one, two = (KernelSeen(name, "lib", "/a/lib.py", 1) for name in ("one", "two"))
    stale = Missed("lib.yaml, entries[0]: the kernel source has changed since", serving.AS_IT_IS)
    no_gpu = Missed("there is no CUDA GPU here", serving.AS_IT_IS)
    lines = lines_of(notes((one, stale, 1), (two, Missed("no entry of it on this GPU", serving.AS_IT_IS), 1)).served())
    assert lines[1:3] == [
        "  2 launches of 2 kernels as the program launches them: one, two",
        "    one: lib.yaml, entries[0]: the kernel source has changed since",
    ]
    assert lines_of(notes((one, no_gpu, 1), (two, no_gpu, 1)).served())[2] == "    there is no CUDA GPU here"


def test_so_many_kernels_are_told_one_by_one_and_no_more():
    many = [KernelSeen(f"k{number}", "lib", "/a/lib.py", number) for number in range(MOST_KERNELS + 3)]
    lines = lines_of(notes(*((one, TUNED, 1) for one in many)).served())
    assert len(lines) == 1 + 2 * MOST_KERNELS + 1
    assert lines[-1] == "  and 3 more kernels, which --report FILE holds"


def test_of_one_kernel_a_few_lines_are_shown():
    lines = lines_of(notes(*((NORM, Missed(f"reason {number}", "as it is"), 1) for number in range(20))).served())
    assert len(lines) == 2 + MOST_LINES + 2
    assert "and 14 more such lines, which --report FILE holds" in lines[-2]
