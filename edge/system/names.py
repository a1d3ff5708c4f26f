"""File names as text that JSON, logs and screens can take."""

from __future__ import annotations

import re
import unicodedata

SCAN_SUFFIXES = (".tif", ".tiff")
"""In any case of their letters: what a file is called that is a scan."""


def display_name(file: str) -> str:
    r"""The file as unambiguous, well-formed text.

    A name may hold any byte but NUL and `/`. Python carries bytes that are not UTF-8 as lone surrogates,
    which neither JSON nor SQLite text can take: they become `\xff`. Control and formatting characters
    become `\u000a`; so that two names never look the same, a backslash becomes two. All other names,
    nearly all in practice, stay what they are.
    """
    if file.isascii() and file.isprintable() and "\\" not in file:
        return file
    return re.sub(r"[^ -\[\]-~]", _escape, file)


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char == "\\":
        return "\\\\"
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return f"\\u{ord(char):04x}"
    return char
