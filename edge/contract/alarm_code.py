"""The alarms there are; docs/operate.md has a section for each, headed by its code."""

from __future__ import annotations

from enum import StrEnum


class AlarmCode(StrEnum):
    """Which alarm, for programs: `alarm/1` and `health/1` name it."""

    FOLDER_AWAY = "folder-away"
    FOLDER_PARTLY_READ = "folder-partly-read"
    INTAKE_STOPPED = "intake-stopped"
    SCANS_REFUSED = "scans-refused"
    SCANS_REPEATED = "scans-repeated"
    SCANS_REWRITTEN = "scans-rewritten"
    SCANS_UNMARKED = "scans-unmarked"
    PART_UNKNOWN = "part-unknown"
    SCANS_NOT_MOVED = "scans-not-moved"
    SCANS_NOT_READABLE = "scans-not-readable"
    CLOCK_BEHIND = "clock-behind"
    DISK_LOW = "disk-low"
    EVIDENCE_DROPPED = "evidence-dropped"
    OUTBOX_STUCK = "outbox-stuck"
    BROKER_AWAY = "broker-away"
    BROKER_REFUSES = "broker-refuses"
    STATION_TWICE = "station-twice"
    VERDICT_REFUSED = "verdict-refused"
    NO_SUBSCRIBER = "no-subscriber"
    NO_RETAIN = "no-retain"
    REQUEST_REFUSED = "request-refused"
    MESSAGE_DAMAGED = "message-damaged"
    LEDGER_RENEWED = "ledger-renewed"
    DEGRADED = "degraded"
    START_REFUSED = "start-refused"
