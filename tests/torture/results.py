"""Rows as a table on the terminal, as JSON, and as docs/reliability.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge.mqtt.publisher import program_versions
from tests.torture.trial import Procedure, Row

COLOURS = {"pass": "green", "late": "magenta", "fail": "red", "skipped": "yellow"}


def print_row(row: Row) -> None:
    """As it is done, for whoever watches."""
    Console(highlight=False, soft_wrap=True).print(
        f"[{COLOURS[row.verdict]}]{row.verdict}[/] {row.id} {row.fault}: {row.tried} tried, {row.lost} lost, "
        f"{row.contradictory} contradictory, {row.took_s:.0f} s",
        row.reason,
        json.dumps({name: value for name, value in row.figures.items() if name != "series"}),
        markup=True,
    )


def read_rows(folder: Path, order: Sequence[Procedure]) -> list[Row]:
    """Every row that was ever run, in the order of the list."""
    files = [folder / f"{procedure.id}.json" for procedure in order]
    return [Row(**json.loads(file.read_text())) for file in files if file.exists()]


def longest_rows(out: Path, order: Sequence[Procedure]) -> list[Row]:
    """Every row as it ran in the long column; where it has not, as in the short one."""
    rows = {row.id: row for column in ("short", "long") for row in read_rows(out / column / "rows", order)}
    return [rows[procedure.id] for procedure in order if procedure.id in rows]


def summary(rows: Iterable[Row], took_s: float) -> dict[str, Any]:
    rows = list(rows)
    verdicts = [row.verdict for row in rows]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": program_versions(),
        "passed": verdicts.count("pass"),
        "late": verdicts.count("late"),
        "failed": verdicts.count("fail"),
        "skipped": verdicts.count("skipped"),
        "took_s": round(took_s, 1),
        "rows": [row.as_json() for row in rows],
    }


def as_table(rows: Iterable[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    names = ("", "fault", "tried", "lost", "duplicated", "contradictory", "recovery s", "took s", "verdict", "reason")
    for name in names:
        table.add_column(name)
    for row in rows:
        recovery = "" if row.slowest_recovery_s is None else f"{row.slowest_recovery_s:.1f}"
        counts = (row.tried, row.lost, row.duplicated, row.contradictory)
        verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]"
        table.add_row(row.id, row.fault, *map(str, counts), recovery, f"{row.took_s:.0f}", verdict, row.reason[:80])
    Console(highlight=False).print(table)
