"""Log events: fields in journald, JSON with stable keys on a pipe, short human lines on a terminal.

An event is `event(log.info, "scan judged", file=…, outcome=…)`: the message is a constant, what varies are fields.
Control characters never reach the output, so a file name cannot forge a line. All times are UTC. A reader
that stands still loses lines, and is told how many; no scan waits for it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import socket
import struct
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from edge.system.text import rfc3339

FIELDS = "fields"
JOURNAL_SOCKET = "/run/systemd/journal/socket"
PATIENCE_S = 0.2
"""How long a line waits for the reader of the log."""
PRIORITIES = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
"""Level to the priority of syslog(3), which `journalctl -p` filters by."""
COLOURS = {"CRITICAL": "1;31", "ERROR": "31", "WARNING": "33", "INFO": "32", "DEBUG": "2"}
OWN_FIELDS = frozenset({"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER", "EVENT", "EXCEPTION"})
"""Fields of every journal entry; an event's field of such a name gets `EVENT_` before it."""


def event(say: Callable[..., None], message: str, /, **fields: object) -> None:
    """Log an event through a logger's method such as `log.info`: a constant message, and fields for what varies."""
    say(message, extra={FIELDS: fields}, stacklevel=2)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `event`, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update(getattr(record, FIELDS, {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)  # ASCII: lone surrogates and control characters are escaped


class TextFormatter(logging.Formatter):
    """`2026-03-01T12:34:56.789Z INFO    scan judged  file=B01_0003.tif outcome=normal`; the fields are logfmt."""

    def __init__(self, *, has_colour: bool = False) -> None:
        super().__init__()
        self._has_colour = has_colour

    def format(self, record: logging.LogRecord) -> str:
        name = record.levelname
        level = self._colour(f"{name:<7}", COLOURS.get(name, "0"))
        said = self._colour(_printable(record.getMessage()), "1")
        fields = " ".join(f"{self._colour(key + '=', '2')}{value}" for key, value in _readable(record))
        line = f"{self._colour(_timestamp(record), '2')} {level} {said}" + (f"  {fields}" if fields else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def _colour(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._has_colour else text


class PrefixedFormatter(logging.Formatter):
    """Another formatter's lines, each after the `<priority>` that journald takes from standard error."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{PRIORITIES.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in self._inner.format(record).splitlines())


class _BoundedHandler(logging.Handler):
    """Waits a moment for a reader that is behind; then it drops and counts, without another wait, until one reads."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost and self._send(_loss(self._lost), 0.0):
                self._lost = 0
            if self._lost or not self._send(record, PATIENCE_S):
                self._lost += 1
        except (OSError, TypeError, ValueError, KeyError):  # of a full disk, or of a library's own words
            self.handleError(record)

    @abstractmethod
    def _send(self, record: logging.LogRecord, patience_s: float) -> bool:
        """Write one record; False if it was not taken within the patience. Raises OSError."""


class PipeHandler(_BoundedHandler):
    """Lines for what stands behind a file descriptor: a pipe, a terminal, a file."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._is_torn = False
        """Whether the last line ended before its end: the next one must not go on in it."""
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def _send(self, record: logging.LogRecord, patience_s: float) -> bool:
        line = ("\n" * self._is_torn + self.format(record) + "\n").encode("utf-8", "backslashreplace")
        # A pipe that is ready takes so much at once. Its own flags stay: others may share it.
        for start in range(0, len(line), select.PIPE_BUF):
            if not self._poll.poll(1e3 * patience_s):
                self._is_torn |= start > 0
                return False
            os.write(self._fd, line[start : start + select.PIPE_BUF])
        self._is_torn = False
        return True


class JournalHandler(_BoundedHandler):
    """Entries with fields for journald, by its own protocol (systemd.io, "Native Journal Protocol").

    `fallback` gets what journald does not take. `program`: whose entries they are, for `journalctl -t`.
    """

    def __init__(self, program: str, fallback: logging.Handler, address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._program = program
        self._fallback = fallback
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def _send(self, record: logging.LogRecord, patience_s: float) -> bool:
        entry, until_s = _journal_entry(self._program, record), time.monotonic() + patience_s
        while True:
            try:
                self._socket.sendto(entry, socket.MSG_DONTWAIT, self._address)
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    return False
                time.sleep(0.01)
            except OSError:
                self._fallback.handle(record)
                return True
            else:
                return True

    def close(self) -> None:
        self._socket.close()
        super().close()


def configure_logging(
    level: str,
    style: Literal["auto", "json", "text"],
    *,
    program: str = "edge-worker",
    stream: TextIO | None = None,
    journal_stream: str | None = None,
    has_colour: bool = True,
) -> None:
    """Send every log record to `stream` (stderr by default), or by `auto` to the journal that reads it.

    `journal_stream`: what systemd says of the stream that the journal reads, device and inode as `8:12345`.
    """
    output = sys.stderr if stream is None else stream
    is_journal = leads_to_journal(output, journal_stream)
    as_text = style == "text" or (style == "auto" and output.isatty())
    formatter = TextFormatter(has_colour=has_colour and output.isatty()) if as_text else JsonFormatter()
    fd = _fd_of(output)
    handler: logging.Handler = logging.StreamHandler(output) if fd is None else PipeHandler(fd)
    handler.setFormatter(PrefixedFormatter(formatter) if is_journal else formatter)
    if is_journal and style == "auto":
        handler = JournalHandler(program, handler)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def leads_to_journal(stream: TextIO, journal_stream: str | None) -> bool:
    """Whether journald reads the stream, and not a file or pipe that it was redirected to since."""
    if journal_stream is None:
        return False
    fd = _fd_of(stream)
    if fd is None:
        return False
    status = os.fstat(fd)
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _fd_of(stream: TextIO) -> int | None:
    """The open file behind a stream; None where there is none."""
    try:
        os.fstat(fd := stream.fileno())
    except (OSError, ValueError):
        return None
    return fd


def _loss(lines: int) -> logging.LogRecord:
    lost = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log lines lost", None, None)
    lost.__dict__[FIELDS] = {"lines": lines, "hint": "who reads the log fell behind: look at journald and its disk"}
    return lost


def _journal_entry(program: str, record: logging.LogRecord) -> bytes:
    message = _printable(record.getMessage())
    shown = "  ".join(
        [message, *([text] if (text := " ".join(f"{key}={value}" for key, value in _readable(record))) else [])]
    )
    entry = {
        "PRIORITY": str(PRIORITIES.get(record.levelname, 6)),
        "SYSLOG_IDENTIFIER": program,
        "LOGGER": record.name,
        "EVENT": message,
        "MESSAGE": shown,
    }
    for key, value in getattr(record, FIELDS, {}).items():
        name = re.sub(r"[^A-Z0-9_]", "_", str(key).upper()).lstrip("_0123456789")[:56]
        if name and value is not None:
            entry[f"EVENT_{name}" if name in OWN_FIELDS else name] = _plain(value)
    if record.exc_info:
        entry["EXCEPTION"] = logging.Formatter().formatException(record.exc_info)
        entry["MESSAGE"] += f"\n{entry['EXCEPTION']}"
    return b"".join(_journal_field(name, value.encode("utf-8", "backslashreplace")) for name, value in entry.items())


def _journal_field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _timestamp(record: logging.LogRecord) -> str:
    return rfc3339(datetime.fromtimestamp(record.created, UTC))


def _readable(record: logging.LogRecord) -> list[tuple[str, str]]:
    """The event's fields for people, as logfmt; what is None is left out."""
    fields = getattr(record, FIELDS, {})
    return [(key, _quote(_plain(value))) for key, value in fields.items() if value is not None]


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ",".join(_plain(each) for each in value)
    if isinstance(value, bool | int | dict):
        return json.dumps(value, default=str)
    return str(value)


def _quote(text: str) -> str:
    if re.fullmatch(r'[^\s="\\]+', text) and text.isprintable():
        return text
    return f'"{_printable(text.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34)))}"'


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
