from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.cli.progress import PlainProgress, RichProgress, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def terminal_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def plain(clock: Clock) -> tuple[io.StringIO, PlainProgress]:
    stream = io.StringIO()
    return stream, PlainProgress(stream, clock)


def test_a_plain_phase_says_that_it_began_and_how_long_it_took(clock: Clock) -> None:
    stream, progress = plain(clock)
    with progress.phase("compile", 40) as phase:
        assert stream.getvalue() == "compile: 0/40\n"
        clock.now += 4.25
        phase.advance(40)
    assert stream.getvalue().splitlines() == ["compile: 0/40", "compile: done after 4.2 s, 40/40"]


def test_a_plain_phase_says_at_most_once_in_ten_seconds_how_far_it_is(clock: Clock) -> None:
    stream, progress = plain(clock)
    with progress.phase("screen", 100) as phase:
        for _ in range(50):
            clock.now += 0.5
            phase.advance()
    between = stream.getvalue().splitlines()[1:-1]
    assert between == ["screen: 10 s, 20/100", "screen: 20 s, 40/100"]


def test_a_quick_plain_phase_of_many_steps_is_two_lines(clock: Clock) -> None:
    stream, progress = plain(clock)
    with progress.phase("check", 5000) as phase:
        for _ in range(5000):
            phase.advance()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_plain_phase_tells_a_new_total_and_a_detail(clock: Clock) -> None:
    stream, progress = plain(clock)
    with progress.phase("race", 10) as phase:
        phase.update(total=8, detail="best 5.31 us")
        clock.now += 12
        phase.advance(3)
    assert stream.getvalue().splitlines()[1:] == [
        "race: 12 s, 3/8, best 5.31 us",
        "race: done after 12.0 s, 3/8",
    ]


def test_a_plain_phase_without_a_total_counts_its_steps(clock: Clock) -> None:
    stream, progress = plain(clock)
    with progress.phase("confirm") as phase:
        phase.advance(2)
    assert stream.getvalue().splitlines() == ["confirm: started", "confirm: done after 0.0 s, 2"]


def test_a_plain_phase_that_fails_says_where_it_stopped_and_lets_the_error_through(clock: Clock) -> None:
    stream, progress = plain(clock)

    def fail() -> None:
        with progress.phase("check", 9) as phase:
            phase.advance(4)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert stream.getvalue().splitlines()[-1] == "check: stopped after 0.0 s, 4/9"


def test_a_plain_warning_is_marked_and_a_message_is_not(clock: Clock) -> None:
    stream, progress = plain(clock)
    progress.say("target: NVIDIA H200")
    progress.warn("clocks are not locked")
    assert stream.getvalue() == "target: NVIDIA H200\nwarning: clocks are not locked\n"


def test_a_terminal_gets_bars() -> None:
    assert isinstance(make_progress(Terminal(), {"TERM": "xterm"}), RichProgress)
    assert isinstance(make_progress(Terminal(), {"TERM": "xterm", "CI": "false", "NO_COLOR": "1"}), RichProgress)


@pytest.mark.parametrize("environ", [{"CI": "true"}, {"CI": "1"}, {"TERM": "dumb"}, {"CI": "true", "TERM": "xterm"}])
def test_ci_and_a_dumb_terminal_get_plain_lines(environ: dict[str, str]) -> None:
    assert isinstance(make_progress(Terminal(), environ), PlainProgress)


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(make_progress(io.StringIO(), {"TERM": "xterm"}), PlainProgress)


def test_progress_goes_to_stderr_and_leaves_stdout_to_results(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress()
    with progress.phase("compile", 1) as phase:
        phase.advance()
        print("the result")
    captured = capsys.readouterr()
    assert captured.out == "the result\n"
    assert "compile: done" in captured.err


def test_bars_show_title_steps_and_detail() -> None:
    stream = Terminal()
    with RichProgress(stream).phase("compile [sm_89]", 40) as phase:
        phase.advance(30)
        phase.update(total=41, detail="best [5.31 us]")
        phase.advance(11)
    assert "compile [sm_89]" in stream.getvalue()
    assert "41/41" in stream.getvalue()
    assert "best [5.31 us]" in stream.getvalue()


def test_results_printed_under_a_bar_still_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    with RichProgress(stream).phase("compile", 2):
        print("the result")
    assert capsys.readouterr().out == "the result\n"
    assert "the result" not in stream.getvalue()


def test_a_phase_inside_a_phase_has_a_bar_of_its_own() -> None:
    stream = Terminal()
    progress = RichProgress(stream)
    with progress.phase("outer", 2) as outer, progress.phase("inner", 3) as inner:
        inner.advance(3)
        outer.advance(2)
    last = stream.getvalue().rsplit("outer", maxsplit=1)[-1]
    assert "2/2" in last
    assert "3/3" in last


def test_bars_work_again_after_a_phase_failed() -> None:
    stream = Terminal()
    progress = RichProgress(stream)

    def fail() -> None:
        with progress.phase("first", 2):
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    with progress.phase("second", 7) as phase:
        phase.advance(7)
    assert "7/7" in stream.getvalue()


def test_what_is_said_beside_the_bars_is_no_markup() -> None:
    stream = Terminal()
    progress = RichProgress(stream)
    progress.say("pid [bold]4711[/bold]")
    progress.warn("[red]hot[/red]")
    assert "pid [bold]4711[/bold]" in stream.getvalue()
    assert "warning: [red]hot[/red]" in stream.getvalue()


def test_importing_the_commands_loads_neither_rich_nor_torch_nor_triton() -> None:
    code = (
        "import sys, fusetune.cli.progress, fusetune.cli.report\n"
        "print(sorted({'rich', 'torch', 'triton', 'scipy'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
