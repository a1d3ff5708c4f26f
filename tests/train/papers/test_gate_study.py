"""The table of a gate at several resolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from train.cli import main
from train.papers.gate_study import _table
from train.recipe import GateRecipe


def test_every_share_has_its_intervals_and_its_worst_lot() -> None:
    rate: dict[str, Any] = {"hits": 3, "total": 40, "share": 0.075, "interval": [0.026, 0.199]}
    over = {"lots": 5, "interval": [0.011, 0.312], "worst": {"lot": "L3", "errors": 2, "scans": 8}}
    one = {"reduction": 2, "training_s": 60.0, "device_pass_ms": 4.0, "cpu_pass_ms": 40.0, "cpu_threads": 2}
    spans = {"normal_over_lots": over, "foreign_over_kinds": over, "abnormal_over_lots": None}
    found = [{**one, **dict.fromkeys(("normal", "foreign", "abnormal"), rate), **spans, "least_margin": 1.2}]
    row = _table(found, GateRecipe(), "edge-train gate-study").splitlines()[-1].split(" | ")

    assert row[1:4] == [
        "3 of 40 (2.6 to 19.9; 1.1 to 31.2, 5 lots; most L3: 2 of 8)",
        "3 of 40 (2.6 to 19.9; 1.1 to 31.2, 5 kinds; not refused L3: 2 of 8)",
        "1.20",
    ]


def test_a_lot_in_both_sets_is_refused_before_the_training(
    tiny_lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.papers.gate_study.train_gate", lambda *_, **__: pytest.fail("it trained"))
    assert main(["gate-study", str(tiny_lot), str(tiny_lot), "--out", str(tmp_path / "out")]) == 65
    assert "lots of these names are in both sets: B0, B1, B2" in capsys.readouterr().err


def test_a_study_that_is_killed_leaves_no_table_of_an_earlier_one(
    tiny_lot: Path, held_back: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.papers.gate_study.train_gate", killed)
    for name in ("gate_study.md", "gate_study.json"):
        (tmp_path / name).write_text("of another gate")
    assert main(["gate-study", str(tiny_lot), str(held_back), "--out", str(tmp_path), "--drawn", "0"]) == 130
    assert list(tmp_path.iterdir()) == []
