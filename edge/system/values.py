"""Values that people write into settings or commands: checked, in words that say what to write instead; and as TOML."""

from __future__ import annotations

import ipaddress
import json
import re

MAX_SEQ = 2**53 - 1
"""Greatest sequence number: every reader of JSON keeps it exact, and SQLite holds it."""


def toml_value(value: object) -> str:
    """A default as TOML writes it; empty for None, which TOML cannot say."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    text = str(value)
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML string


def display(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def check_expression(value: str) -> str:
    """A regular expression. Raises ValueError with what is wrong with it."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


def check_topic_level(value: str) -> str:
    """One MQTT topic level: not empty, no wildcard, separator, space or control character."""
    if not value or re.search(r"[\s+#/$\x00-\x1f\x7f]", value):
        raise ValueError("must be one topic level: not empty, without space, +, #, /, $ or control characters")
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(value: str) -> str:
    """The name or address of a host, and nothing around it. Raises ValueError that says what to write."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        return value
    if not re.search(r"[\s:/@\[\]]", value):
        return value
    parts = re.fullmatch(
        r"(?:(?P<scheme>[A-Za-z][\w+.-]*)://)?(?:[^@/]*@)?(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:/\[\]\s]*))"
        r"(?::(?P<port>\d*))?(?:/.*)?",
        value.strip(),
    )
    name = (parts["address"] or parts["name"]) if parts is not None else ""
    if parts is None or not name:
        raise ValueError("is neither the name nor the address of a host")
    advice = f'host = "{name}"' + (f", port = {parts['port']}" if parts["port"] else "")
    if (parts["scheme"] or "").lower() in ("mqtts", "ssl", "tls"):
        advice += ", tls = true"
    raise ValueError(f"must be a name or an address alone: write {advice}")
