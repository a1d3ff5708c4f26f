"""`edge-worker report`, `export` and `show`: what a person asks of a station, beside the running worker."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal
from uuid import UUID

import pytest

from edge.cli import main
from edge.contract.messages import Disposition, canonical_json
from edge.evidence.record import evidence_of
from edge.records import Outcome
from edge.reports.report import report_html, shift_of
from edge.reports.show import _decision
from edge.store.ledger import open_ledger
from edge.store.reader import LedgerReader
from tests.support.samples import MORNING, STATION, sample_answer, sample_entry
from tests.support.shift import HOSTILE, Night, make_night


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return make_night(tmp_path_factory.mktemp("night"))


@pytest.fixture
def running(night: Night) -> Iterator[None]:
    """The worker has its ledger open."""
    with open_ledger(night.root / "state" / "ledger.sqlite", STATION):
        yield


def run(night: Night, *words: str) -> int:
    return main([*words, "--config", str(night.config)])


def span(night: Night) -> tuple[str, ...]:
    return "--since", night.since.isoformat(), "--until", night.until.isoformat()


@pytest.mark.usefixtures("running")
def test_a_table_of_verdicts_is_written_beside_the_running_worker(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert run(night, "export", *span(night), "--out", str(out)) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["verdict_id"] for row in rows] == [verdict.verdict_id for verdict in night.verdicts]
    assert [row["sent_at"] == "" for row in rows] == [False] * 22 + [True] * 2
    first, fourth, eighth = rows[0], rows[3], rows[7]
    assert (first["outcome"], first["p_abnormal"], first["latency_s"]) == ("normal", "0.1", "1.000")
    assert (fourth["reasons"], fourth["detail"]) == ("gate-mean", "gate mean 0.07 above 0.05")
    assert (eighth["decision"], eighth["decision_by"]) == ("normal", HOSTILE[1])


def test_no_cell_of_the_table_is_a_formula(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    run(night, "export", *span(night), "--out", str(out))
    cells = [cell for row in csv.reader(io.StringIO(out.read_text())) for cell in row]
    assert f"'{HOSTILE[2]}" in cells
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@", "\t")]


def test_messages_are_exported_byte_for_byte(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "day.jsonl"
    assert run(night, "export", *span(night), "--format", "jsonl", "--out", str(out)) == 0
    assert out.read_bytes() == b"".join(canonical_json(verdict) + b"\n" for verdict in night.verdicts)


def test_a_table_loads_nothing_that_reads_pictures(night: Night) -> None:
    """Which would be a fifth of a second of each export's start."""
    words = ["export", *span(night), "--config", str(night.config)]
    code = f"import sys, edge.cli; edge.cli.main({words}); print('cv2' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_a_time_holds_what_was_decided_in_it(night: Night, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    since = (MORNING + timedelta(minutes=40)).isoformat()
    until = (MORNING + timedelta(minutes=80)).isoformat()
    assert run(night, "export", "--format", "jsonl", "--since", since, "--until", until) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [3, 4]


def test_a_time_that_ends_before_it_begins_is_refused(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(night, "export", "--since", "2026-03-02", "--until", "2026-03-01") == 78
    assert "is not before" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_says_which(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(night, "report", *span(night), "--out", "/nowhere/report.html") == 78
    assert "/nowhere/report.html: No such file or directory" in capsys.readouterr().err


@pytest.mark.usefixtures("running")
def test_the_report_counts_everything_and_shows_what_is_to_be_looked_at(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert run(night, "report", *span(night), "--out", str(out)) == 0
    page = out.read_text()
    for outcome in (Outcome.REVIEW, Outcome.ABNORMAL, Outcome.UNREADABLE):
        for verdict in night.of(outcome):
            assert page.count(f'id="v-{verdict.verdict_id}"') == 1
    for verdict in night.of(Outcome.NORMAL):
        assert verdict.verdict_id not in page
    assert page.count("<article") == 6
    assert page.count("data:image/jpeg") == 5
    assert "2 not sent yet" in page
    assert "gate mean 0.07 above 0.05" in page
    assert "no evidence at" in page


def test_the_report_shows_what_spoke_for_abnormal_beside_the_residual(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert run(night, "report", *span(night), "--out", str(out)) == 0
    page = out.read_text()
    assert page.count("; beside it the same scan with what spoke for abnormal") == 2
    assert page.count("; beside it the same scan with the gate&#x27;s residual") == 5
    # The place from x 50, y 50 on, 50 px wide, on scans that the verdict calls 2000 x 1000 px, shown at 0.7 of that.
    assert page.count('<rect class="place" x="32.0" y="32.0" width="41.0" height="41.0"/>') == 2


def test_the_report_says_when_there_was_nothing(night: Night, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert run(night, "report", "--since", "1m", "--out", str(out)) == 0
    assert "No verdict in this time" in out.read_text()


def test_the_figures_of_the_report_are_those_of_the_verdicts(night: Night) -> None:
    with LedgerReader(night.root / "state" / "ledger.sqlite") as reader:
        shift = shift_of(reader, night.since, night.until, night.root / "state" / "evidence", 2)
    assert shift.whole.outcomes == {
        Outcome.NORMAL: 18,
        Outcome.REVIEW: 2,
        Outcome.ABNORMAL: 2,
        Outcome.UNREADABLE: 2,
    }
    assert shift.whole.latency_s(50) == pytest.approx(2.15)
    assert sum(span.count for span in shift.spans) == 24
    assert {span.count for span in shift.spans} == {3}
    assert shift.reasons["gate-mean"] == 2
    pictured = [card.past.verdict.outcome for card in shift.cards if card.picture is not None]
    assert pictured == [Outcome.REVIEW], "the first of both has no evidence"
    assert [card.is_large for card in shift.cards] == [True, False, False, True, False, False]
    assert shift.sampled == 0
    assert sum(shift.models.values()) == 24


def test_a_long_time_is_counted_by_day(night: Night) -> None:
    with LedgerReader(night.root / "state" / "ledger.sqlite") as reader:
        since = night.since - timedelta(days=9)
        shift = shift_of(reader, since, night.until, night.root, 0)
    assert len(shift.spans) <= 2
    assert "By day" in "".join(report_html(shift))


def test_damaged_evidence_is_told_and_never_shown(night: Night, tmp_path: Path) -> None:
    copy = tmp_path / "evidence"
    shutil.copytree(night.root / "state" / "evidence", copy)
    for path in copy.glob("*/*/image.png"):
        os.truncate(path, 20)
    with LedgerReader(night.root / "state" / "ledger.sqlite") as reader:
        shift = shift_of(reader, night.since, night.until, copy, 9)
    assert [card.picture for card in shift.cards] == [None] * 6
    assert sum("not the bytes that were kept" in card.evidence for card in shift.cards) == 5


def show(night: Night, capsys: pytest.CaptureFixture[str], word: str) -> tuple[int, str]:
    capsys.readouterr()
    code = run(night, "show", word)
    return code, capsys.readouterr().out


@pytest.mark.usefixtures("running")
def test_all_is_said_of_a_part_a_file_or_a_verdict(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = night.of(Outcome.REVIEW)[1]
    told = {word: show(night, capsys, word) for word in (str(verdict.part_id), verdict.scan.file, verdict.verdict_id)}
    assert len(set(told.values())) == 1
    code, text = next(iter(told.values()))
    assert code == 0
    for words in (
        verdict.verdict_id,
        "review: gate mean 0.07 above 0.05",
        "normal by <img src=x onerror=alert(2)>",
        f"unchanged, SHA-256 {verdict.scan.sha256}",
        verdict.model.sha256,
        f"{night.root / 'state' / 'evidence' / str(verdict.evidence)}: scan.png, image.png, residual.png, reason.png",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("stands", "words"),
    [
        ("normal", "normal by ann"),
        ("abnormal", "abnormal; newest answer: normal by ann"),
        (None, "open, another reader is asked; newest answer: normal by ann"),
    ],
)
def test_what_stands_is_said_before_the_newest_answer(stands: Literal["normal", "abnormal"] | None, words: str) -> None:
    where = {"station": STATION, "ledger_id": UUID(int=1), "seq": 1}
    said = {"decision": "normal", "by": "ann", "stands": stands}
    newest = Disposition.model_validate({**sample_answer().model_dump(), **where, **said})
    assert _decision(newest).startswith(words)


def test_a_verdict_without_evidence_says_why(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    assert "only a share is kept, drawn by lot" in show(night, capsys, night.verdicts[0].verdict_id)[1]
    review = night.of(Outcome.REVIEW)[1].model_copy(update={"evidence": None})
    assert "while `evidence.max_bytes` was 0" in str(evidence_of(review, night.root))


def test_evidence_that_was_dropped_is_named_as_missing(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = show(night, capsys, night.verdicts[3].verdict_id)
    assert code == 0
    assert "no evidence at" in text
    assert "\u202e" not in show(night, capsys, night.verdicts[15].verdict_id)[1]


def test_a_file_that_is_no_longer_the_judged_one_is_told_by_words_and_exit_code(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    path = night.folder / night.verdicts[0].scan.file
    data = path.read_bytes()
    try:
        path.write_bytes(b"another scan")
        code, text = show(night, capsys, path.name)
        assert code == 65
        assert "CHANGED since it was judged: 12 bytes" in text
        path.unlink()
        code, text = show(night, capsys, path.name)
        assert code == 0
        assert f"no longer in {night.folder}" in text
        path.symlink_to("elsewhere")
        code, text = show(night, capsys, path.name)
        assert "cannot be read" in text
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def test_a_verdict_that_was_changed_in_the_ledger_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    night = make_night(tmp_path, 1)
    with sqlite3.connect(tmp_path / "state" / "ledger.sqlite") as sql:
        sql.execute("UPDATE payloads SET payload = replace(CAST(payload AS TEXT), '0.1', '0.2')")
    code, text = show(night, capsys, night.verdicts[0].verdict_id)
    assert (code, "DAMAGED" in text) == (65, True)


def test_an_older_verdict_on_a_name_says_which_one_follows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = make_night(tmp_path, 5)
    newer = make_again(night)
    code, text = show(night, capsys, night.verdicts[0].verdict_id)
    assert code == 0
    assert f"another one of this name was judged since, by {newer}" in text


def make_again(night: Night) -> str:
    """Another scan under the name of the first one; its verdict."""
    entry = sample_entry(99, decided_at=night.until)
    verdict = entry.verdict
    assert verdict is not None
    file = night.verdicts[0].scan.file
    verdict = verdict.model_copy(update={"scan": verdict.scan.model_copy(update={"file": file})})
    with open_ledger(night.root / "state" / "ledger.sqlite", STATION) as ledger:
        ledger.commit([replace(entry, verdict=verdict, scan=replace(entry.scan, file=file))], night.until)
    return verdict.verdict_id


def test_what_nobody_knows_is_an_error_with_a_hint(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(night, "show", "4711") == 65
    told = capsys.readouterr().err
    assert "no verdict on '4711'" in told
    assert "state.keep_days" in told


def test_the_report_goes_to_standard_output_too(night: Night, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(night, "report", *span(night), "--out", "-") == 0
    assert capfdbinary.readouterr().out.startswith(b"<!doctype html>")


def test_a_verdict_of_another_release_is_an_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = make_night(tmp_path, 2)
    with sqlite3.connect(tmp_path / "state" / "ledger.sqlite") as sql:
        sql.execute("UPDATE payloads SET payload = ? WHERE seq = 2", (b'{"schema":"verdict/9"}',))
    assert run(night, "export", "--since", night.since.isoformat()) == 74
    assert "verdict 2" in capsys.readouterr().err
