"""The verbs that ask a running line: their options, and what each runs. Imports nothing heavy before a verb runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from edge.errors import SettingsError
from edge.settings import Settings
from edge.system.command import EXITS, add_file, add_verb, moment

MOMENT_HELP = "2026-03-01T06:00 (local time, or with a zone), or an age: 90m, 12h, 7d"
STDOUT = Path("-")
PICTURES = 300
"""Verdicts that a report shows large, about 0.3 MB each."""


def add_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add `report`, `show` and `export`. They only read, so the worker may keep running."""
    _add_report(verbs, common)
    _add_show(verbs, common)
    _add_export(verbs, common)


def report(options: argparse.Namespace, settings: Settings) -> int:
    """Run `report`; its exit code. Raises EdgeError."""
    from edge.reports.report import report_html, shift_of
    from edge.store.reader import LedgerReader

    since, until = _time(options)
    file = options.out or Path(f"report-{settings.station}-{until.astimezone():%Y%m%dT%H%M}.html")
    with LedgerReader(settings.state.ledger) as reader:
        shift = shift_of(reader, since, until, settings.evidence_dir, options.pictures)
    with _open_output(file) as stream:
        for part in report_html(shift):
            stream.write(part.encode())
    if file != STDOUT:
        print(f"{file}: {shift.whole.count} verdicts, {len(shift.cards)} to look at")
    return 0


def export(options: argparse.Namespace, settings: Settings) -> int:
    """Run `export`; its exit code. Raises EdgeError."""
    from edge.reports.table import csv_lines
    from edge.store.reader import LedgerReader

    since, until = _time(options)
    with LedgerReader(settings.state.ledger) as reader, _open_output(options.out or STDOUT) as stream:
        if options.format == "jsonl":
            for stored in reader.decided(since, until):
                stream.write(stored.payload + b"\n")
        else:
            for line in csv_lines(reader.decided(since, until)):
                stream.write(line.encode())
    return 0


def show(options: argparse.Namespace, settings: Settings) -> int:
    """Run `show`; its exit code. Raises EdgeError."""
    from edge.reports.show import show_all

    return show_all(options.word, settings)


def _add_report(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    report = add_verb(
        verbs,
        "report",
        "write what happened on a shift as one HTML file, with every scan to look at",
        description="The worker may keep running.",
        examples=("edge-worker report --since 8h", "edge-worker report --since 2026-03-01T06:00 --out shift.html"),
        exits=(78,),
        parents=[common],
    )
    _add_time(report)
    add_file(
        report, "--out", about="HTML file to write, `-` = standard output (default: report-STATION-TIME.html here)"
    )
    report.add_argument(
        "--pictures",
        type=_count,
        default=PICTURES,
        metavar="N",
        help=f"verdicts shown large, those of `review` first; the others stand in the table (default: {PICTURES})",
    )


def _add_show(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    show = add_verb(
        verbs,
        "show",
        "say all about a part, a file or a verdict, and whether its file is still the judged one",
        description="Newest first. The worker may keep running.",
        examples=("edge-worker show 0003", "edge-worker show B01_0003.tif"),
        exits={
            65: "nothing is known of it, a file is not the one that was judged, or the ledger's row is damaged",
            78: EXITS[78],
        },
        parents=[common],
    )
    show.add_argument("word", metavar="PART|FILE|VERDICT_ID", help="what to look for, as it stands in a verdict")


def _add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    export = add_verb(
        verbs,
        "export",
        "write verdicts as a table or as the messages they were sent as",
        description="Oldest first; the worker may keep running. "
        "In CSV a text that a spreadsheet would take for a formula has a ' before it.",
        examples=(
            "edge-worker export --since 7d > week.csv",
            "edge-worker export --since 2026-03-01 --until 2026-03-02 --format jsonl --out day.jsonl",
        ),
        exits=(78,),
        parents=[common],
    )
    _add_time(export)
    export.add_argument(
        "--format", choices=("csv", "jsonl"), default="csv", help="csv, or jsonl: byte for byte as sent (default: csv)"
    )
    add_file(export, "--out", about="table or messages to write (default: standard output)")


def _add_time(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--since", type=moment, default="8h", metavar="TIME", help=f"begin of the time, {MOMENT_HELP} (default: 8h)"
    )
    verb.add_argument("--until", type=moment, metavar="TIME", help="end of the time, likewise (default: now)")


def _time(options: argparse.Namespace) -> tuple[datetime, datetime]:
    until = options.until or datetime.now(UTC)
    if options.since >= until:
        raise SettingsError(
            f"--since {options.since.isoformat()} is not before --until {until.isoformat()}",
            hint="a time without a zone is local time",
        )
    return options.since, until


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no count: expected 0 or more")
    return int(text)


@contextmanager
def _open_output(file: Path) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all, or standard output."""
    if file == STDOUT:
        yield sys.stdout.buffer
        return
    from edge.system.files import write_whole

    try:
        with write_whole(file, durable=False) as stream:
            yield stream
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}", hint="name another file with --out") from error
