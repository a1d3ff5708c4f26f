"""How the silence of a loop is told: never after the loop has answered."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

import edge.system.heartbeat
from edge.system.heartbeat import Beats


def test_a_silence_is_told_before_the_loop_goes_on_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a folder that has just answered is told as hanging, until its next look."""
    now_s = [0.0]
    monkeypatch.setattr(edge.system.heartbeat, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    beats, order = Beats(), []
    has_answered = threading.Thread(target=lambda: (beats.rest("inbox"), order.append("answered")))

    def tell(silent_s: float) -> None:
        has_answered.start()
        has_answered.join(0.2)
        order.append(f"silent for {silent_s:g} s")

    beats.beat("inbox")
    beats.if_silent("inbox", 10.0, tell)
    now_s[0] = 10.0
    beats.if_silent("inbox", 10.0, tell)
    has_answered.join()
    assert order == ["silent for 10 s", "answered"]
    beats.beat("inbox")
    now_s[0] = 30.0
    with beats.pause("inbox"):
        beats.if_silent("inbox", 10.0, tell)
    beats.if_silent("inbox", 10.0, tell)
    assert len(order) == 2
