"""The broker's password: the first line of a file, read anew for every connection."""

from __future__ import annotations

from pathlib import Path

from edge.system.files import read_named
from edge.system.text import NotUtf8, utf8_text

MAX_FILE_BYTES = 65_535
"""MQTT takes no longer password."""


def read_password(path: Path | None) -> str | None:
    """Raises OSError, NotUtf8 naming the file."""
    if path is None:
        return None
    try:
        return utf8_text(read_named(path, MAX_FILE_BYTES)).partition("\n")[0].rstrip("\r")
    except NotUtf8 as error:
        raise NotUtf8(f"`broker.password_file` {path} is {error}") from None
