"""Log lines: JSON with stable keys on a pipe, short human lines on a terminal.

An event is logged as `log.info("scan judged", extra={"fields": {...}})`: the message is a constant, what
varies are fields. Control characters never reach the output, so a file name cannot forge a line.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `event`, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update(getattr(record, FIELDS, {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)  # ASCII: lone surrogates and control characters are escaped


class TextFormatter(logging.Formatter):
    """`12:34:56 INFO  scan judged  file=B01_0003.tif outcome=normal`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{key}={_bare(value)}" for key, value in getattr(record, FIELDS, {}).items())
        line = f"{clock} {record.levelname:<7} {_printable(record.getMessage())}" + (f"  {fields}" if fields else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(level: str, style: Literal["auto", "json", "text"], stream: TextIO | None = None) -> None:
    """Send every log record to `stream` (stderr by default) in one style."""
    output = sys.stderr if stream is None else stream
    as_text = style == "text" or (style == "auto" and output.isatty())
    handler = logging.StreamHandler(output)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bare(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = _printable(text)
    return f'"{text}"' if " " in text else text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
