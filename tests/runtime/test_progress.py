"""Phases of a long task, and what is printed of them."""

from __future__ import annotations

import io

import pytest

from mvss.runtime import progress
from mvss.runtime.progress import Phases


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run(phases: Phases, clock: list[float]) -> None:
    """Two phases of 3 and 5 seconds, the first again for 2."""
    for name, ticks in (("first", 3), ("second", 5), ("first", 2)):
        phases.tell(name, 0.0)
        for tick in range(ticks):
            clock[0] += 1.0
            phases.tell(name, (tick + 1) / ticks)


def test_phases_add_up_their_seconds(clock: list[float]) -> None:
    phases = Phases(verbose=False)
    run(phases, clock)
    assert phases.seconds() == {"first": 5.0, "second": 5.0}
    clock[0] += 50.0
    assert phases.seconds() == {"first": 5.0, "second": 5.0}  # nothing is on any more
    assert Phases(verbose=False).seconds() == {}


def test_a_log_gets_a_line_a_phase(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    phases = Phases(verbose=True)
    run(phases, clock)
    phases.close()
    phases.close()  # nothing more
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.splitlines() == ["first: 3 s", "second: 5 s", "first: 5 s"]


def test_nothing_is_printed_where_that_was_asked_for(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    phases = Phases(verbose=False)
    run(phases, clock)
    phases.seconds()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    phases = Phases(verbose=True)
    run(phases, clock)
    assert phases.bar is not None
    phases.tell("first", 1.7)  # no more than all
    assert phases.bar.n == 1.0
    phases.close()
    assert phases.bar is None and "100%" in terminal.getvalue() and "second" in terminal.getvalue()
    assert phases.seconds() == {"first": 5.0, "second": 5.0}
