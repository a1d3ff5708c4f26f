"""Figures of the overview: from the worker's own health and from the answers, with nothing made up between."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from edge.contract.messages import Health, canonical_json
from edge.desk.overview import note_health, overview_facts
from edge.desk.readings import Read
from edge.desk.store import FILE_NAME, DeskStore
from edge.desk.words import NOTHING
from edge.errors import SettingsError
from tests.support.samples import sample_health

NOON = datetime.now(UTC).astimezone().replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeskStore]:
    with DeskStore(tmp_path / FILE_NAME) as opened:
        yield opened


def tell(store: DeskStore, at: datetime, boot: int = 1, drift: float | None = None, **outcomes: int) -> None:
    told = {"at": at, "boot_id": UUID(int=boot), "outcomes": outcomes, "drift": {"p_abnormal": drift}}
    store.add_health(int(at.timestamp() * 1000), canonical_json(sample_health().model_copy(update=told)))


def say(store: DeskStore, verdict: int, outcome: str, decision: str, kept: str = "outcome", by: str = "ann") -> None:
    fields = {"verdict_id": f"{verdict:032x}", "by": by, "decision": decision, "outcome": outcome, "kept": kept}
    more = {"file": f"x/B01_{verdict:04}.tif", "seconds_looked": 10.0 * verdict}
    store.add_answer({**fields, **more}, f"{by}{verdict}{decision}", lambda votes: Read.SECOND if votes else Read.FIRST)


def test_verdicts_of_today_are_counted_through_midnight_and_restarts(store: DeskStore) -> None:
    tell(store, NOON - timedelta(hours=13), normal=90, review=2)
    tell(store, NOON - timedelta(hours=2), normal=100, review=2)
    tell(store, NOON - timedelta(hours=1), normal=130, review=3)
    tell(store, NOON, boot=2, normal=5)
    facts = overview_facts(store, None, NOON, "en")
    assert facts.today == {"normal": 45, "abnormal": 0, "review": 1, "unreadable": 0}
    assert facts.health is not None and not facts.is_old
    assert overview_facts(store, None, NOON + timedelta(minutes=10), "en").is_old


def test_a_clock_that_was_set_back_does_not_freeze_the_overview(store: DeskStore, tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    for at in (NOON - timedelta(hours=1), NOON + timedelta(days=1), NOON):
        file.write_bytes(canonical_json(sample_health().model_copy(update={"at": at})))
        note_health(store, file)
        note_health(store, file)
    newest = overview_facts(store, None, NOON, "en").health
    assert newest is not None and newest.at == NOON
    assert len(store.health_since(0)) == 2
    assert overview_facts(store, None, NOON - timedelta(hours=6), "en").is_old, "what is told ahead of time is not now"


def test_when_the_line_last_judged_is_known_over_a_restart_and_midnight(store: DeskStore) -> None:
    for at, last in ((NOON - timedelta(hours=1), NOON - timedelta(hours=2)), (NOON, None)):
        told = {"at": at, "boot_id": UUID(int=at.hour), "last_verdict_at": last}
        store.add_health(int(at.timestamp() * 1000), canonical_json(sample_health().model_copy(update=told)))
    assert overview_facts(store, None, NOON, "en").last_verdict == "10:00:00"
    day = NOON + timedelta(days=1)
    assert overview_facts(store, None, day, "de").last_verdict == f"{NOON:%d.%m.} 10:00", (
        "a time alone would be today's"
    )


def test_without_health_nothing_is_said_of_today(store: DeskStore) -> None:
    facts = overview_facts(store, None, NOON, "en")
    assert (facts.health, facts.today, facts.drift, facts.last_verdict) == (None, None, {}, NOTHING)


def test_drift_is_a_curve_once_there_are_two_points(store: DeskStore) -> None:
    tell(store, NOON - timedelta(hours=2), drift=None)
    tell(store, NOON - timedelta(hours=1), drift=0.1)
    assert overview_facts(store, None, NOON, "en").drift == {}
    tell(store, NOON, drift=0.1)
    curve = overview_facts(store, None, NOON, "en").drift["p(abnormal)"]
    assert curve.startswith("<svg") and 'aria-label="p(abnormal): 0.1' in curve and "nan" not in curve


def test_escapes_are_counted_among_controls_drawn_by_lot_alone(store: DeskStore) -> None:
    for verdict in range(1, 11):
        say(store, verdict, "normal", "normal", kept="sample")
    say(store, 11, "normal", "abnormal", kept="sample")
    assert overview_facts(store, None, NOON, "en").escapes.total == 10, "one reader against the line is no decision"
    say(store, 11, "normal", "abnormal", kept="sample", by="bob")
    say(store, 12, "normal", "abnormal", kept="challenge")
    say(store, 12, "normal", "abnormal", kept="challenge", by="bob")
    say(store, 13, "abnormal", "abnormal")
    facts = overview_facts(store, None, NOON, "en")
    assert (facts.escapes.hits, facts.escapes.total) == (1, 11)
    assert facts.escapes.interval.low < 1 / 11 < facts.escapes.interval.high
    assert facts.agreement["normal"] == {"normal": 10, "abnormal": 2, "undecided": 0}
    assert facts.agreement["abnormal"]["abnormal"] == 1


def test_readers_are_measured_by_their_first_answers(store: DeskStore, tmp_path: Path) -> None:
    (tmp_path / "known.csv").write_text("file,bundle,label\nB01_0001.tif,B01,normal\nB01_0002.tif,B01,abnormal\n")
    say(store, 1, "normal", "normal", kept="challenge")
    say(store, 2, "abnormal", "normal", kept="challenge")
    say(store, 2, "abnormal", "abnormal", kept="challenge")  # once the line's verdict was seen
    (ann,) = overview_facts(store, tmp_path / "known.csv", NOON, "en").readers
    assert (ann.account, ann.answers, ann.median_s) == ("ann", 2, 15.0)
    assert (ann.agrees.hits, ann.agrees.total) == (1, 2)
    assert (ann.known.hits, ann.known.total) == (1, 2)
    with pytest.raises(SettingsError, match=r"`desk\.known_labels`"):
        overview_facts(store, tmp_path / "missing.csv", NOON, "en")


def test_the_workers_health_is_noted_once_and_what_is_none_is_left_alone(store: DeskStore, tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    note_health(store, file)
    file.write_bytes(b"{}")
    note_health(store, file)
    assert store.health_since(0) == []
    file.write_bytes(canonical_json(sample_health()))
    note_health(store, file)
    note_health(store, file)
    (kept,) = store.health_since(0)
    assert Health.model_validate_json(kept) == sample_health()
    file.unlink()
    file.symlink_to(tmp_path / FILE_NAME)
    note_health(store, file)
    assert len(store.health_since(0)) == 1
