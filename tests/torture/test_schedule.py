"""Rows run side by side, the lengthy ones first; those whose rates work beside them would spoil run alone."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

import tests.torture.__main__ as harness
from tests.torture.trial import Procedure, Trial


def test_lengthy_rows_begin_first_and_timed_rows_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    running: set[str] = set()
    beside: dict[str, set[str]] = {}
    both_run = threading.Barrier(2)

    def row(name: str) -> Procedure:
        def run(_trial: Trial) -> None:
            begun.append(name)
            running.add(name)
            if not name.startswith("timed"):
                both_run.wait(30)
            beside[name] = running - {name}
            if not name.startswith("timed"):
                both_run.wait(30)
            running.remove(name)

        return Procedure(name, name, run, is_timed=name.startswith("timed"), is_lengthy=name.startswith("lengthy"))

    names = ("timed-1", "brief-1", "lengthy-1", "timed-2", "brief-2", "lengthy-2")
    monkeypatch.setattr(harness, "PROGRAM", "mosquitto")
    monkeypatch.setattr(harness, "PROCEDURES", tuple(map(row, names)))
    monkeypatch.setattr(sys, "argv", ["torture", "--column", "short", "--out", str(tmp_path)])
    assert harness.main() == 0
    assert set(begun[:2]) == {"lengthy-1", "lengthy-2"}
    assert begun[4:] == ["timed-1", "timed-2"]
    assert {name: beside[name] for name in ("timed-1", "timed-2")} == {"timed-1": set(), "timed-2": set()}
    assert beside["brief-1"] == {"brief-2"}
