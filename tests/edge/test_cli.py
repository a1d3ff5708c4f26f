"""`--resend SINCE`: times and ages."""

from datetime import UTC, datetime, timedelta

import pytest

from edge.cli import _moment, main


def test_an_age_and_a_time_are_points_in_time() -> None:
    assert abs(datetime.now(UTC) - timedelta(hours=12) - _moment("12h")) < timedelta(minutes=1)
    assert _moment("2026-03-01T06:00+00:00") == datetime(2026, 3, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize("text", ["99999999999d", f"{'9' * 5000}d", "0001-01-01T00:00+12:00", "²d", "12w", ""])
def test_what_no_calendar_holds_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--resend", text])
    assert "argument --resend: " in (told := capsys.readouterr().err)
    assert "neither a time like 2026-03-01T06:00 nor an age like 12h" in told
