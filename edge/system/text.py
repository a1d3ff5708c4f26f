"""Text that people write with any editor, and text that is written for them."""

from __future__ import annotations

import codecs
import math
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the process that unpacks writes logs, and starts without pydantic
    from pydantic import ValidationError

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_THIN_SPACE = "\u202f"
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


def first_error(invalid: ValidationError, everything: str) -> str:
    """The first thing wrong and how many more: `times.decided_at: Field required (and 2 more)`.

    `everything` stands for the field where none is to blame.
    """
    first = invalid.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"])) or everything
    more = f" (and {invalid.error_count() - 1} more)" if invalid.error_count() > 1 else ""
    return f"{field}: {first['msg'].removeprefix('Value error, ')}{more}"


def visible(text: str) -> str:
    r"""Other people's words with their control and formatting characters as `\u202e`: what is read is what is there."""
    if text.isprintable():  # which says no of some more characters: those are looked at one by one
        return text
    return "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in UNSEEN else char for char in text)


def speakable(value: object) -> object:
    r"""Text whose lone surrogates, which neither JSON nor SQLite can take, have become `\udcff`; others as they are."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def rfc3339(moment: datetime) -> str:
    """`2026-03-01T12:34:56.789Z`; the moment must know its time zone."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole(count: int) -> str:
    """A count with its thousands set apart."""
    return f"{count:,}".replace(",", _THIN_SPACE)


def percent(share: float | None) -> str:
    """A share of 0 to 1 in percent; a dash where there is none."""
    return "—" if share is None or math.isnan(share) else f"{share * 100:.1f}{_THIN_SPACE}%"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never as a power of ten; a dash where there is no value."""
    if value is None:
        return "—"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    return f"{value:,.{min(places, 4)}f}".replace(",", _THIN_SPACE)
