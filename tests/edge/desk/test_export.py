"""Answers become training material: what the desk exports, training reads as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge.desk.export import export
from edge.desk.readings import Read
from edge.desk.store import FILE_NAME, DeskStore
from edge.errors import DeskError, SettingsError
from edge.evidence.record import SCAN
from edge.records import Outcome
from edge.validation.labels import Label, read_labels
from tests.support.desk import put_piece, sheet
from train.dataset import read_frame
from train.dataset import read_labels as read_training_labels


class Shift:
    """Evidence and answers, without a page."""

    def __init__(self, folder: Path) -> None:
        self.evidence = folder / "evidence"
        self.evidence.mkdir()
        self.store = DeskStore(folder / FILE_NAME)

    def scan(self, number: int, outcome: Outcome = Outcome.REVIEW, **options: object) -> str:
        piece = put_piece(self.evidence, number, outcome, counts=sheet(number, 60, 40), **options)  # type: ignore[arg-type]
        return piece.record.verdict_id

    def say(self, verdict_id: str, *choices: str, outcome: str = "review", **said: object) -> None:
        for number, (choice, read) in enumerate(zip(choices, (*Read, Read.SECOND), strict=False)):
            fields = {"verdict_id": verdict_id, "by": f"reader{number}", "decision": choice, "outcome": outcome}
            fields |= {"kept": "outcome", "file": "x.tif", "seconds_looked": 3.0, "kinds": [], "severity": None}
            nonce = f"{verdict_id}{number}"
            self.store.add_answer({**fields, "boxes_px": [], **said}, nonce, lambda _, read=read: read)  # type: ignore[misc]


@pytest.fixture
def shift(tmp_path: Path) -> Shift:
    return Shift(tmp_path)


def test_training_reads_what_the_desk_exports(shift: Shift, tmp_path: Path) -> None:
    counts = {}
    for number, (choice, lot) in enumerate([("normal", "B01"), ("abnormal", "B01"), ("normal", "B02")]):
        verdict_id = shift.scan(number, lot=lot)
        counts[verdict_id[:8]] = sheet(number, 60, 40)
        shift.say(verdict_id, choice)
    shift.scan(9)  # nobody answered it
    words = export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    assert words == f"3 scans and labels.csv written to {tmp_path / 'out'}"
    rows = read_training_labels(tmp_path / "out")
    assert sorted((row.lot, row.label) for row in rows) == [("B01", 0), ("B01", 1), ("B02", 0)]
    for row in rows:
        assert np.array_equal(read_frame(row).counts, counts[row.path.stem[-8:]])
    assert json.loads(list(shift.store.entries())[-1][1])["scans"] == 3
    assert shift.store.problems() == []


def test_kinds_boxes_and_severity_come_from_those_whose_word_stands(shift: Shift, tmp_path: Path) -> None:
    verdict_id = shift.scan(1)
    box = {"x_px": 1, "y_px": 2, "width_px": 3, "height_px": 4}
    shift.say(verdict_id, "abnormal", kinds=["lines", "bubbles"], severity=0.9, boxes_px=[box])
    export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    (row,) = read_labels(tmp_path / "out" / "labels.csv")
    assert (row.label, row.kinds, row.severities) == (Label.ABNORMAL, ("bubbles", "lines"), (0.9, 0.9))
    assert row.part_id == "0001"
    assert '""x_px"": 1' in (tmp_path / "out" / "labels.csv").read_text()


@pytest.mark.parametrize(
    ("outcome", "choices", "label", "votes"),
    [
        ("abnormal", ("normal", "normal"), Label.NORMAL, (Label.NORMAL, Label.NORMAL)),
        ("abnormal", ("normal", "abnormal"), Label.ABNORMAL, (Label.NORMAL, Label.ABNORMAL)),
        ("review", ("undecided", "normal", "normal"), Label.NORMAL, (None, Label.NORMAL, Label.NORMAL)),
        ("review", ("normal", "normal", "abnormal", "normal"), Label.ABNORMAL, (Label.ABNORMAL,)),
    ],
)
def test_the_label_that_training_takes_is_what_stands_at_the_desk(
    shift: Shift, tmp_path: Path, outcome: str, choices: tuple[str, ...], label: Label, votes: tuple[Label | None, ...]
) -> None:
    verdict_id = shift.scan(1, Outcome(outcome))
    if len(choices) == 4:  # four readers and no arbiter: one abnormal is enough, a majority is not
        for number, choice in enumerate(choices):
            shift.say(verdict_id, outcome=outcome)
            fields = {"verdict_id": verdict_id, "by": f"r{number}", "decision": choice, "outcome": outcome}
            fields |= {"kept": "outcome", "file": "x", "seconds_looked": 1.0, "kinds": [], "severity": None}
            shift.store.add_answer({**fields, "boxes_px": []}, f"n{number}", lambda _: Read.SECOND)
    else:
        shift.say(verdict_id, *choices, outcome=outcome)
    export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    (row,) = read_labels(tmp_path / "out" / "labels.csv")
    assert row.label is label
    assert row.votes[: len(votes)] == votes


def test_undecided_and_disputed_scans_are_left_out(shift: Shift, tmp_path: Path) -> None:
    shift.say(shift.scan(1), "normal")
    shift.say(shift.scan(2), "undecided")
    shift.say(shift.scan(3, Outcome.ABNORMAL), "normal", outcome="abnormal")
    words = export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    assert words.endswith("; 2 answered ones wait for another reader"), "a reader who answered three looks for three"
    assert len(read_labels(tmp_path / "out" / "labels.csv")) == 1


def test_pruned_unreadable_and_damaged_scans_are_counted(shift: Shift, tmp_path: Path) -> None:
    ids = [shift.scan(number) for number in range(3)] + [shift.scan(3, Outcome.UNREADABLE)]
    for verdict_id in ids:
        shift.say(verdict_id, "abnormal")
    shutil.rmtree(next(shift.evidence.glob(f"*/{ids[0]}")))
    (next(shift.evidence.glob(f"*/{ids[1]}")) / SCAN).write_bytes(b"")
    words = export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    assert words.startswith("1 scans and labels.csv")
    assert "2 decided ones have no picture" in words and "1 are damaged: B01_0001.tif" in words
    assert len(list((tmp_path / "out").glob("*.tif"))) == len(read_labels(tmp_path / "out" / "labels.csv")) == 1


def test_hostile_names_stay_in_the_folder_and_are_no_formula(shift: Shift, tmp_path: Path) -> None:
    for number, file in enumerate(["../../etc/passwd.tif", "a\nb,c.tif", ".hidden.tif", "é\u202e.tif"]):
        shift.say(shift.scan(number, file=file, lot="=cmd|' /C calc'!A0"), "normal")
    export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(files) == 5 and not (tmp_path / "etc").exists()
    rows = read_labels(tmp_path / "out" / "labels.csv")
    assert sorted(row.file for row in rows) == [name for name in files if name.endswith(".tif")]
    assert {row.lot for row in rows} == {"'=cmd|' /C calc'!A0"}


def test_a_folder_that_holds_something_is_refused_and_nothing_to_export_is_said(shift: Shift, tmp_path: Path) -> None:
    with pytest.raises(DeskError, match="no decided scan has its picture"):
        export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    shift.say(shift.scan(1), "normal")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(SettingsError, match="is not empty"):
        export(shift.store, shift.evidence, tmp_path / "out", "os:test")
    (tmp_path / "file").touch()
    with pytest.raises(DeskError, match="file"):
        export(shift.store, shift.evidence, tmp_path / "file", "os:test")
