"""The queue between the inbox and the worker: what it says of a file, and when it asks for more."""

from __future__ import annotations

from datetime import UTC, datetime

from edge.station.intake import StationIntake
from tests.station import Line, drop

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_an_arrival_says_what_the_file_has_to_be_still_when_it_is_read(line: Line) -> None:
    intake = StationIntake(line.inbox)
    path = drop(line.folder / "a.tif")
    for now_s in range(3):
        intake.refill(float(now_s), NOW)
    (arrival,) = intake.take(1)
    assert arrival.expected is not None and arrival.expected.is_shown_by(path.lstat())
    drop(path)
    assert not arrival.expected.is_shown_by(path.lstat())
