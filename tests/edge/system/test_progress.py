"""What a long command says: a bar for a person at a terminal, few lines for a log, nothing where it is short."""

import sys
from io import StringIO
from types import SimpleNamespace

import pytest

import edge.system.progress
from edge.system.progress import LINE_EVERY_S, Reporter


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    return stream


def test_short_work_says_nothing_to_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as reporter:
        show = reporter.counter("scans")
        for done in range(1, 4):
            show(done, 3)
    assert capsys.readouterr().err == ""


def test_long_work_says_share_and_rate_to_a_log_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(edge.system.progress, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    show = Reporter().counter("scans")
    for done in range(100, 200):  # goes on after an earlier run: its hundred do not count as this one's speed
        show(done, 200, "3 bad")
        clock.now_s += LINE_EVERY_S / 10
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "scans: 110 of 200 (55%), 0.333/s: 3 bad"
    assert len(lines) == 9


def test_a_terminal_sees_share_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with Reporter() as reporter:
        show = reporter.counter("scans")
        for done in range(1, 5):
            show(done, 5, "[2 bad]" if done == 2 else "")
        assert reporter._bar is not None
        reporter._bar.refresh()
    assert "scans" in terminal.getvalue() and "4/5" in terminal.getvalue()
    assert "80%" in terminal.getvalue() and "/s" in terminal.getvalue()


def test_a_line_that_stays_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with Reporter() as reporter:
        reporter.say("wrote [bold]/tmp/x[/bold]")
    assert "wrote [bold]/tmp/x[/bold]" in terminal.getvalue()


def test_items_are_counted_as_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = a_terminal(monkeypatch)
    with Reporter() as reporter:
        assert list(reporter.track("abc", "letters")) == ["a", "b", "c"]
    assert "3/3" in terminal.getvalue()
