"""Names of files: which are looked at, and as text that JSON, logs and screens can take."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from edge.system.text import UNSEEN

SCAN_SUFFIXES = (".tif", ".tiff")
"""How the name of a scan ends, in any case of its letters."""

IGNORED_STARTS = (".", "~")
"""Hidden files and folders, and drafts of other programs."""

IGNORED_FOLDERS = frozenset({"$recycle.bin", "lost+found", "system volume information"})
"""What file systems put into their top folder, in any case of the letters: deleted files, private places."""


def is_scan_name(name: str) -> bool:
    """Whether a file of this name is taken for a scan."""
    return name.lower().endswith(SCAN_SUFFIXES)


def finds_again(home: Path, target: Path, *, recursive: bool) -> bool:
    """Whether one who looks for scans in `home` finds those that are moved to `target`; by the names, asks no disk.

    Each moved scan would be judged again, and moved one level deeper, without end.
    """
    if not target.is_relative_to(home):
        return False
    levels = target.relative_to(home).parts
    return not any(level.startswith(IGNORED_STARTS) for level in levels) and (recursive or not levels)


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
    if unicodedata.category(char) in UNSEEN:
        return f"\\u{ord(char):04x}"
    return char
