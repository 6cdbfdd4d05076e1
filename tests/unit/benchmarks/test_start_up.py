"""What the benchmark of starts says of its samples, and where it refuses to say anything."""

from __future__ import annotations

import pytest
import start_up
from start_up import Started, check, told


def report(trials: int, launches: int) -> dict:
    return {"trials": trials, "kernels": [{"applied": [{"launches": launches}]}]}


def test_medians_and_ratios_are_told_beside_all_samples():
    samples = {
        "python, cold": [Started(30.0, 31.0, 50.0), Started(10.0, 11.0, 50.0), Started(20.0, 21.0, 60.0)],
        "python, warm": [Started(9.0, 10.0, 50.0)],
        "fusetune run, cold": [Started(5.0, 6.0, 55.0)],
        "fusetune run, warm": [Started(4.0, 5.0, 55.0)],
    }
    found = told(samples)
    assert found["ready_ratio"] == {"cold": 4.0, "warm": 2.25}
    assert found["arms"]["python, cold"]["ready_s"] == {"median": 20.0, "all": [30.0, 10.0, 20.0]}
    assert found["arms"]["fusetune run, warm"]["launch_us"]["median"] == 55.0


def test_a_start_that_timed_or_took_no_entry_is_no_sample():
    check(report(0, 1))
    for trials, launches in ((3, 1), (0, 0)):
        with pytest.raises(SystemExit, match="took an entry"):
            check(report(trials, launches))


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, "gpu_present", lambda: False)
    monkeypatch.setattr("sys.argv", ["start_up.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="no NVIDIA GPU"):
        start_up.main()
    assert list(tmp_path.iterdir()) == []
