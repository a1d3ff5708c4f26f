"""Parts of the reports: tables as Markdown, rates and intervals as text and for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from edge.validation.lots import WorstLot
from edge.validation.statistics import Rate

BAR = "\\|"
"""A bar in a cell, as the name of a lot or a recipe may have one."""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    return [_line(heads), "|---" * len(heads) + "|", *map(_line, rows)]


def percent_span(interval: Sequence[float]) -> str:
    """The ends of an interval of shares, in %."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def span_over(interval: Sequence[float] | None, clusters: int, what: str) -> str:
    """An interval over lots, welds or films (`what`) with their number, in %; of one there is no interval."""
    if interval is None or clusters < 2:
        return f"no interval: {clusters} {what}"
    return f"{percent_span(interval)}, {clusters} {what}s"


def worst_of(worst: WorstLot | None) -> str:
    """The worst lot, weld or film with its errors."""
    return "none" if worst is None else f"{worst.lot}: {worst.errors} of {worst.scans}"


def worst_values(worst: WorstLot | None) -> dict[str, Any] | None:
    """The worst lot for JSON; None where none has an error."""
    return None if worst is None else {"lot": worst.lot, "errors": worst.errors, "scans": worst.scans}


def finite(value: float) -> float | None:
    """The value for JSON, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def rate_values(rate: Rate) -> dict[str, Any]:
    """Counts, share and 95 % interval for JSON."""
    return {"hits": rate.hits, "total": rate.total, "share": finite(rate.share), "interval": list(rate.interval)}


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', BAR) for cell in cells)} |"
