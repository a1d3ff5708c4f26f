"""docs/reliability.md: what the last run of the harness found, written by the run itself."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge.mqtt.publisher import program_versions
from tests.torture.trial import Row

PROMISES = (
    (
        "Every complete scan in the folder gets exactly one stored verdict per arrival and model; delivery to the "
        "broker is at least once, with identical bytes.",
        "R1 R2 R3 R4 R6 R10 R11 R13 R14 R15 R16 R17 R18 R20 R21 R22 R24 R27 R28 R35 R36 L1 S1",
    ),
    ("Power loss at the edge box loses no published verdict, on a disk that honours flush.", "R7 R8 R9"),
    ("The broker's power loss is recoverable without a new inspection: `edge-worker resend SINCE`.", "R2 R4"),
    (
        "A bad file neither stops the line nor yields a verdict on wrong pixels. A file rewritten in place is held "
        "longer than a new one; what was overwritten unread is counted at the MES.",
        "R11 R12 R22 R23 R25 R26 F1",
    ),
    ("Only a signed, unmodified model runs.", "R19"),
    (
        "`ledger_id` and `seq` name one message for ever; two boxes as one station, and a clock that is before the "
        "model's time, are alarms.",
        "R32",
    ),
    ("A stored message that has changed is never sent; it is an alarm until its part is inspected again.", "R34"),
    ("The pictures of a verdict are whole or not there, and delay no verdict.", "R37"),
    ("A flaw in the decoder reaches neither the ledger nor the rest of the machine.", "R29 R30"),
    ("A row is closed by PUBACK with reason 0x00 alone; there is no fallback to MQTT 3.1.1.", "R5 R31"),
    ("A worker that does not start says so at the MES, and why.", "R33"),
)

PREAMBLE = """# Reliability: what was done to the line, and what it did

Written by the harness itself (`make torture-full`, or `--report`); do not edit. Each row is a fault brought upon the
real daemon process, with a real mosquitto and a separate subscriber process. A generator lists the scans it writes; a
checker, which shares no code with the daemon, compares that list with the ledger and with the messages received. The
networks are a deterministic stub (the score is a checksum of the converted pixels), loaded from a kind of model that
the production program refuses. *Lost*: listed, not received. *Contradictory*: one verdict id, two different payloads.
*Duplicated*: the same bytes more than once, which the contract allows.

The harness can fail: `tests/torture/test_harness_catches.py` builds in defects on purpose, and each turns its row
red.

<!-- contents: made by `make docs` -->
<!-- end of contents -->
"""


def write_report(rows: Sequence[Row], path: Path) -> None:
    """Markdown at `path`, plots beside it as `<name>-load.png`."""
    by_id = {row.id: row for row in rows}
    days = sorted(row.ended_at for row in rows)
    seeds = ", ".join(sorted({str(row.seed) for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in program_versions().items())
    kernel = platform.release().partition("-")[0]  # what follows names a machine, not the kernel
    lines = [
        PREAMBLE,
        f"- written {datetime.now(UTC):%Y-%m-%d}; rows from {days[0]} to {days[-1]}; seed: {seeds}",
        f"- {_columns(rows)}",
        f"- versions: {versions}; {platform.system()} {kernel}, {len(os.sched_getaffinity(0))} cores",
        "- replay a row: `python -m tests.torture --column long --rows R1 --seed SEED`",
        "",
        "## Promises",
        "",
        "| promise | rows that prove it | state |",
        "|---|---|---|",
        *(f"| {text} | {names} | {_state(names.split(), by_id)} |" for text, names in PROMISES),
        "",
        "## Faults",
        "",
        "| row | fault | column | tried | lost | duplicated | contradictory | recovery, s | verdict | took, s | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        "*Recovery*: the longest time from the end of the fault until the last scan had its verdict at the MES.",
        "*Late*: nothing was lost or contradicted, but a bar of time was missed. *Load*: the machine's load average",
        "when the row ended, other work on it included. Times under a load far above the number of cores say little",
        "about the line: a late row is worth a replay on a quiet machine.",
        "",
        "## Figures and remarks",
        "",
        *(_figures(row) for row in rows if row.figures or row.reason),
    ]
    plotted = [row for row in rows if "series" in row.figures]
    if plotted:
        picture = path.with_name(f"{path.stem}-load.png")
        _plot(plotted, picture)
        lines += ["", "## Over time", "", f"![memory, descriptors and rate over time]({picture.name})"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _state(names: list[str], by_id: dict[str, Row]) -> str:
    verdicts = {name: by_id[name].verdict if name in by_id else "not run" for name in names}
    others = [f"{name} {verdict}" for name, verdict in verdicts.items() if verdict != "pass"]
    brief = [name for name in names if name in by_id and by_id[name].column == "short"]
    said = "; ".join(others) if others else "all pass"
    return f"{said} ({', '.join(brief)} short)" if brief else said


def _columns(rows: Sequence[Row]) -> str:
    """Which rows have not run at their full length."""
    brief = [row.id for row in rows if row.column == "short"]
    if not brief:
        return "every row at its full length"
    if len(brief) == len(rows):
        return "the short column: no row at its full length"
    return f"at full length, save {', '.join(brief)}: those as in the short column"


def _line(row: Row) -> str:
    recovery = "" if row.slowest_recovery_s is None else f"{row.slowest_recovery_s:.1f}"
    counts = f"{row.tried} | {row.lost} | {row.duplicated} | {row.contradictory}"
    verdict = row.verdict if row.verdict == "pass" else f"**{row.verdict}**"
    times = f"{row.took_s:.0f} | {'' if row.load_average is None else row.load_average}"
    return f"| {row.id} | {row.fault} | {row.column} | {counts} | {recovery} | {verdict} | {times} |"


def _figures(row: Row) -> str:
    figures = "; ".join(f"{_words(name)} {_value(value)}" for name, value in row.figures.items() if name != "series")
    return f"- **{row.id}** " + " - ".join(part for part in (figures, row.reason) if part)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {count}" for key, count in value.items()) + ")"
    return str(value)


def _plot(rows: Sequence[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 3, figsize=(12, 3 * len(rows)), squeeze=False, layout="constrained")
    for panels, row in zip(axes, rows, strict=True):
        series = row.figures["series"]
        minutes = [point["at_s"] / 60 for point in series]
        spans = itertools.pairwise(series)
        rates = [(b["verdicts"] - a["verdicts"]) / max(0.1, b["at_s"] - a["at_s"]) for a, b in spans]
        panels[0].plot(minutes, [point["own_mb"] for point in series])
        panels[0].set_ylim(bottom=0)
        panels[0].set_title(f"{row.id} {row.fault}: memory, MB")
        panels[1].plot(minutes, [point["fds"] for point in series], label="descriptors")
        panels[1].plot(minutes, [point["threads"] for point in series], label="threads")
        panels[1].plot(minutes, [point["wal_mb"] for point in series], label="write-ahead log, MB")
        panels[1].set_ylim(bottom=0)
        panels[1].legend()
        panels[2].plot(minutes[1:], rates)
        panels[2].set_ylim(bottom=0)
        panels[2].set_title("verdicts received per second")
        for panel in panels:
            panel.set_xlabel("minutes")
    figure.savefig(path, dpi=80)
    plt.close(figure)
