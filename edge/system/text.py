"""Text files that people write with any editor."""

from __future__ import annotations

import codecs

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotUtf8(ValueError):
    """The bytes are not UTF-8; the message completes the sentence "the file is …"."""


def utf8_text(data: bytes) -> str:
    """Decode UTF-8, without the byte order mark that some editors put before it. Raises NotUtf8."""
    if data.startswith(_UTF_16) or b"\0" in data[:200]:
        raise NotUtf8("UTF-16, not UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NotUtf8(f"not UTF-8 (byte 0x{data[error.start]:02x} in line {line})") from None
