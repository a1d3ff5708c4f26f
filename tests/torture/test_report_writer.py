"""docs/reliability.md says what the rows say."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from tests.torture.procedures import PROCEDURES
from tests.torture.report import PROMISES, write_report
from tests.torture.results import longest_rows, summary
from tests.torture.trial import Procedure, Row, Skipped, Trial, run_procedure


def lose_a_scan(trial: Trial) -> None:
    trial.findings.tried, trial.findings.lost = 10, 1
    trial.require(False, "1 lost, such as a.tif")


def need_a_mount(_trial: Trial) -> None:
    raise Skipped("needs the right to mount")


def work(trial: Trial) -> None:
    trial.findings.tried = 10
    points = [{"at_s": at, "verdicts": 100 * at, "own_mb": 90, "fds": 20, "threads": 9, "wal_mb": 4} for at in range(9)]
    trial.figures |= {"scans": 10, "series": points}


def rows(root: Path) -> list[Row]:
    procedures = [
        Procedure("R1", "kills", lose_a_scan),
        Procedure("R9", "full", need_a_mount),
        Procedure("L1", "load", work),
    ]
    return [run_procedure(procedure, root, 7, is_long=False) for procedure in procedures]


def test_verdicts_reasons_and_promises_follow_from_the_rows(tmp_path: Path) -> None:
    write_report(rows(tmp_path), tmp_path / "reliability.md")
    text = (tmp_path / "reliability.md").read_text()
    assert "| R1 | kills | short | 10 | 1 | 0 | 0 |  | **fail** |" in text
    assert "**skipped**" in text and "needs the right to mount" in text
    assert "R7 not run; R8 not run; R9 skipped" in text
    assert "1 lost, such as a.tif" in text
    assert (tmp_path / "reliability-load.png").stat().st_size > 1000


def test_the_kernel_is_named_by_its_version_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-26-of-this-host")
    write_report(rows(tmp_path), tmp_path / "reliability.md")
    assert f"; {platform.system()} 6.1.0, " in (tmp_path / "reliability.md").read_text()


def test_a_row_that_did_not_run_at_full_length_is_shown_as_it_ran_and_said_to_be_short(tmp_path: Path) -> None:
    for column, is_long, ids in (("short", False, ("R7", "R8")), ("long", True, ("R8",))):
        folder = tmp_path / column / "rows"
        folder.mkdir(parents=True)
        for name in ids:
            row = run_procedure(Procedure(name, "a fault", work), tmp_path / "work", 7, is_long=is_long)
            (folder / f"{name}.json").write_text(json.dumps(row.as_json()))
    found = longest_rows(tmp_path, PROCEDURES)
    assert [(row.id, row.column) for row in found] == [("R7", "short"), ("R8", "long")]
    write_report(found, tmp_path / "reliability.md")
    text = (tmp_path / "reliability.md").read_text()
    assert "at full length, save R7: those as in the short column" in text
    assert "R9 not run (R7 short)" in text


def test_a_row_that_only_missed_a_bar_of_time_is_late_and_not_failed(tmp_path: Path) -> None:
    def dawdle(trial: Trial) -> None:
        trial.require_in_time(False, "took 11 s, expected 10 s")

    def dawdle_and_lose(trial: Trial) -> None:
        dawdle(trial)
        trial.require(False, "1 lost")

    late, failed = (
        run_procedure(Procedure("R1", "kills", run), tmp_path, 7, is_long=False) for run in (dawdle, dawdle_and_lose)
    )
    assert (late.verdict, late.reason) == ("late", "took 11 s, expected 10 s")
    assert failed.verdict == "fail"
    assert summary([late, failed], 1.0)["late"] == 1


def test_a_procedure_that_stumbles_is_a_failed_row_with_its_traceback(tmp_path: Path) -> None:
    def stumble(_trial: Trial) -> None:
        raise RuntimeError("a defect of the harness")

    row = run_procedure(Procedure("R1", "kills", stumble), tmp_path, 7, is_long=False)
    assert (row.verdict, row.reason) == ("fail", "RuntimeError: a defect of the harness")
    assert "stumble" in (tmp_path / "R1" / "traceback.txt").read_text()


def test_every_fault_of_the_list_has_its_procedure_and_every_promise_its_rows() -> None:
    ids = [procedure.id for procedure in PROCEDURES]
    assert ids == [*(f"R{number}" for number in range(1, 38)), "L1", "S1", "F1"]
    proving = {name for _, names in PROMISES for name in names.split()}
    assert proving == set(ids)
